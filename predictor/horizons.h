#pragma once

#include <array>
#include <cstddef>

namespace starling::predictor {

// How many steps ahead forecasts look. What is kept between making a forecast and knowing its
// outcome is laid out for these at compile time.
inline constexpr std::array<int, 3> kHorizons = {1, 6, 12};
inline constexpr int kHorizonCount = static_cast<int>(kHorizons.size());
inline constexpr int kLongest = kHorizons.back();
static_assert(kHorizons[0] < kHorizons[1] && kHorizons[1] < kHorizons[2]);

// One value a horizon, kept until its outcome is known: horizon i owns kHorizons[i] places, and the
// place of step t is read just before step t + kHorizons[i] overwrites it.
class DelayLine {
 public:
  static constexpr std::array<int, 3> kStart = {0, kHorizons[0], kHorizons[0] + kHorizons[1]};
  static constexpr int kSize = kHorizons[0] + kHorizons[1] + kHorizons[2];

  float& at(int horizon, int place) { return values_[kStart[horizon] + place]; }
  float at(int horizon, int place) const { return values_[kStart[horizon] + place]; }

 private:
  float values_[kSize] = {};
};

}  // namespace starling::predictor
