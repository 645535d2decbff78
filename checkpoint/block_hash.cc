#include "checkpoint/block_hash.h"

#include <xxhash.h>

namespace starling::checkpoint {

BlockHash HashBlock(std::span<const std::byte> bytes, uint64_t seed) {
  const XXH128_hash_t hash = XXH3_128bits_withSeed(bytes.data(), bytes.size(), seed);
  return {hash.low64, hash.high64};
}

}  // namespace starling::checkpoint
