#include "runtime/loop/scored_demand.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace starling::loop {

using predictor::Forecast;
using predictor::kHorizonCount;
using predictor::kHorizons;

namespace {
constexpr float kFar = std::numeric_limits<float>::infinity();
}  // namespace

void ScoredDemand::Changed() {
  joint_.Changed();
  unlike_ = predictor::kLongest;
}

void ScoredDemand::End() {
  joint_.End();
  if (unlike_ > 0) --unlike_;
  for (int h = 0; h < kHorizonCount; ++h) {
    const auto i = static_cast<size_t>(h);
    if (steps_ >= static_cast<uint64_t>(kHorizons[i]) && unlike_ == 0) {
      const double value = joint_.value();
      error_[i] = kKeep * error_[i] + std::abs(value - medians_.at(h, place_[i]));
      covered_[i] = kKeep * covered_[i] +
                    (value >= lows_.at(h, place_[i]) && value <= highs_.at(h, place_[i]) ? 1 : 0);
      weight_[i] = kKeep * weight_[i] + 1;
      ++outcomes_[i];
    }
    const Forecast now = joint_.Interval(i);
    medians_.at(h, place_[i]) = static_cast<float>(now.median);
    // Outwards by a rounding of theirs, or what does not move would lie outside.
    lows_.at(h, place_[i]) = std::nextafter(static_cast<float>(now.low), -kFar);
    highs_.at(h, place_[i]) = std::nextafter(static_cast<float>(now.high), kFar);
    place_[i] = (place_[i] + 1) % kHorizons[i];
  }
  ++steps_;
}

decisions::Outlook ScoredDemand::outlook() const { return joint_.At(); }

v1::MetricForecast ScoredDemand::Show(const std::string& metric, double scale, double capacity,
                                      double step_s) const {
  v1::MetricForecast shown;
  shown.set_metric(metric);
  shown.set_now(scale * joint_.value());
  shown.set_capacity(scale * capacity);
  const decisions::Outlook outlook = joint_.At();
  for (int h = 0; h < kHorizonCount; ++h) {
    const auto i = static_cast<size_t>(h);
    const Forecast interval = joint_.Interval(i);
    const auto& quantiles = outlook.at[i];
    v1::ForecastAhead* ahead = shown.add_ahead();
    ahead->set_ahead_s(kHorizons[i] * step_s);
    ahead->set_p50(scale * quantiles[0]);
    ahead->set_p90(scale * quantiles[2]);
    ahead->set_p99(scale * quantiles[4]);
    ahead->set_low(scale * interval.low);
    ahead->set_high(scale * interval.high);
    ahead->set_coverage(weight_[i] > 0 ? covered_[i] / weight_[i] : 0);
    ahead->set_outcomes(outcomes_[i]);
    ahead->set_error(weight_[i] > 0 ? scale * error_[i] / weight_[i] : 0);
  }
  return shown;
}

predictor::Summary ScoredDemand::Summary() const {
  predictor::Summary summary;
  summary.fields[0] = static_cast<float>(joint_.value());
  for (int h = 0; h < kHorizonCount; ++h) {
    const Forecast interval = joint_.Interval(static_cast<size_t>(h));
    float* f = summary.fields + 1 + 3 * h;
    f[0] = static_cast<float>(interval.median);
    f[1] = static_cast<float>(interval.low);
    f[2] = static_cast<float>(interval.high);
  }
  return summary;
}

std::string ScoredDemand::Changes(predictor::SummaryWriter& writer) const {
  const predictor::Summary now = Summary();
  float errors[kHorizonCount];
  for (size_t h = 0; h < kHorizonCount; ++h) {
    errors[h] = static_cast<float>(weight_[h] > 0 ? error_[h] / weight_[h] : 0);
  }
  float allowed[predictor::Summary::kFields];
  writer.Allow(now, errors, allowed);
  uint8_t message[predictor::Summary::kMostBytes];
  const size_t size = writer.Write(now, allowed, message);
  return std::string(reinterpret_cast<const char*>(message), size);
}

}  // namespace starling::loop
