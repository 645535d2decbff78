#include "predictor/aggregate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace starling::predictor {
namespace {

struct Result {
  double coverage = 0, width = 0, naive_width = 0;
};

// Ten components, the noise of each its own or all the same.
Result Play(bool together) {
  ForecasterOptions options;
  options.step_s = 7;
  std::vector<Forecaster> parts;
  for (int i = 0; i < 10; ++i) parts.emplace_back(options);
  Aggregate aggregate;
  uint32_t state = 5;
  const auto noise = [&state] {
    state = state * 1664525u + 1013904223u;
    return static_cast<double>(state >> 8) / 8388608.0 - 1;
  };
  Result result;
  double covered = 0, checked = 0;
  Forecast last;
  for (int t = 0; t < 3000; ++t) {
    const double common = noise();
    double sum = 0;
    for (Forecaster& part : parts) {
      const double value = 100 + 10 * (together ? common : noise());
      sum += value;
      part.Observe(value);
      const Forecast forecasts[kHorizonCount] = {part.At(0), part.At(1), part.At(2)};
      aggregate.Add(value, forecasts);
    }
    if (t > 500) {
      checked += 1;
      covered += sum >= last.low && sum <= last.high;
    }
    aggregate.End();
    EXPECT_NEAR(aggregate.value(), sum, 1e-6);
    last = aggregate.At(0);
  }
  result.coverage = covered / checked;
  result.width = last.high - last.low;
  result.naive_width = aggregate.naive_width(0);
  return result;
}

TEST(Aggregate, PartsThatMoveApartCancelOut) {
  const Result result = Play(false);
  EXPECT_GT(result.coverage, 0.86);
  EXPECT_LT(result.coverage, 0.95);
  EXPECT_LT(result.width, 0.6 * result.naive_width);
}

TEST(Aggregate, PartsThatMoveTogetherDoNot) {
  const Result result = Play(true);
  EXPECT_GT(result.coverage, 0.86);
  EXPECT_GT(result.width, 0.6 * result.naive_width);
}

TEST(Aggregate, DoesNotLearnFromAChangeOfItsParts) {
  Aggregate aggregate;
  const Forecast ten[kHorizonCount] = {{10, 9, 11}, {10, 9, 11}, {10, 9, 11}};
  for (int t = 0; t < 200; ++t) {
    aggregate.Add(10 + t % 2, ten);
    aggregate.End();
  }
  const double before = aggregate.At(0).high - aggregate.At(0).low;
  aggregate.Changed();
  for (int t = 0; t < 5; ++t) {
    for (int i = 0; i < 100; ++i) aggregate.Add(10 + t % 2, ten);
    aggregate.End();
  }
  EXPECT_NEAR(aggregate.At(0).high - aggregate.At(0).low, before, 1);
}

}  // namespace
}  // namespace starling::predictor
