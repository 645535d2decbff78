#pragma once

#include <algorithm>
#include <cmath>

#include "predictor/forecaster.h"
#include "runtime/decisions/outlook.h"

namespace starling::decisions {

// One resource of all components of a host together, while components come and go: the sum of their
// medians, and above it the root of the sum of their squared intervals, times a factor that is
// learned so that P95 of the next step holds. predictor::Aggregate is the better one where parts
// stay the same: it learns from the sum's own errors, and so says little for a dozen steps after
// each change.
//
// Each step: Add() for every component, then End(). A few hundred bytes, no allocation.
class JointDemand {
 public:
  void Add(double value, const predictor::Forecast (&forecasts)[predictor::kHorizonCount]) {
    adding_ += value;
    for (size_t h = 0; h < predictor::kHorizonCount; ++h) {
      median_[h] += forecasts[h].median;
      const double width = std::max(0.0, forecasts[h].high - forecasts[h].median);
      square_[h] += width * width;
    }
  }
  // A component came or went: what is known of the next step is not of the same ones.
  void Changed() { bound_ = -1; }
  void End() {
    value_ = adding_;
    // Balanced where 5 % of the values lie above the bound.
    if (bound_ >= 0) factor_ *= value_ > bound_ ? kUp : kDown;
    factor_ = std::clamp(factor_, kLeast, kMost);
    for (size_t h = 0; h < predictor::kHorizonCount; ++h) {
      const double width = factor_ * std::sqrt(square_[h]);
      now_[h] = {median_[h], median_[h] - width, median_[h] + width};
      median_[h] = square_[h] = 0;
    }
    adding_ = 0;
    bound_ = now_[0].high;
  }

  // As of the last End().
  Outlook At() const { return OutlookOf(value_, now_); }
  double factor() const { return factor_; }

 private:
  static constexpr double kUp = 1.1, kDown = 0.995;  // 1.1^0.05 = 1 / 0.995^0.95, nearly
  static constexpr double kLeast = 0.5, kMost = 4;

  double adding_ = 0, value_ = 0, bound_ = -1;
  double factor_ = 1.2;  // parts move together a little
  double median_[predictor::kHorizonCount] = {}, square_[predictor::kHorizonCount] = {};
  predictor::Forecast now_[predictor::kHorizonCount];
};

}  // namespace starling::decisions
