#include "predictor/seasons.h"

#include <cmath>

#include "predictor/horizons.h"

namespace starling::predictor {
namespace {

// What a season has to save against the last value's error; a shorter one is preferred to its
// multiples unless they save as much again.
constexpr float kWorthIt = 0.7f;
constexpr float kWorthMore = 0.9f;

}  // namespace

NaturalSeasons SeasonsOf(double step_s) {
  NaturalSeasons found;
  if (!(step_s > 0) || !std::isfinite(step_s)) return found;
  for (const double season_s : {60.0, 3600.0, 86400.0, 604800.0}) {
    const double steps = std::round(season_s / step_s);
    if (std::abs(steps * step_s - season_s) > 0.01 * season_s) continue;
    if (steps < 3 || steps > History::kCapacity - kLongest - 1) continue;
    found.next = found.longest;
    found.longest = static_cast<int>(steps);
  }
  return found;
}

void SeasonFinder::Step(const History& history) {
  if (history.count() % kEvery != 0 || !history.Has(candidate_ + kSpan)) return;
  float error = 0, last = 0;
  for (int i = 0; i < kSpan; ++i) {
    const float value = history.Rounded(i);
    error += std::abs(value - history.Rounded(i + candidate_));
    last += std::abs(value - history.Rounded(i + 1));
  }
  if (error < kWorthIt * last && (best_ == 0 || error < kWorthMore * best_error_ * last)) {
    best_ = candidate_;
    best_error_ = error / last;
  }
  if (++candidate_ <= kLongest) return;
  season_ = best_;
  best_ = 0;
  candidate_ = kShortest;
}

bool SeasonFinder::Valid() const {
  return candidate_ >= kShortest && candidate_ <= kLongest && best_ >= 0 && best_ <= kLongest &&
         season_ >= 0 && season_ <= kLongest && std::isfinite(best_error_);
}

}  // namespace starling::predictor
