#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "predictor/forecaster.h"
#include "runtime/decisions/outlook.h"

namespace starling::decisions {

// One resource of all components of a host together, while components come and go: the sum of their
// medians, and above it the root of the sum of their squared intervals, times a factor that is
// learned so that P95 of the next step holds: what the sum's errors lately were beside such roots,
// times how far the tail reaches beyond a usual error. predictor::Aggregate is the better one where
// parts stay the same: it learns from the sum's own errors, and so says little for a dozen steps
// after each change.
//
// Each step: Add() for every component, then End(). Between steps Join() and Leave() for what comes
// and goes, so that the next decision sees what the last one did; or Changed() where that is not
// known apart. A few hundred bytes, no allocation.
class JointDemand {
 public:
  static constexpr double kUnlimited = std::numeric_limits<double>::infinity();
  using Forecasts = predictor::Forecast[predictor::kHorizonCount];

  // `most`: what the component cannot exceed; see OutlookOf.
  void Add(double value, const Forecasts& forecasts, double most = kUnlimited) {
    adding_.Count(value, forecasts, most, 1);
  }
  void End() {
    if (std::exchange(unlike_, false)) {
      // What was said before was said of another sum. Factor() is a ratio, and stays.
    } else if (known_) {
      // Balanced where 5 % of the values lie above the bound.
      tail_ *= adding_.value > At().at[0][kP95] ? kUp : kDown;
      tail_ = std::clamp(tail_, kLeastTail, kMostTail);
      error_ += kRate * (std::abs(adding_.value - sum_.median[0]) - error_);
      width_ += kRate * (sum_.Width(0) - width_);
    } else {
      width_ = adding_.Width(0);
      error_ = kFirstError * width_;
      known_ = true;
    }
    sum_ = adding_;
    adding_ = {};
  }
  void Join(double value, const Forecasts& forecasts, double most = kUnlimited) {
    sum_.Count(value, forecasts, most, 1);
  }
  // With what it was added or joined with.
  void Leave(double value, const Forecasts& forecasts, double most = kUnlimited) {
    sum_.Count(value, forecasts, most, -1);
  }

  // Parts came or went without Join() and Leave(): the next step's error says nothing.
  void Changed() { unlike_ = known_; }

  double value() const { return sum_.value; }
  // Of 90 %, about as likely below as above.
  predictor::Forecast Interval(size_t horizon) const {
    const double width = Factor() * sum_.Width(horizon), median = sum_.median[horizon];
    return {median, std::max(0.0, median - width), median + width};
  }
  // As of the last End(), with what came and went since.
  Outlook At() const {
    Forecasts now;
    for (size_t h = 0; h < predictor::kHorizonCount; ++h) now[h] = Interval(h);
    return OutlookOf(sum_.value, now);
  }

 private:
  static constexpr double kUp = 1.1, kDown = 0.995;  // 1.1^0.05 = 1 / 0.995^0.95, nearly
  static constexpr double kLeastTail = 1, kMostTail = 8;
  static constexpr double kLeastFactor = 0.1, kMostFactor = 4;
  static constexpr double kRate = 0.1;        // of the usual error: a memory of about ten steps
  static constexpr double kFirstError = 0.5;  // of the first width, before there was an error
  static constexpr size_t kP95 = 3;           // of kLevels

  struct Sum {
    double value = 0;
    double median[predictor::kHorizonCount] = {}, square[predictor::kHorizonCount] = {};

    void Count(double of, const Forecasts& forecasts, double most, double sign) {
      value += sign * of;
      const double limit = std::max(most, of);
      for (size_t h = 0; h < predictor::kHorizonCount; ++h) {
        const double middle = std::clamp(forecasts[h].median, 0.0, limit);
        const double width = std::max(0.0, std::min(forecasts[h].high, limit) - middle);
        median[h] += sign * middle;
        square[h] += sign * width * width;
      }
    }
    double Width(size_t h) const { return std::sqrt(std::max(0.0, square[h])); }
  };

  double Factor() const {
    return width_ > 0 ? std::clamp(tail_ * error_ / width_, kLeastFactor, kMostFactor) : 1;
  }

  Sum adding_, sum_;
  bool known_ = false, unlike_ = false;
  double tail_ = 2.2;             // P95 over the mean absolute error: 2.06 of a normal distribution
  double error_ = 0, width_ = 0;  // means over the last steps
};

}  // namespace starling::decisions
