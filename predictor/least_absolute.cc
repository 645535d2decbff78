#include "predictor/least_absolute.h"

#include <algorithm>
#include <cmath>

namespace starling::predictor {
namespace {

constexpr float kForget = 0.998f;    // a memory of about 500 steps
constexpr float kErrorRate = 0.01f;  // of the mean error that a sample's is compared with
constexpr float kErrorCap = 4;       // in standard deviations; what a spike counts for in that mean
constexpr float kLeastRatio = 0.1f;  // an error below a tenth of the mean weighs no more
constexpr float kMostTrace = 1e4f;   // of the covariance, which grows while nothing moves
constexpr float kMostWeight = 1e3f;  // beyond it single precision has lost its way

}  // namespace

void LeastAbsolute::Reset() {
  std::fill(weights_, weights_ + kFeatures, 0.0f);
  weights_[0] = 1;
  error_ = 0;
  ResetCovariance();
}

void LeastAbsolute::ResetCovariance() {
  for (int i = 0; i < kFeatures; ++i) {
    for (int j = 0; j < kFeatures; ++j) covariance_[i][j] = i == j ? 1 : 0;
  }
}

float LeastAbsolute::Predict(const Features& x) const {
  float sum = 0;
  for (int i = 0; i < kFeatures; ++i) sum += weights_[i] * x.values[i];
  return sum;
}

void LeastAbsolute::Learn(const Features& x, float target) {
  const float error = target - Predict(x);
  const float size = std::abs(error);
  error_ += kErrorRate * (std::min(size, kErrorCap) - error_);
  const float weight = 1 / std::max(size / (error_ + 1e-3f), kLeastRatio);

  alignas(16) float px[kFeatures] = {};
  for (int j = 0; j < kFeatures; ++j) {
    for (int i = 0; i < kFeatures; ++i) px[i] += covariance_[j][i] * x.values[j];
  }
  float q = 0;
  for (int i = 0; i < kFeatures; ++i) q += x.values[i] * px[i];
  if (!(q >= 0) || !(q < 1e12f)) return ResetCovariance();  // rounding has made it useless
  const float scale = weight / (kForget + weight * q);
  float largest = 0;
  for (int i = 0; i < kFeatures; ++i) {
    weights_[i] += scale * error * px[i];
    largest = std::max(largest, std::abs(weights_[i]));
  }
  if (!(largest < kMostWeight)) return Reset();
  constexpr float kGrow = 1 / kForget;
  float trace = 0;
  for (int i = 0; i < kFeatures; ++i) {
    const float gain = scale * px[i];
    for (int j = 0; j < kFeatures; ++j) {
      covariance_[i][j] = (covariance_[i][j] - gain * px[j]) * kGrow;
    }
    trace += covariance_[i][i];
  }
  if (!(trace > 0)) return ResetCovariance();
  if (trace > kMostTrace) {
    for (auto& row : covariance_) {
      for (float& value : row) value *= 0.1f;
    }
  }
}

bool LeastAbsolute::Valid() const {
  bool valid = std::isfinite(error_) && error_ >= 0;
  for (int i = 0; i < kFeatures; ++i) {
    valid = valid && std::isfinite(weights_[i]);
    for (int j = 0; j < kFeatures; ++j) valid = valid && std::isfinite(covariance_[i][j]);
  }
  return valid;
}

}  // namespace starling::predictor
