// One build of the library's XXH3: XXH3_VARIANT is its function, XXH_VECTOR the registers used.
// Included by xxh3_*.cc alone, each built with the flags of its registers.

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstddef>
#include <cstdint>

namespace starling::internal {

uint64_t XXH3_VARIANT(const void* bytes, size_t size, uint64_t seed);

uint64_t XXH3_VARIANT(const void* bytes, size_t size, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes, size, seed);
}

}  // namespace starling::internal
