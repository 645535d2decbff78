#include "predictor/aggregate.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace starling::predictor {
namespace {

constexpr double kRangeKeep = 0.99;  // of the distance to a past extreme, a step later

}  // namespace

void Aggregate::Add(double value, const Forecast (&forecasts)[kHorizonCount]) {
  if (!std::isfinite(value)) return;
  adding_ += value;
  for (int i = 0; i < kHorizonCount; ++i) {
    if (!std::isfinite(forecasts[i].median)) continue;
    sum_[i].median += forecasts[i].median;
    const double width = forecasts[i].high - forecasts[i].low;
    if (std::isfinite(width)) adding_width_[i] += width;
  }
}

void Aggregate::End() {
  value_ = adding_;
  adding_ = 0;
  const bool first = steps_++ == 0;
  least_ = first ? value_ : std::min(value_, value_ + (least_ - value_) * kRangeKeep);
  most_ = first ? value_ : std::max(value_, value_ + (most_ - value_) * kRangeKeep);
  if (unlike_ > 0) --unlike_;
  for (int i = 0; i < kHorizonCount; ++i) {
    const int place = place_[i];
    if (steps_ > static_cast<uint64_t>(kHorizons[i]) && unlike_ == 0) {
      const double error = value_ - medians_.at(i, place);
      const bool missed = value_ < lows_.at(i, place) || value_ > highs_.at(i, place);
      intervals_[i].Learn(static_cast<float>(error), scales_.at(i, place), missed);
    }
    const double median = sum_[i].median;
    const Conformal::Offsets offsets =
        intervals_[i].Interval(static_cast<float>(std::max(0.0, median - least_)),
                               static_cast<float>(std::max(0.0, most_ - median)));
    now_[i] = {median, median + offsets.low, median + offsets.high};
    medians_.at(i, place) = static_cast<float>(median);
    // Rounded outwards, as they are compared with a sum in double precision.
    lows_.at(i, place) =
        std::nextafter(static_cast<float>(now_[i].low), -std::numeric_limits<float>::max());
    highs_.at(i, place) =
        std::nextafter(static_cast<float>(now_[i].high), std::numeric_limits<float>::max());
    scales_.at(i, place) = intervals_[i].scale();
    naive_width_[i] = adding_width_[i];
    adding_width_[i] = 0;
    sum_[i] = {};
    if (++place_[i] == kHorizons[i]) place_[i] = 0;
  }
}

}  // namespace starling::predictor
