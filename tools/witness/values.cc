#include "tools/witness/values.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace starling::witness {

static_assert(std::endian::native == std::endian::little,
              "values are stored as they lie in memory");

uint64_t Random::Next() {
  state_ += 0x9e3779b97f4a7c15;
  uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

uint64_t Random::Below(uint64_t bound) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(Next()) * bound) >> 64);
}

double Random::Share() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

std::string MakeValue(uint64_t seed, uint32_t key, uint64_t number, size_t size) {
  std::string value(std::max(size, kSmallestValue), '\0');
  std::memcpy(value.data(), &number, sizeof number);
  Random random(Random(Random(seed + key).Next() ^ number).Next());
  for (size_t at = sizeof number; at < value.size(); at += sizeof(uint64_t)) {
    const uint64_t word = random.Next();
    std::memcpy(value.data() + at, &word, std::min(sizeof word, value.size() - at));
  }
  return value;
}

std::optional<uint64_t> NumberIn(absl::string_view value) {
  uint64_t number = 0;
  if (value.size() < sizeof number) return std::nullopt;
  std::memcpy(&number, value.data(), sizeof number);
  return number;
}

}  // namespace starling::witness
