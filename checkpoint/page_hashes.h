#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/container/btree_map.h"
#include "checkpoint/page_stream.h"

namespace starling::checkpoint {

// Hashes (XXH3, 64 bits) of pages, by address space and address, for knowing a page again. 8 bytes
// for each page. Not thread-safe.
class PageHashes {
 public:
  // What is beyond `most_pages` is not remembered.
  explicit PageHashes(uint64_t most_pages = ~uint64_t{0}) : most_pages_(most_pages) {}

  static uint64_t Of(std::span<const std::byte> page);  // never 0

  // 0: not known. `address`: a multiple of the page size.
  uint64_t Find(const AddressSpace& space, uint64_t address) const;
  void Set(const AddressSpace& space, uint64_t address, uint64_t hash);
  void Erase(const PageRun& run);
  void Drop(const AddressSpace& space);
  void Clear();
  bool Knows(const AddressSpace& space) const { return spaces_.contains(space); }

 private:
  static constexpr uint64_t kBlockPages = 512;
  using Block = std::array<uint64_t, kBlockPages>;
  using Blocks = absl::btree_map<uint64_t, std::unique_ptr<Block>>;

  const uint64_t most_pages_;
  uint64_t pages_ = 0;  // that the blocks have room for
  absl::btree_map<AddressSpace, Blocks> spaces_;
};

}  // namespace starling::checkpoint
