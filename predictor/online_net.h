#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace starling::predictor {

// The logistic function of a linear part and one small hidden layer, trained a sample at a time
// (Adam on the log loss): a probability from features of the order of 1. All memory is its own, the
// same seed and samples give the same weights. Shared by components; not thread-safe.
template <int kInputs, int kHidden>
class OnlineNet {
 public:
  explicit OnlineNet(uint32_t seed, float first_bias) {
    uint32_t state = seed * 2654435761u + 1;
    const auto uniform = [&state](float bound) {
      state = state * 1664525u + 1013904223u;
      return bound * (static_cast<float>(state >> 8) / 8388608.0f - 1);
    };
    for (int i = 0; i < kHidden * kInputs; ++i) parameters_[i] = uniform(0.25f);
    for (int i = 0; i < kHidden; ++i) parameters_[kOutput + i] = uniform(0.2f);
    parameters_[kBias] = first_bias;
  }

  float Probability(const float (&x)[kInputs]) const {
    float hidden[kHidden];
    return Forward(x, hidden);
  }

  // False for what no learning leaves behind, as after reading it from somewhere.
  bool Valid() const {
    for (int i = 0; i < kSize; ++i) {
      if (!(std::abs(parameters_[i]) < 1e6f) || !std::isfinite(mean_[i]) ||
          !(square_[i] >= 0 && square_[i] < 1e30f)) {
        return false;
      }
    }
    return mean_due_ >= 0 && mean_due_ <= 1 && square_due_ >= 0 && square_due_ <= 1;
  }

  // `outcome` (0 or 1) turned out for `x`. `rate` is Adam's step.
  void Learn(const float (&x)[kInputs], float outcome, float weight, float rate) {
    float hidden[kHidden];
    const float error = (Forward(x, hidden) - outcome) * weight;
    if (!std::isfinite(error)) return;
    mean_due_ *= kMeanKeep;
    square_due_ *= kSquareKeep;
    const float step = rate / (1 - mean_due_) * std::sqrt(1 - square_due_);
    for (int i = 0; i < kHidden; ++i) {
      const float slope = error * parameters_[kOutput + i] * (1 - hidden[i] * hidden[i]);
      Move(kOutput + i, error * hidden[i], step);
      Move(kHiddenBias + i, slope, step);
      for (int j = 0; j < kInputs; ++j) Move(i * kInputs + j, slope * x[j], step);
    }
    for (int j = 0; j < kInputs; ++j) Move(kLinear + j, error * x[j], step);
    Move(kBias, error, step);
  }

 private:
  static constexpr int kOutput = kHidden * kInputs;
  static constexpr int kHiddenBias = kOutput + kHidden;
  static constexpr int kLinear = kHiddenBias + kHidden;
  static constexpr int kBias = kLinear + kInputs;
  static constexpr int kSize = kBias + 1;
  static constexpr float kMeanKeep = 0.9f, kSquareKeep = 0.999f;

  float Forward(const float (&x)[kInputs], float (&hidden)[kHidden]) const {
    float sum = parameters_[kBias];
    for (int j = 0; j < kInputs; ++j) sum += parameters_[kLinear + j] * x[j];
    for (int i = 0; i < kHidden; ++i) {
      float inner = parameters_[kHiddenBias + i];
      for (int j = 0; j < kInputs; ++j) inner += parameters_[i * kInputs + j] * x[j];
      hidden[i] = std::tanh(inner);
      sum += parameters_[kOutput + i] * hidden[i];
    }
    return 1 / (1 + std::exp(-std::clamp(sum, -30.0f, 30.0f)));
  }

  void Move(int i, float gradient, float step) {
    mean_[i] += (1 - kMeanKeep) * (gradient - mean_[i]);
    square_[i] += (1 - kSquareKeep) * (gradient * gradient - square_[i]);
    parameters_[i] -= step * mean_[i] / (std::sqrt(square_[i]) + 1e-8f);
  }

  float parameters_[kSize] = {};
  float mean_[kSize] = {};
  float square_[kSize] = {};
  float mean_due_ = 1, square_due_ = 1;
};

// log(p / (1 - p)), bounded and scaled to the order of 1 for probabilities of rare things.
inline float ScaledLogit(double p) {
  p = std::clamp(p, 1e-4, 1 - 1e-4);
  return static_cast<float>(0.4 * std::log(p / (1 - p)) + 1);
}

}  // namespace starling::predictor
