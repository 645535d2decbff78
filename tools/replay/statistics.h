#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace starling::replay {

inline double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

inline double Mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

// The same sequence on every machine, for the same seed.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  // Below `bound`, which is not 0.
  size_t Below(size_t bound) {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<size_t>(state_ >> 33) % bound;
  }

 private:
  uint64_t state_;
};

struct Interval {
  double low = 0, high = 0;
};

// Of the middle 95 % of `values`.
inline Interval Middle95(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const auto at = [&values](double share) {
    return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1) + 0.5)];
  };
  return {at(0.025), at(0.975)};
}

inline constexpr int kResamples = 400;

}  // namespace starling::replay
