#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace starling::checkpoint {

// Largest block of content, of memory and of files, that is hashed, compared and stored as one.
// Blocks lie at multiples of this, in their file or address space.
inline constexpr size_t kBlockBytes = 64 * 1024;

// XXH3 (128 bits). With a seed that nobody else knows, so that no client of a component can make up
// content that passes for another.
struct BlockHash {
  uint64_t low = 0;
  uint64_t high = 0;
  friend auto operator<=>(const BlockHash&, const BlockHash&) = default;
  template <typename H>
  friend H AbslHashValue(H state, const BlockHash& hash) {
    return H::combine(std::move(state), hash.low, hash.high);
  }
};

BlockHash HashBlock(std::span<const std::byte> bytes, uint64_t seed);

}  // namespace starling::checkpoint
