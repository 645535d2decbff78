#pragma once

#include <algorithm>
#include <array>
#include <limits>

#include "predictor/forecaster.h"
#include "runtime/decisions/situation.h"

namespace starling::decisions {

// The quantiles (kLevels) of what a median and an interval's upper bound (which is P95) are known
// of: between the two they are taken to lie as a normal distribution's do, and P99 beyond likewise.
inline std::array<double, kLevelCount> Quantiles(const predictor::Forecast& forecast) {
  // 0.674, 1.282, 1.645 and 2.326 standard deviations, over the third.
  constexpr std::array<double, kLevelCount> kShare = {0, 0.41006, 0.77913, 1, 1.41431};
  static_assert(kLevels[0] == 0.5 && kLevels[3] == 0.95);
  const double spread = std::max(0.0, forecast.high - forecast.median);
  std::array<double, kLevelCount> quantiles;
  for (size_t q = 0; q < kLevelCount; ++q) {
    quantiles[q] = std::max(0.0, forecast.median + kShare[q] * spread);
  }
  return quantiles;
}

// What a forecaster, an aggregate or a summary says, as decisions want it. `most`: what cannot be
// exceeded whatever a forecast says: the component's own limit, or all that the host has.
inline Outlook OutlookOf(double now,
                         const predictor::Forecast (&forecasts)[predictor::kHorizonCount],
                         double most = std::numeric_limits<double>::infinity()) {
  Outlook outlook;
  outlook.now = now;
  for (size_t h = 0; h < predictor::kHorizonCount; ++h) {
    outlook.at[h] = Quantiles(forecasts[h]);
    for (double& value : outlook.at[h]) value = std::min(value, std::max(most, now));
  }
  return outlook;
}

}  // namespace starling::decisions
