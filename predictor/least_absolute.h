#pragma once

namespace starling::predictor {

// Linear regression that is learned step by step, by recursive least squares with each sample
// weighted by one over its own error: what is approached is the least absolute error, so that a
// spike moves the weights little and the forecast is a median. O(d^2) a step, no allocation.
class LeastAbsolute {
 public:
  static constexpr int kFeatures = 8;
  struct alignas(16) Features {
    float values[kFeatures];
  };

  LeastAbsolute() { Reset(); }

  // Forgets everything: the forecast is the first feature.
  void Reset();

  float Predict(const Features& x) const;

  // `target` turned out for `x`. Both are of the order of 1.
  void Learn(const Features& x, float target);

  bool Valid() const;

 private:
  void ResetCovariance();

  alignas(16) float weights_[kFeatures];
  alignas(16) float covariance_[kFeatures][kFeatures];
  float error_ = 0;  // mean absolute error, discounted
};

}  // namespace starling::predictor
