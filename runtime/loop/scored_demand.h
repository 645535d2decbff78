#pragma once

#include <array>
#include <string>

#include "predictor/horizons.h"
#include "predictor/summary.h"
#include "runtime/decisions/joint_demand.h"
#include "runtime/decisions/situation.h"
#include "runtime/proto/loop.pb.h"

namespace starling::loop {

// A joint demand (decisions::JointDemand) with a record beside it of how far what it said was off,
// as people and other hosts are told it. One resource, all components of a host together, or all
// hosts of a pool. Not thread-safe.
class ScoredDemand {
 public:
  // A step: Add() for each part, then End().
  void Add(double value, const predictor::Forecast (&forecasts)[predictor::kHorizonCount]) {
    joint_.Add(value, forecasts);
  }
  // A part came or went.
  void Changed();
  void End();

  decisions::Outlook outlook() const;
  // Values times `scale`, as people read them.
  v1::MetricForecast Show(const std::string& metric, double scale, double capacity,
                          double step_s) const;
  predictor::Summary Summary() const;
  // What of it moved since the writer's last message, as predictor::ReadSummary reads it: all of it
  // for a new writer; empty: nothing worth telling.
  std::string Changes(predictor::SummaryWriter& writer) const;

 private:
  static constexpr double kKeep = 0.99;  // of an error's weight, a step later

  decisions::JointDemand joint_;
  // What was said, until its outcome is there.
  predictor::DelayLine medians_, lows_, highs_;
  std::array<int, predictor::kHorizonCount> place_ = {};
  std::array<double, predictor::kHorizonCount> error_ = {}, covered_ = {}, weight_ = {};
  std::array<uint32_t, predictor::kHorizonCount> outcomes_ = {};
  uint64_t steps_ = 0;
  int unlike_ = 0;  // steps whose outcomes say nothing: a part came or went
};

}  // namespace starling::loop
