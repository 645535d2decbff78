#include "predictor/rate_estimator.h"

#include <cmath>

namespace starling::predictor {

void RateEstimator::Add(double amount, std::chrono::duration<double> elapsed) {
  const double seconds = elapsed.count();
  if (!(seconds > 0) || !std::isfinite(seconds) || !(amount >= 0) || !std::isfinite(amount)) return;
  const double keep = std::exp2(-seconds / half_life_s_);
  weighted_amount_ = weighted_amount_ * keep + amount;
  weighted_s_ = weighted_s_ * keep + seconds;
}

}  // namespace starling::predictor
