#include "predictor/summary.h"

#include <gtest/gtest.h>

#include <cmath>

namespace starling::predictor {
namespace {

size_t Sent(double restlessness, int steps, double tolerance) {
  ForecasterOptions options;
  options.step_s = 7;
  Forecaster forecaster(options);
  SummaryWriter writer(tolerance);
  Summary known;
  size_t sent = 0;
  uint32_t state = 1;
  for (int t = 0; t < steps; ++t) {
    state = state * 1664525u + 1013904223u;
    const double value =
        100 + restlessness * (static_cast<double>(state >> 8) / 8388608.0 - 1) * (t % 50 == 0);
    forecaster.Observe(value);
    uint8_t message[Summary::kMostBytes];
    const size_t size = writer.Write(forecaster, value, message);
    EXPECT_LE(size, sizeof(message));
    if (size > 0) {
      EXPECT_TRUE(ReadSummary(message, size, known));
    }
    sent += size;
    for (int i = 0; i < Summary::kFields; ++i) EXPECT_EQ(known.fields[i], writer.sent().fields[i]);
  }
  return sent;
}

TEST(Summary, TheReaderKnowsWhatWasSent) { EXPECT_GT(Sent(50, 1000, 0.05), 0u); }

TEST(Summary, TheQuietSendLess) {
  const size_t quiet = Sent(0, 1000, 0.05), restless = Sent(50, 1000, 0.05);
  EXPECT_LT(quiet * 5, restless);
  EXPECT_LT(quiet, 100u);
}

TEST(Summary, RefusesWhatIsNoMessage) {
  Summary summary;
  summary.fields[0] = 7;
  const Summary before = summary;
  const uint8_t unknown[] = {0, 0xf0};
  const uint8_t cut[] = {3, 0, 1, 2};
  const uint8_t longer[] = {1, 0, 1, 2, 3};
  const uint8_t no_number[] = {1, 0, 0xc0, 0x7f};
  EXPECT_FALSE(ReadSummary(nullptr, 0, summary));
  EXPECT_FALSE(ReadSummary(unknown, 2, summary));
  EXPECT_FALSE(ReadSummary(cut, 4, summary));
  EXPECT_FALSE(ReadSummary(longer, 5, summary));
  EXPECT_FALSE(ReadSummary(no_number, 4, summary));
  for (int i = 0; i < Summary::kFields; ++i) EXPECT_EQ(summary.fields[i], before.fields[i]);
}

TEST(Summary, BoundsAreRoundedOutwards) {
  ForecasterOptions options;
  options.step_s = 7;
  Forecaster forecaster(options);
  for (int t = 0; t < 300; ++t) forecaster.Observe(1000.3 + (t * 7919 % 13));
  SummaryWriter writer(0.05);
  uint8_t message[Summary::kMostBytes];
  ASSERT_GT(writer.Write(forecaster, 1000, message), 0u);
  for (int i = 0; i < kHorizonCount; ++i) {
    EXPECT_LE(writer.sent().At(i).low, forecaster.At(i).low);
    EXPECT_GE(writer.sent().At(i).high, forecaster.At(i).high);
  }
}

}  // namespace
}  // namespace starling::predictor
