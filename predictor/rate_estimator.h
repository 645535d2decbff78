#pragma once

#include <chrono>

namespace starling::predictor {

// A rate (units per second) from amounts seen over unequal stretches of time, with older stretches
// discounted by half every `half_life`. No I/O, no clock of its own: the same samples give the same
// answer. Not thread-safe.
class RateEstimator {
 public:
  explicit RateEstimator(std::chrono::duration<double> half_life)
      : half_life_s_(half_life.count()) {}

  // `amount` units were seen over `elapsed`. A stretch without time or with a negative or
  // non-finite amount says nothing and is passed over.
  void Add(double amount, std::chrono::duration<double> elapsed);

  bool empty() const { return weighted_s_ <= 0; }
  double rate_per_s() const { return empty() ? 0 : weighted_amount_ / weighted_s_; }

 private:
  double half_life_s_;
  double weighted_amount_ = 0;
  double weighted_s_ = 0;
};

}  // namespace starling::predictor
