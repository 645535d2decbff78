#pragma once

#include <array>
#include <cstdint>

#include "predictor/forecaster.h"
#include "predictor/online_net.h"

// Whether a metric that is below its limit now will be above it a horizon from now.

namespace starling::predictor {

inline constexpr int kOnsetFeatures = 28;
using OnsetFeatures = float[kOnsetFeatures];

// What a metric's own forecaster says of the limit: the share of past errors that would bring its
// experts' forecasts, each by its weight, and the regression's alone, above it.
struct OnsetOdds {
  double mixed = 0;
  double regression = 0;
};
OnsetOdds OddsAbove(const Forecaster& forecaster, int horizon, double limit);

// One metric beside its limit: how often and how long ago it was above.
class OnsetWatch {
 public:
  explicit OnsetWatch(double limit) : limit_(limit) {}

  void Step(double value);
  double limit() const { return limit_; }
  // From the forecaster's last step, which this watch has seen too.
  void Features(const Forecaster& forecaster, int horizon, OnsetFeatures& x) const;

 private:
  static constexpr int kPast = 16;
  double limit_;
  float past_[kPast] = {};
  uint32_t steps_ = 0;
  uint32_t since_ = 1000;         // steps since it was above
  float often_ = 0, lately_ = 0;  // share of steps above, over about 300 and 20
  float rises_ = 0;               // of crossings from below, over about 300
};

// Learned from all components of a host, one net a horizon.
class OnsetModel {
 public:
  OnsetModel();
  // How likely it is, from what is learned of all components and what this one's forecaster says: a
  // score between 0 and 1 to be compared with a threshold.
  double Score(int horizon, const OnsetFeatures& x, const OnsetOdds& odds) const;
  void Learn(int horizon, const OnsetFeatures& x, bool above);

 private:
  std::array<OnlineNet<kOnsetFeatures, 8>, kHorizonCount> nets_;
  std::array<uint64_t, kHorizonCount> lessons_ = {};
};

}  // namespace starling::predictor
