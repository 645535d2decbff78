#include "runtime/loop/scored_demand.h"

#include <gtest/gtest.h>

#include <cmath>

namespace starling::loop {
namespace {

using predictor::Forecast;
using predictor::kHorizonCount;

void Add(ScoredDemand& joint, double value, double width = 10) {
  Forecast forecasts[kHorizonCount];
  for (Forecast& forecast : forecasts) forecast = {value, value - width, value + width};
  joint.Add(value, forecasts);
}

TEST(ScoredDemand, IsTheSumAndKnowsHowFarItWasOff) {
  ScoredDemand joint;
  for (int i = 0; i < 100; ++i) {
    Add(joint, 100 + (i % 2 == 0 ? 3 : -3));
    Add(joint, 50);
    joint.End();
  }
  const auto outlook = joint.outlook();
  EXPECT_NEAR(outlook.now, 150, 3);
  EXPECT_NEAR(outlook.at[0][0], 150, 4);
  const v1::MetricForecast shown = joint.Show("memory", 2, 1000, 5);
  ASSERT_EQ(shown.ahead_size(), kHorizonCount);
  EXPECT_EQ(shown.capacity(), 2000);
  EXPECT_EQ(shown.ahead(1).ahead_s(), 30);
  EXPECT_GT(shown.ahead(0).outcomes(), 90u);
  // The last value as the forecast is off by 6 at each step, by 0 two or twelve steps later.
  EXPECT_NEAR(shown.ahead(0).error(), 12, 0.1);
  EXPECT_NEAR(shown.ahead(1).error(), 0, 0.1);
  EXPECT_GE(shown.ahead(0).p90(), shown.ahead(0).p50());
}

TEST(ScoredDemand, APartThatLeavesIsNoMistake) {
  ScoredDemand joint;
  for (int i = 0; i < 50; ++i) {
    Add(joint, 100);
    Add(joint, 900);
    joint.End();
  }
  joint.Changed();
  Add(joint, 100);
  joint.End();
  EXPECT_EQ(joint.outlook().now, 100);
  EXPECT_LT(joint.outlook().at[0][2], 200);
  EXPECT_NEAR(joint.Show("cpu", 1, 0, 1).ahead(0).error(), 0, 1e-6);
}

// What is told to others follows what there is; the restless tell more.
TEST(ScoredDemand, TellsWhatMoved) {
  size_t bytes[2] = {};
  for (const bool restless : {false, true}) {
    ScoredDemand joint;
    predictor::SummaryWriter writer(0.05);
    predictor::Summary known;
    uint32_t state = 1;
    for (int i = 0; i < 500; ++i) {
      state = state * 1664525u + 1013904223u;
      const double noise = static_cast<double>(state >> 8) / 8388608.0 - 1;
      Add(joint, 1000 + (restless ? 50 * noise : i >= 250 ? 1 : 0));
      joint.End();
      const std::string message = joint.Changes(writer);
      bytes[restless] += message.size();
      if (!message.empty()) {
        ASSERT_TRUE(predictor::ReadSummary(reinterpret_cast<const uint8_t*>(message.data()),
                                           message.size(), known));
      }
      EXPECT_NEAR(known.fields[0], joint.outlook().now, 0.05 * 50) << i;
      EXPECT_NEAR(known.At(1).median, joint.outlook().at[1][0], 0.05 * 50) << i;
    }
  }
  EXPECT_GT(bytes[true], 4 * bytes[false]);
}

TEST(ScoredDemand, TravelsAsASummary) {
  ScoredDemand joint;
  for (int i = 0; i < 20; ++i) {
    Add(joint, 123456789.0 + i, 1000);
    joint.End();
  }
  predictor::SummaryWriter writer(0.05);
  const std::string message = joint.Changes(writer);
  EXPECT_LE(message.size(), predictor::Summary::kMostBytes);
  predictor::Summary summary;
  ASSERT_TRUE(predictor::ReadSummary(reinterpret_cast<const uint8_t*>(message.data()),
                                     message.size(), summary));
  EXPECT_FLOAT_EQ(summary.fields[0], 123456808.0f);
  EXPECT_FLOAT_EQ(static_cast<float>(summary.At(2).median), 123456808.0f);
  EXPECT_GE(summary.At(0).high, joint.outlook().at[0][3]);
}

}  // namespace
}  // namespace starling::loop
