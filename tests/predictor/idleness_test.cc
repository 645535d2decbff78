#include "predictor/idleness.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>

namespace starling::predictor {
namespace {

TEST(InputActivity, SeesGaps) {
  InputActivity input;
  EXPECT_FALSE(input.Step(0, {5}));
  EXPECT_FALSE(input.Step(1, {5}));
  EXPECT_TRUE(input.Step(12, {5}));
  EXPECT_EQ(input.last_gap_s(), 10);
  EXPECT_FALSE(input.Step(11, {5}));  // a clock set back
  EXPECT_FALSE(input.Step(std::numeric_limits<double>::quiet_NaN(), {5}));
}

TEST(InputActivity, GivesNumbersWhateverComes) {
  InputActivity input;
  IdleFeatures x;
  input.Features(x);
  const double odd[] = {1e300, -5, std::numeric_limits<double>::infinity(),
                        std::numeric_limits<double>::quiet_NaN()};
  for (int t = 0; t < 100; ++t) {
    const double value = odd[t % 4];
    input.Step(t * 3, {value, value, value, value, value, value, value, value, value});
    input.Features(x);
    for (const float one : x) ASSERT_TRUE(std::isfinite(one)) << t;
  }
}

TEST(IdleModel, LearnsWhatComesBeforeALongGap) {
  // After a click the user goes; after moving the pointer she is back at once.
  const auto model = std::make_unique<IdleModel>();
  IdleFeatures after_click, after_move;
  for (int round = 0; round < 4; ++round) {
    InputActivity input;
    double now = 0;
    for (int i = 0; i < 600; ++i) {
      const bool click = i % 3 == 0;
      for (int s = 0; s < 3; ++s) input.Step(now += 1, {4});
      Activity last;
      (click ? last.clicks : last.moves) = 2;
      input.Step(now += 1, last);
      IdleFeatures& x = click ? after_click : after_move;
      input.Features(x);
      const double gap = click ? 90 : 4;
      model->Learn(x, gap, 1);
      now += gap;
    }
  }
  EXPECT_GT(model->Probability(after_click, 3), 0.8);
  EXPECT_LT(model->Probability(after_move, 3), 0.2);
}

TEST(IdleThreshold, MovesWithMistakesAndLoad) {
  IdleThreshold threshold(0.7);
  EXPECT_NEAR(threshold.At(0.6), 0.7, 1e-9);
  EXPECT_LT(threshold.At(0.95), 0.7);
  EXPECT_GT(threshold.At(0.1), 0.7);
  for (int i = 0; i < 5; ++i) threshold.Mistake(2);
  const double after = threshold.At(0.6);
  EXPECT_GT(after, 0.75);
  for (int i = 0; i < 100; ++i) threshold.Right();
  EXPECT_LT(threshold.At(0.6), 0.705);
  EXPECT_LT(threshold.At(std::numeric_limits<double>::quiet_NaN()), 0.8);
}

TEST(IdleModel, GoesOnWhereItWas) {
  IdleModel model;
  InputActivity input;
  IdleFeatures x;
  Activity activity;
  activity.keys = 3;
  for (int i = 0; i < 200; ++i) {
    input.Step(i * 50, activity);
    input.Features(x);
    model.Learn(x, 49, 1);
  }
  const std::string saved = model.Save();
  IdleModel other;
  ASSERT_NE(other.Probability(x, 5), model.Probability(x, 5));
  ASSERT_TRUE(other.Restore(saved));
  EXPECT_EQ(other.Probability(x, 5), model.Probability(x, 5));
  model.Learn(x, 49, 1);
  other.Learn(x, 49, 1);
  EXPECT_EQ(other.Probability(x, 5), model.Probability(x, 5));
  // What is none changes nothing.
  const double before = other.Probability(x, 5);
  EXPECT_FALSE(other.Restore(""));
  EXPECT_FALSE(other.Restore(saved.substr(1)));
  std::string bad = saved;
  for (size_t i = 100; i < 108; ++i) bad[i] = static_cast<char>(0xff);  // not a number
  EXPECT_FALSE(other.Restore(bad));
  EXPECT_EQ(other.Probability(x, 5), before);
}

}  // namespace
}  // namespace starling::predictor
