#pragma once

#include <algorithm>
#include <limits>

#include "predictor/forecaster.h"
#include "runtime/decisions/situation.h"

namespace starling::decisions {

// What a forecaster, an aggregate or a summary says, as decisions want it. Between the median and
// the interval's upper bound (which is P95) quantiles are taken to lie as a normal distribution's
// do, and P99 beyond it likewise. `most`: what cannot be exceeded whatever a forecast says: the
// component's own limit, or all that the host has.
inline Outlook OutlookOf(double now,
                         const predictor::Forecast (&forecasts)[predictor::kHorizonCount],
                         double most = std::numeric_limits<double>::infinity()) {
  // 0.674, 1.282, 1.645 and 2.326 standard deviations, over the third.
  constexpr std::array<double, kLevelCount> kShare = {0, 0.41, 0.779, 1, 1.414};
  Outlook outlook;
  outlook.now = now;
  for (size_t h = 0; h < predictor::kHorizonCount; ++h) {
    const predictor::Forecast& forecast = forecasts[h];
    for (size_t q = 0; q < kLevelCount; ++q) {
      const double value = forecast.median + kShare[q] * (forecast.high - forecast.median);
      outlook.at[h][q] = std::clamp(value, 0.0, std::max(most, now));
    }
  }
  return outlook;
}

}  // namespace starling::decisions
