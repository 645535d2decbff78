#include "runtime/loop/joint_demand.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace starling::loop {

using predictor::Forecast;
using predictor::kHorizonCount;
using predictor::kHorizons;

std::array<double, decisions::kLevelCount> Quantiles(const Forecast& forecast) {
  // Standard normal quantiles over that of 95 %, which is where the interval's upper bound lies.
  constexpr std::array<double, decisions::kLevelCount> kShare = {0, 0.41006, 0.77913, 1, 1.41431};
  static_assert(decisions::kLevels[0] == 0.5 && decisions::kLevels[3] == 0.95);
  std::array<double, decisions::kLevelCount> quantiles;
  for (size_t i = 0; i < decisions::kLevelCount; ++i) {
    quantiles[i] =
        std::max(0.0, forecast.median + kShare[i] * std::max(0.0, forecast.high - forecast.median));
  }
  return quantiles;
}

void JointDemand::Changed() {
  sum_.Changed();
  unlike_ = predictor::kLongest;
}

void JointDemand::End() {
  sum_.End();
  if (unlike_ > 0) --unlike_;
  for (int h = 0; h < kHorizonCount; ++h) {
    const auto i = static_cast<size_t>(h);
    if (steps_ >= static_cast<uint64_t>(kHorizons[i]) && unlike_ == 0) {
      const double error = std::abs(sum_.value() - medians_.at(h, place_[i]));
      error_[i] = kKeep * error_[i] + error;
      weight_[i] = kKeep * weight_[i] + 1;
      ++outcomes_[i];
    }
    medians_.at(h, place_[i]) = static_cast<float>(sum_.At(h).median);
    place_[i] = (place_[i] + 1) % kHorizons[i];
  }
  ++steps_;
}

decisions::Outlook JointDemand::outlook() const {
  decisions::Outlook outlook;
  outlook.now = sum_.value();
  for (int h = 0; h < kHorizonCount; ++h)
    outlook.at[static_cast<size_t>(h)] = Quantiles(sum_.At(h));
  return outlook;
}

v1::MetricForecast JointDemand::Show(const std::string& metric, double scale, double capacity,
                                     double step_s) const {
  v1::MetricForecast shown;
  shown.set_metric(metric);
  shown.set_now(scale * sum_.value());
  shown.set_capacity(scale * capacity);
  for (int h = 0; h < kHorizonCount; ++h) {
    const auto i = static_cast<size_t>(h);
    const auto quantiles = Quantiles(sum_.At(h));
    v1::ForecastAhead* ahead = shown.add_ahead();
    ahead->set_ahead_s(kHorizons[i] * step_s);
    ahead->set_p50(scale * quantiles[0]);
    ahead->set_p90(scale * quantiles[2]);
    ahead->set_p99(scale * quantiles[4]);
    ahead->set_low(scale * sum_.At(h).low);
    ahead->set_high(scale * sum_.At(h).high);
    ahead->set_coverage(sum_.coverage(h));
    ahead->set_outcomes(outcomes_[i]);
    ahead->set_error(weight_[i] > 0 ? scale * error_[i] / weight_[i] : 0);
  }
  return shown;
}

std::string JointDemand::Message() const {
  // Every field; value and medians in single precision (predictor/summary.h).
  std::string message;
  const auto put = [&message](uint32_t bits) {
    message.push_back(static_cast<char>(bits));
    message.push_back(static_cast<char>(bits >> 8));
  };
  put((1u << predictor::Summary::kFields) - 1 + (1u << predictor::Summary::kFields));
  const auto whole = [&put](double value) {
    const auto bits = std::bit_cast<uint32_t>(static_cast<float>(value));
    put(bits >> 16);
    put(bits & 0xffff);
  };
  // Rounded outwards by what the other half of the bits may take away.
  const auto bound = [&put](double value, double outwards) {
    put(std::bit_cast<uint32_t>(static_cast<float>(value + outwards * std::abs(value) / 256)) >>
        16);
  };
  whole(sum_.value());
  for (int h = 0; h < kHorizonCount; ++h) {
    whole(sum_.At(h).median);
    bound(sum_.At(h).low, -1);
    bound(sum_.At(h).high, 1);
  }
  return message;
}

}  // namespace starling::loop
