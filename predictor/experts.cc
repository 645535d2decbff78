#include "predictor/experts.h"

#include <algorithm>
#include <cmath>

namespace starling::predictor {
namespace {

constexpr float kArimaRate = 0.02f;
constexpr float kArimaClip = 3;       // in units of the scale
constexpr float kArimaBound = 0.95f;  // of the sum of the weights' sizes: iteration then converges

constexpr float kLevelRate = 0.3f;
constexpr float kTrendRate = 0.05f;
constexpr float kSeasonRate = 0.2f;
constexpr float kDamping = 0.95f;

}  // namespace

const char* ExpertName(int expert) {
  constexpr const char* kNames[] = {"last-value",      "smooth-05",      "smooth-15",  "smooth-40",
                                    "median-7",        "median-25",      "regression", "seasonal",
                                    "seasonal-median", "seasonal-found", "trend",      "arima",
                                    "holt-winters",    "recurrent"};
  static_assert(std::size(kNames) == kExpertCount);
  return expert >= 0 && expert < kExpertCount ? kNames[expert] : "?";
}

void OnlineArima::Learn(float difference) {
  difference = std::clamp(difference, -kArimaClip, kArimaClip);
  float forecast = 0, square = 0.1f;
  for (int i = 0; i < kLags; ++i) {
    forecast += weights_[i] * last_[i];
    square += last_[i] * last_[i];
  }
  const float step = kArimaRate * (difference - forecast) / square;
  float size = 0;
  for (int i = 0; i < kLags; ++i) {
    weights_[i] += step * last_[i];
    size += std::abs(weights_[i]);
  }
  if (size > kArimaBound) {
    for (float& weight : weights_) weight *= kArimaBound / size;
  }
  for (int i = kLags - 1; i > 0; --i) last_[i] = last_[i - 1];
  last_[0] = difference;
}

void OnlineArima::Predict(float (&ahead)[kHorizonCount]) const {
  float values[kLags + kLongest];  // the newest last
  for (int i = 0; i < kLags; ++i) values[kLags - 1 - i] = last_[i];
  float sum = 0;
  int horizon = 0;
  for (int step = 1; step <= kLongest; ++step) {
    float next = 0;
    for (int i = 0; i < kLags; ++i) next += weights_[i] * values[kLags + step - 2 - i];
    values[kLags + step - 1] = next;
    sum += next;
    if (step == kHorizons[horizon]) ahead[horizon++] = sum;
  }
}

bool OnlineArima::Valid() const {
  for (int i = 0; i < kLags; ++i) {
    if (!std::isfinite(weights_[i]) || !std::isfinite(last_[i])) return false;
  }
  return true;
}

void HoltWinters::SetSeason(int steps) {
  season_ = steps > 1 && steps <= kLongestSeason ? steps : 1;
  place_ = rounds_ = 0;
  std::fill(index_, index_ + kLongestSeason, 0.0f);
}

void HoltWinters::Learn(float value) {
  if (started_ == 0) {
    started_ = 1;
    level_ = value;
  }
  float& index = index_[place_];
  const float before = level_;
  level_ = kLevelRate * (value - index) + (1 - kLevelRate) * (level_ + kDamping * trend_);
  trend_ = kTrendRate * (level_ - before) + (1 - kTrendRate) * kDamping * trend_;
  if (season_ > 1) {
    const float rate = rounds_ == 0 ? 1 : kSeasonRate;
    index += rate * (value - level_ - index);
  }
  if (++place_ >= season_) {
    place_ = 0;
    rounds_ = std::min(rounds_ + 1, 1 << 20);
  }
}

void HoltWinters::Predict(float (&ahead)[kHorizonCount]) const {
  float sum = 0, power = 1;
  int horizon = 0;
  for (int step = 1; step <= kLongest; ++step) {
    sum += power *= kDamping;
    if (step != kHorizons[horizon]) continue;
    // place_ is that of the next step.
    ahead[horizon++] = level_ + trend_ * sum + index_[(place_ + step - 1) % season_];
  }
}

bool HoltWinters::Valid() const {
  for (const float value : index_) {
    if (!std::isfinite(value)) return false;
  }
  return season_ >= 1 && season_ <= kLongestSeason && place_ >= 0 && place_ < season_ &&
         rounds_ >= 0 && std::isfinite(level_) && std::isfinite(trend_);
}

}  // namespace starling::predictor
