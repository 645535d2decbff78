#include "predictor/rate_estimator.h"

#include <gtest/gtest.h>

#include <limits>

namespace starling::predictor {
namespace {

using std::chrono::duration;

TEST(RateEstimator, IsTheRateOfASteadyStream) {
  RateEstimator rate(duration<double>(1.0));
  for (int i = 0; i < 50; ++i) rate.Add(5, duration<double>(0.5));
  EXPECT_NEAR(rate.rate_per_s(), 10, 1e-9);
}

TEST(RateEstimator, ForgetsByHalfLife) {
  RateEstimator rate(duration<double>(1.0));
  rate.Add(100, duration<double>(1.0));
  rate.Add(0, duration<double>(1.0));
  // The first second counts half as much as the one just seen: 50 / 1.5.
  EXPECT_NEAR(rate.rate_per_s(), 50.0 / 1.5, 1e-9);
}

TEST(RateEstimator, PassesOverNonsense) {
  RateEstimator rate(duration<double>(1.0));
  rate.Add(1, duration<double>(0));
  rate.Add(1, duration<double>(-1));
  rate.Add(-1, duration<double>(1));
  rate.Add(std::numeric_limits<double>::quiet_NaN(), duration<double>(1));
  EXPECT_TRUE(rate.empty());
  EXPECT_EQ(rate.rate_per_s(), 0);
}

}  // namespace
}  // namespace starling::predictor
