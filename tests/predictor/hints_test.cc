#include "predictor/hints.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

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

TEST(Hints, GoOnElsewhere) {
  Hints hints;
  const double now = Play(hints, 0, false, 3);
  ASSERT_TRUE(hints.Add(now, {0, now + 300, 8, 0.25}));
  ASSERT_TRUE(hints.Add(now, {7, now + 600, 9, 0.25}));
  const std::string saved = hints.Save(now);
  Hints other;
  // On an axis of its own, and 50 s later.
  ASSERT_TRUE(other.Restore(saved, 1e6, 50));
  EXPECT_EQ(other.reliability(0), hints.reliability(0));
  ASSERT_EQ(other.open(), 2u);
  EXPECT_DOUBLE_EQ(other.hint(0).time_s, 1e6 + 250);
  EXPECT_GT(other.Apply(1e6 + 550, {1, 0.5, 1.5}).median, 4);
  EXPECT_EQ(other.Save(1e6 + 50), hints.Save(now + 100));
  // What is cut short or damaged changes nothing.
  for (size_t size = 0; size < saved.size(); ++size) {
    EXPECT_FALSE(other.Restore(saved.substr(0, size), 0, 0)) << size;
  }
  EXPECT_FALSE(other.Restore(saved + saved, 0, 0));
  uint32_t random = 1;
  const auto next = [&random] { return (random = random * 1664525u + 1013904223u) >> 8; };
  for (int round = 0; round < 5000; ++round) {
    std::string bad = saved;
    bad[next() % bad.size()] = static_cast<char>(next());
    Hints tried;
    if (!tried.Restore(bad, 0, 0)) continue;
    EXPECT_LE(tried.open(), Hints::kOpen);
    EXPECT_GE(tried.reliability(0), 0);
    EXPECT_LE(tried.reliability(0), 1);
  }
  EXPECT_EQ(other.open(), 2u);
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
