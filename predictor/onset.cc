#include "predictor/onset.h"

#include <algorithm>
#include <cmath>

namespace starling::predictor {
namespace {

constexpr float kOftenRate = 1.0f / 300, kLatelyRate = 1.0f / 20;
constexpr float kRate = 3e-3f;
constexpr uint64_t kSettling = 20000;  // lessons; from then on the step is smaller

}  // namespace

void OnsetWatch::Step(double value) {
  const bool above = value > limit_;
  const bool before = steps_ > 0 && past_[(steps_ - 1) % kPast] > limit_;
  past_[steps_ % kPast] = static_cast<float>(value);
  ++steps_;
  since_ = above ? 0 : std::min(since_ + 1, 1000u);
  const float first = 1 / static_cast<float>(steps_);
  often_ += std::max(kOftenRate, first) * ((above ? 1 : 0) - often_);
  lately_ += std::max(kLatelyRate, first) * ((above ? 1 : 0) - lately_);
  rises_ += std::max(kOftenRate, first) * ((above && !before ? 1 : 0) - rises_);
}

void OnsetWatch::Features(const Forecaster& forecaster, int horizon, OnsetFeatures& x) const {
  std::fill(x, x + kOnsetFeatures, 0.0f);
  if (steps_ == 0) return;
  const double unit = 1 / std::max(std::abs(limit_), 1e-9);
  const auto past = [this](uint32_t back) -> double {
    return past_[(steps_ - 1 - std::min(back, steps_ - 1)) % kPast];
  };
  int n = 0;
  const auto add = [&x, &n](double value) {
    x[n++] = static_cast<float>(std::clamp(value, -4.0, 4.0));
  };
  const Forecast forecast = forecaster.At(horizon);
  const double probability = forecaster.ProbabilityAbove(horizon, limit_);
  add(ScaledLogit(probability));
  add(probability * 2);
  add(forecast.median * unit - 0.5);
  add(past(0) * unit - 0.5);
  add(past(1) * unit - 0.5);
  add(past(2) * unit - 0.5);
  double most = past(0), least = past(0), mean = 0;
  for (uint32_t i = 0; i < 12; ++i) {
    most = std::max(most, past(i));
    least = std::min(least, past(i));
    mean += past(i) / 12;
  }
  add(most * unit - 0.5);
  add(least * unit - 0.5);
  add(mean * unit - 0.5);
  add((past(0) - past(3)) * unit);
  add(forecaster.center() * unit - 0.5);
  add(forecaster.spread() * unit * 2 - 0.5);
  add(ScaledLogit(often_));
  add(ScaledLogit(lately_));
  add(ScaledLogit(rises_));
  add(std::log(1.0 + since_) / 4 - 0.8);
  add(since_ == 1);
  add(since_ <= 3);
  for (const int expert : {kSeasonal, kSeasonalFound, kMedian25, kRegression, kSmooth40}) {
    add(forecaster.ExpertForecast(expert, horizon) * unit - 0.5);
  }
  add(forecast.high * unit - 0.7);
  const double spread = 1 / (forecaster.spread() + 1e-3 * std::abs(limit_) + 1e-12);
  add((forecaster.Quantile(horizon, 0.75) - limit_) * spread * 0.5);
  add((forecaster.Quantile(horizon, 0.95) - limit_) * spread * 0.25);
  add((forecast.median - limit_) * spread * 0.5);
  add((past(0) - limit_) * spread * 0.5);
}

OnsetOdds OddsAbove(const Forecaster& forecaster, int horizon, double limit) {
  const auto above = [&](int expert) {
    const double forecast = forecaster.ExpertForecast(expert, horizon);
    return static_cast<double>(
        forecaster.interval(horizon).ShareAbove(static_cast<float>(limit - forecast)));
  };
  OnsetOdds odds;
  double weights = 0;
  for (int expert = 0; expert < kExpertCount; ++expert) {
    const double weight = forecaster.Weight(expert, horizon);
    if (weight < 1e-3) continue;
    odds.mixed += weight * above(expert);
    weights += weight;
  }
  if (weights > 0) odds.mixed /= weights;
  odds.regression = above(kRegression);
  return odds;
}

double OnsetModel::Score(int horizon, const OnsetFeatures& x, const OnsetOdds& odds) const {
  const auto logit = [](double p) {
    p = std::clamp(p, 1e-4, 1 - 1e-4);
    return std::log(p / (1 - p));
  };
  const double net = nets_[horizon].Probability(x);
  const double mean = (2 * logit(odds.mixed) + logit(net) + logit(odds.regression)) / 4;
  return 1 / (1 + std::exp(-mean));
}

OnsetModel::OnsetModel()
    : nets_{OnlineNet<kOnsetFeatures, 8>(11, -2), OnlineNet<kOnsetFeatures, 8>(12, -2),
            OnlineNet<kOnsetFeatures, 8>(13, -2)} {}

void OnsetModel::Learn(int horizon, const OnsetFeatures& x, bool above) {
  const float rate = kRate * (++lessons_[horizon] < kSettling ? 1.0f : 0.3f);
  nets_[horizon].Learn(x, above ? 1 : 0, 1, rate);
}

}  // namespace starling::predictor
