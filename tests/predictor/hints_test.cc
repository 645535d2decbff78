#include "predictor/hints.h"

#include <gtest/gtest.h>

#include <limits>

namespace starling::predictor {
namespace {

// A source says every half hour that 8 will be needed in five minutes; it then is, or is not.
double Play(Hints& hints, uint32_t source, bool honest, int times, double now = 0) {
  for (int i = 0; i < times; ++i) {
    hints.Observe(now, 1);
    Hint hint;
    hint.source = source;
    hint.time_s = now + 300;
    hint.amount = 8;
    EXPECT_TRUE(hints.Add(now, hint));
    for (int t = 0; t < 1800; t += 10) {
      hints.Observe(now + t, honest && t >= 300 && t < 600 ? 8 : 1);
    }
    now += 1800;
  }
  return now;
}

TEST(Hints, AnHonestSourceIsBelieved) {
  Hints hints;
  const double now = Play(hints, 1, true, 20);
  EXPECT_GT(hints.reliability(1), 0.85);
  ASSERT_TRUE(hints.Add(now, {1, now + 300, 8, 0.25}));
  const Forecast forecast = hints.Apply(now + 300, {1, 0.5, 1.5});
  EXPECT_GT(forecast.median, 6.5);
  EXPECT_GE(forecast.high, 8);
  EXPECT_EQ(forecast.low, 0.5);
  // For another time it says nothing.
  EXPECT_EQ(hints.Apply(now + 3000, {1, 0.5, 1.5}).median, 1);
}

TEST(Hints, ALyingSourceLosesItsWeight) {
  Hints hints;
  const double now = Play(hints, 2, false, 20);
  EXPECT_LT(hints.reliability(2), 0.2);
  ASSERT_TRUE(hints.Add(now, {2, now + 300, 8, 0.25}));
  const Forecast forecast = hints.Apply(now + 300, {1, 0.5, 1.5});
  EXPECT_EQ(forecast.median, 1);
  EXPECT_EQ(forecast.high, 1.5);
}

TEST(Hints, ALiarMayBeForgiven) {
  Hints hints;
  const double now = Play(hints, 3, false, 10);
  const double low = hints.reliability(3);
  Play(hints, 3, true, 20, now);
  EXPECT_GT(hints.reliability(3), low + 0.4);
}

TEST(Hints, RefusesNonsenseAndKeepsWithinBounds) {
  Hints hints;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(hints.Add(100, {1, 50, 8, 0.25}));
  EXPECT_FALSE(hints.Add(100, {1, nan, 8, 0.25}));
  EXPECT_FALSE(hints.Add(100, {1, 200, nan, 0.25}));
  EXPECT_FALSE(hints.Add(100, {1, 200, -8, 0.25}));
  EXPECT_FALSE(hints.Add(100, {1, 200, 8, 0}));
  for (int i = 0; i < 100; ++i) hints.Add(100, {1, 200.0 + i, 8, 0.25});
  EXPECT_EQ(hints.open(), Hints::kOpen);
  for (uint32_t source = 2; source < 100; ++source) hints.Add(100, {source, 200, 8, 0.25});
  EXPECT_EQ(hints.open(), Hints::kOpen);
}

}  // namespace
}  // namespace starling::predictor
