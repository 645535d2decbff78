#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace starling {

// XXH3, 64 bits (xxHash 0.8, XXH3_64bits_withSeed). Thread-safe.
//
// The library's code is built for each width of registers, and what is fastest here is found by a
// trial of some 100 us at the first call: what a processor announces says little. An emulated one
// has AVX2 and takes three times as long with it as with plain registers.
uint64_t Xxh3(std::span<const std::byte> bytes, uint64_t seed = 0);
inline uint64_t Xxh3(const void* bytes, size_t size, uint64_t seed = 0) {
  return Xxh3({static_cast<const std::byte*>(bytes), size}, seed);
}

namespace internal {

// One way to work out the same hash.
struct Xxh3Variant {
  const char* name;
  uint64_t (*hash)(const void* bytes, size_t size, uint64_t seed);
};

// Those that this processor can run.
std::span<const Xxh3Variant> Xxh3Variants();

}  // namespace internal
}  // namespace starling
