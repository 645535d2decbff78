#pragma once

#include <array>
#include <string>

#include "predictor/aggregate.h"
#include "predictor/summary.h"
#include "runtime/decisions/situation.h"
#include "runtime/proto/loop.pb.h"

namespace starling::loop {

// Quantiles (decisions::kLevels) of which a median and the upper bound of the 90 % interval are
// known: as of a normal distribution between them, and never below 0.
std::array<double, decisions::kLevelCount> Quantiles(const predictor::Forecast& forecast);

// One resource, all components of a host together, or all hosts of a pool: what it will be, and how
// far what was said before was off. Not thread-safe.
class JointDemand {
 public:
  // A step: Add() for each part, then End().
  void Add(double value, const predictor::Forecast (&forecasts)[predictor::kHorizonCount]) {
    sum_.Add(value, forecasts);
  }
  // A part came or went.
  void Changed();
  void End();

  decisions::Outlook outlook() const;
  // Values times `scale`, as people read them.
  v1::MetricForecast Show(const std::string& metric, double scale, double capacity,
                          double step_s) const;
  // All of it as a message that predictor::ReadSummary reads.
  std::string Message() const;

 private:
  static constexpr double kKeep = 0.99;  // of an error's weight, a step later

  predictor::Aggregate sum_;
  predictor::DelayLine medians_;
  std::array<int, predictor::kHorizonCount> place_ = {};
  std::array<double, predictor::kHorizonCount> error_ = {}, weight_ = {};
  std::array<uint32_t, predictor::kHorizonCount> outcomes_ = {};
  uint64_t steps_ = 0;
  int unlike_ = 0;  // steps whose outcomes say nothing: a part came or went
};

}  // namespace starling::loop
