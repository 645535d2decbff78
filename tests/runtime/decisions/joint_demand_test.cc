#include "runtime/decisions/joint_demand.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace starling::decisions {
namespace {

constexpr size_t kP95 = 3;  // of kLevels

void All(predictor::Forecast (&forecasts)[predictor::kHorizonCount], double median, double high) {
  for (predictor::Forecast& forecast : forecasts) forecast = {median, 2 * median - high, high};
}

TEST(Quantiles, LieBetweenMedianAndBoundAndBeyond) {
  const auto quantiles = Quantiles({100, 50, 200});
  EXPECT_EQ(quantiles[0], 100);
  EXPECT_NEAR(quantiles[1], 141, 1);
  EXPECT_NEAR(quantiles[2], 178, 1);
  EXPECT_EQ(quantiles[3], 200);
  EXPECT_GT(quantiles[4], 200);
  // Bounds that are no bounds.
  for (const double quantile : Quantiles({100, 50, 20})) EXPECT_EQ(quantile, 100);
  for (const double quantile : Quantiles({-5, -9, -1})) EXPECT_GE(quantile, 0);
}

TEST(JointDemand, WhoComesUntoldTeachesNothing) {
  JointDemand told, untold;
  const auto step = [](JointDemand& joint, double value, int parts) {
    predictor::Forecast forecasts[predictor::kHorizonCount];
    for (predictor::Forecast& forecast : forecasts) forecast = {value, value - 5, value + 5};
    for (int i = 0; i < parts; ++i) joint.Add(value, forecasts);
    joint.End();
  };
  for (int i = 0; i < 50; ++i) {
    step(told, 100, 1);
    step(untold, 100, 1);
  }
  told.Changed();
  for (JointDemand* joint : {&told, &untold}) step(*joint, 100, 3);
  EXPECT_EQ(told.At().now, 300);
  EXPECT_LT(told.At().at[0][3] - 300, untold.At().at[0][3] - 300);
}

TEST(OutlookTest, NothingExceedsWhatThereIs) {
  predictor::Forecast forecasts[predictor::kHorizonCount];
  All(forecasts, 50, 90);
  Outlook outlook = OutlookOf(40, forecasts);
  EXPECT_EQ(outlook.now, 40);
  EXPECT_EQ(outlook.at[0][0], 50);
  EXPECT_EQ(outlook.at[0][kP95], 90);
  EXPECT_GT(outlook.at[0][4], 90);
  outlook = OutlookOf(40, forecasts, 60);
  EXPECT_EQ(outlook.at[0][0], 50);
  EXPECT_EQ(outlook.at[0][kP95], 60);
  EXPECT_EQ(outlook.at[0][4], 60);
}

// Twenty components whose own intervals are far too wide: the sum's is not for long.
TEST(JointDemandTest, LearnsFromTheSumHowWideItIs) {
  std::mt19937 random(1);
  std::normal_distribution<double> noise(0, 1);
  JointDemand joint;
  predictor::Forecast forecasts[predictor::kHorizonCount];
  All(forecasts, 10, 30);  // P95 is 11.6
  int above = 0;
  double width = 0;
  for (int step = 0; step < 1000; ++step) {
    double sum = 0;
    for (int i = 0; i < 20; ++i) {
      const double value = 10 + noise(random);
      sum += value;
      joint.Add(value, forecasts);
    }
    if (step >= 100) {
      above += sum > joint.At().at[0][kP95];
      width += joint.At().at[0][kP95] - joint.At().at[0][0];
    }
    joint.End();
  }
  EXPECT_GT(above, 9);  // 5 % of 900 are due, and a first guess that is too wide narrows slowly
  EXPECT_LT(above, 63);
  EXPECT_NEAR(width / 900, 1.645 * std::sqrt(20.0), 2.5);  // naively 89
}

TEST(JointDemandTest, SeesAtOnceWhatComesAndGoes) {
  JointDemand joint;
  predictor::Forecast small[predictor::kHorizonCount], large[predictor::kHorizonCount];
  All(small, 10, 13);
  All(large, 40, 44);
  joint.Add(10, small);
  joint.Add(40, large, 42);  // it cannot use more
  joint.End();
  const double both = joint.At().at[0][kP95] - joint.At().at[0][0];
  EXPECT_EQ(joint.At().now, 50);
  EXPECT_EQ(joint.At().at[0][0], 50);
  joint.Leave(40, large, 42);
  EXPECT_EQ(joint.At().now, 10);
  EXPECT_EQ(joint.At().at[0][0], 10);
  EXPECT_NEAR((joint.At().at[0][kP95] - 10) / both, 3 / std::sqrt(13.0), 1e-9);
  joint.Join(40, large, 42);
  EXPECT_NEAR(joint.At().at[0][kP95] - joint.At().at[0][0], both, 1e-9);
}

}  // namespace
}  // namespace starling::decisions
