#include "transport/spin_time.h"

#include <gtest/gtest.h>

namespace starling::transport {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(SpinTimeTest, FollowsHowLongWaitsUsuallyTake) {
  SpinTime spin;
  EXPECT_EQ(spin.Next(), SpinTime::kLeast) << "nothing is known yet";
  for (int i = 0; i < 100; ++i) spin.Waited(microseconds(100));
  EXPECT_GT(spin.Next(), microseconds(400));
  EXPECT_LT(spin.Next(), microseconds(1600));
  for (int i = 0; i < 100; ++i) spin.Waited(Duration::zero());
  EXPECT_EQ(spin.Next(), SpinTime::kLeast);
}

TEST(SpinTimeTest, LongWaitsAreSleptThroughAndForgotten) {
  SpinTime spin;
  for (int i = 0; i < 100; ++i) spin.Waited(milliseconds(5));
  EXPECT_EQ(spin.Next(), SpinTime::kLeast);
  for (int i = 0; i < 100; ++i) spin.Waited(microseconds(500));
  const Duration usual = spin.Next();
  EXPECT_GT(usual, milliseconds(3));
  EXPECT_LE(usual, SpinTime::kMost);
  spin.Waited(seconds(100));
  for (int i = 0; i < 8; ++i) spin.Waited(microseconds(500));
  EXPECT_GT(spin.Next(), milliseconds(3)) << "an idle peer";
}

}  // namespace
}  // namespace starling::transport
