#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace starling::witness {

// What a key holds after write `number`: the number (8 bytes, little-endian), then bytes drawn from
// (seed, key, number), which no compressor makes smaller. Anybody who knows the three can tell
// whether a value is right. `size` is at least kSmallestValue.
inline constexpr size_t kSmallestValue = 16;
std::string MakeValue(uint64_t seed, uint32_t key, uint64_t number, size_t size);

// The number a value claims to be of; nothing if it is too short.
std::optional<uint64_t> NumberIn(absl::string_view value);

// A small seeded generator (SplitMix64, Steele et al. 2014): equal seeds give equal runs on every
// machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next();
  // Uniform in [0, bound), up to a bias below bound / 2^64. bound > 0.
  uint64_t Below(uint64_t bound);
  double Share();  // [0, 1)

 private:
  uint64_t state_;
};

}  // namespace starling::witness
