#include "predictor/conformal.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace starling::predictor {
namespace {

constexpr float kMiss = 0.1f;             // of a 90 % interval
constexpr float kForget = 0.993f;         // of errors: a memory of about 140
constexpr float kMostWeight = 1e6f;       // at which the histogram is scaled back
constexpr float kLeastRatio = 1.0f / 32;  // of an error to the usual one; less is none
constexpr uint32_t kBase = std::bit_cast<uint32_t>(kLeastRatio) >> 21;  // 4 bins an octave
constexpr float kSlow = 0.02f;     // rate of the mean absolute error
constexpr float kQuick = 0.1f;     // the same for the last few
constexpr float kMostGrowth = 40;  // an error counts for at most so many usual ones
constexpr float kLeastUnit = 1e-6f;
constexpr float kLeastSwing = 0.8f;  // how far their ratio may move the interval
constexpr float kMostSwing = 1.6f;
constexpr uint32_t kFirst = 8;        // outcomes before the account is opened
constexpr float kDebtForget = 0.99f;  // a memory of about 100 outcomes
constexpr float kDebtScale = 2.5f;    // misses that change the level by a factor of e
constexpr float kMostCredit = 6;      // misses
constexpr float kLeastLevel = 0.01f;
constexpr float kMostLevel = 0.3f;
constexpr float kAim = 0.11f;      // share of misses aimed at, for the first horizon
constexpr float kAimStep = 0.01f;  // less for each farther one
constexpr float kYoung = 0.25f;    // so much less with nothing known, as few errors say little
constexpr float kYoungOutcomes = 100;
constexpr float kWindowForget = 0.995f;
constexpr float kDeep = 0.12f;     // share of misses from which the range of the series counts
constexpr float kDeepest = 0.18f;  // ... and counts in full
constexpr float kCoverageRate = 0.002f;
constexpr float kReach = 1;  // how far beyond its late range a series is expected, in such ranges

}  // namespace

int Conformal::Bin(float ratio) {
  const float size = std::abs(ratio);
  if (!(size >= kLeastRatio)) return kSide;
  const auto place = static_cast<int>((std::bit_cast<uint32_t>(size) >> 21) - kBase);
  const int bin = std::min(place, kSide - 1);
  return ratio > 0 ? kSide + 1 + bin : kSide - 1 - bin;
}

float Conformal::OuterEdge(int bin) {
  if (bin == kSide) return 0;
  const int place = bin > kSide ? bin - kSide - 1 : kSide - 1 - bin;
  const auto edge = std::bit_cast<float>((kBase + static_cast<uint32_t>(place) + 1) << 21);
  return bin > kSide ? edge : -edge;
}

float Conformal::Target() const {
  const float young = kYoung / (1 + static_cast<float>(outcomes_) / kYoungOutcomes);
  return (kAim - kAimStep * static_cast<float>(horizon_)) * (1 - young);
}

float Conformal::Level() const {
  return std::clamp(Target() * std::exp(-debt_ / kDebtScale), kLeastLevel, kMostLevel);
}

void Conformal::Place(float level) {
  const float beyond = level / 2 * total_;
  while (low_bin_ > 0 && below_low_ > beyond) below_low_ -= histogram_[--low_bin_];
  while (low_bin_ < kBins - 1 && below_low_ + histogram_[low_bin_] < beyond) {
    below_low_ += histogram_[low_bin_++];
  }
  while (high_bin_ < kBins - 1 && above_high_ > beyond) above_high_ -= histogram_[++high_bin_];
  while (high_bin_ > 0 && above_high_ + histogram_[high_bin_] < beyond) {
    above_high_ += histogram_[high_bin_--];
  }
}

