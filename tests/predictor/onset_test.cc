#include "predictor/onset.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

namespace starling::predictor {
namespace {

// A load that climbs for an hour before each of its peaks: whoever looks can see them come.
double Load(int t) {
  const int phase = t % 60;
  return phase < 40 ? 20 : phase < 52 ? 20 + 5 * (phase - 40) : 95;
}

TEST(OnsetModel, SeesAClimbingLoadComing) {
  ForecasterOptions options;
  options.step_s = 7;
  Forecaster forecaster(options);
  OnsetWatch watch(80);
  const auto model = std::make_unique<OnsetModel>();
  struct Past {
    OnsetFeatures x;
    double score = 0;
    bool below = false;
  };
  std::vector<Past> past(4000);
  double coming = 0, calm = 0;
  int comings = 0, calms = 0;
  constexpr int kHorizon = 1;  // 6 steps
  for (int t = 0; t < 4000; ++t) {
    const double value = Load(t);
    if (t >= 6 && past[t - 6].below) {
      model->Learn(kHorizon, past[t - 6].x, value > 80);
      if (t > 2000) {
        (value > 80 ? coming : calm) += past[t - 6].score;
        ++(value > 80 ? comings : calms);
      }
    }
    forecaster.Observe(value);
    watch.Step(value);
    watch.Features(forecaster, kHorizon, past[t].x);
    for (const float one : past[t].x) ASSERT_TRUE(std::isfinite(one));
    past[t].below = value <= 80;
    past[t].score = model->Score(kHorizon, past[t].x, OddsAbove(forecaster, kHorizon, 80));
    ASSERT_TRUE(past[t].score >= 0 && past[t].score <= 1);
  }
  ASSERT_GT(comings, 0);
  EXPECT_GT(coming / comings, 0.5);
  EXPECT_LT(calm / calms, 0.1);
}

}  // namespace
}  // namespace starling::predictor
