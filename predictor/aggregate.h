#pragma once

#include "predictor/conformal.h"
#include "predictor/forecaster.h"
#include "predictor/horizons.h"

namespace starling::predictor {

// The sum of one metric over the components of a host, or over the hosts of a pool. Its interval is
// the sum's own: parts that move apart cancel out, parts that move together do not, and neither is
// assumed. A few hundred bytes; no allocation.
//
// Each step: Add() for every part, then End().
class Aggregate {
 public:
  // A part's value and forecasts.
  void Add(double value, const Forecast (&forecasts)[kHorizonCount]);
  // A part came or went: outcomes of forecasts made before say nothing of the sum as it is now.
  void Changed() { unlike_ = kLongest; }
  void End();

  double value() const { return value_; }
  Forecast At(int horizon) const { return now_[horizon]; }
  // Sum of the parts' own intervals' widths, for comparison.
  double naive_width(int horizon) const { return naive_width_[horizon]; }
  double coverage(int horizon) const { return intervals_[horizon].coverage(); }

 private:
  Conformal intervals_[kHorizonCount] = {Conformal(0), Conformal(1), Conformal(2)};
  DelayLine medians_, lows_, highs_, scales_;
  Forecast sum_[kHorizonCount], now_[kHorizonCount];
  double adding_ = 0, value_ = 0;
  double adding_width_[kHorizonCount] = {}, naive_width_[kHorizonCount] = {};
  double least_ = 0, most_ = 0;  // of the sum, lately
  int place_[kHorizonCount] = {};
  int unlike_ = 0;
  uint64_t steps_ = 0;
};

}  // namespace starling::predictor