void Conformal::Learn(float error, float scale, bool missed) {
  if (outcomes_ < UINT32_MAX) ++outcomes_;
  // A lone spike does not set the unit for the next thousand steps; a real change grows into it.
  const float size = outcomes_ > kFirst
                         ? std::min(std::abs(error), kMostGrowth * slow_ + kLeastUnit)
                         : std::abs(error);
  const float first = 1 / static_cast<float>(outcomes_);
  slow_ += (size - slow_) * std::max(kSlow, first);
  quick_ += (size - quick_) * std::max(kQuick, first);
  const float swing = slow_ > 0 ? std::sqrt(quick_ / slow_) : 1;
  scale_ = slow_ * std::clamp(swing, kLeastSwing, kMostSwing);

  if (missed && outcomes_ > kFirst) ++misses_;
  if (outcomes_ > kFirst) {
    const float miss = missed ? 1 : 0;
    debt_ = std::max(-kMostCredit, kDebtForget * debt_ + miss - Target());
    window_misses_ = kWindowForget * window_misses_ + miss;
    window_ = kWindowForget * window_ + 1;
    recent_misses_ += kCoverageRate * (miss - recent_misses_);
  }

  const int bin = Bin(scale > 0 ? error / scale : error == 0 ? 0 : std::copysign(1.0f, error));
  weight_ *= 1 / kForget;
  histogram_[bin] += weight_;
  total_ += weight_;
  if (bin < low_bin_) below_low_ += weight_;
  if (bin > high_bin_) above_high_ += weight_;
  if (weight_ > kMostWeight) {
    const float shrink = 1 / weight_;
    weight_ = 1;
    total_ = below_low_ = above_high_ = 0;
    for (int i = 0; i < kBins; ++i) {
      histogram_[i] *= shrink;
      total_ += histogram_[i];
      if (i < low_bin_) below_low_ += histogram_[i];
      if (i > high_bin_) above_high_ += histogram_[i];
    }
  }
  Place(Level());
}

float Conformal::Reach(float toward, float away) { return toward + kReach * (toward + away); }

Conformal::Offsets Conformal::Interval(float below, float above) const {
  Offsets offsets;
  if (total_ <= 0) return {-below, above};
  offsets.low = std::min(0.0f, OuterEdge(low_bin_) * scale_);
  offsets.high = std::max(0.0f, OuterEdge(high_bin_) * scale_);
  const float rate = (window_misses_ + 1) / (window_ + 10);
  const float deep = std::clamp((rate - kDeep) / (kDeepest - kDeep), 0.0f, 1.0f);
  offsets.low = std::min(offsets.low, offsets.low + deep * (-below - offsets.low));
  offsets.high = std::max(offsets.high, offsets.high + deep * (above - offsets.high));
  offsets.low = std::max(offsets.low, -Reach(below, above));
  offsets.high = std::min(offsets.high, Reach(above, below));
  return offsets;
}

float Conformal::Quantile(float level) const {
  if (total_ <= 0) return 0;
  // The tails move as those of the 90 % interval do.
  const float factor = Level() / kMiss;
  const float beyond = std::min(level < 0.5f ? level : 1 - level, 0.5f) * std::min(factor, 1.0f);
  float sum = 0;
  if (level < 0.5f) {
    for (int bin = 0; bin < kBins; ++bin) {
      sum += histogram_[bin];
      if (sum >= beyond * total_ && sum > 0) return OuterEdge(bin) * scale_;
    }
  } else {
    for (int bin = kBins - 1; bin >= 0; --bin) {
      sum += histogram_[bin];
      if (sum >= beyond * total_ && sum > 0) return OuterEdge(bin) * scale_;
    }
  }
  return 0;
}

float Conformal::ShareAbove(float offset) const {
  if (total_ <= 0) return offset < 0 ? 1 : 0;
  const int bin = Bin(scale_ > 0    ? offset / scale_
                      : offset == 0 ? 0
                                    : std::copysign(64.0f, offset));
  float sum = 0.5f * histogram_[bin];
  for (int i = bin + 1; i < kBins; ++i) sum += histogram_[i];
  return std::clamp(sum / total_, 0.0f, 1.0f);
}

bool Conformal::Valid() const {
  float sum = 0;
  for (const float value : histogram_) {
    if (!(value >= 0)) return false;
    sum += value;
  }
  for (const float value : {below_low_, above_high_, slow_, quick_, scale_, debt_, window_misses_,
                            window_, recent_misses_, weight_, total_, sum}) {
    if (!std::isfinite(value)) return false;
  }
  return low_bin_ >= 0 && low_bin_ < kBins && high_bin_ >= 0 && high_bin_ < kBins && weight_ > 0 &&
         horizon_ >= 0 && horizon_ < kHorizonCount && std::abs(sum - total_) <= 0.01f * (sum + 1);
}

}  // namespace starling::predictor
