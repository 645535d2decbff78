#include "runtime/migration/slowdown.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "runtime/migration/blackout_history.h"

namespace starling::migration {
namespace {

using std::chrono::milliseconds;

class SlowdownGovernorTest : public testing::Test {
 protected:
  // A tenth of a second in which the component waited for a share of it and used some processors.
  void Pass(SlowdownGovernor& governor, double waited, double used = 0) {
    (void)governor.Rest(read_, milliseconds(1));
    now_ += milliseconds(100);
    times_.stalled += std::chrono::duration_cast<Duration>(milliseconds(100) * waited);
    times_.used += std::chrono::duration_cast<Duration>(milliseconds(100) * used);
    EXPECT_TRUE(governor.Due(now_));
    governor.Look(now_, times_);
    EXPECT_FALSE(governor.Due(now_));
  }
  uint64_t read_ = 100'000'000;  // in each tenth
  TimePoint now_ = TimePoint{} + std::chrono::hours(1);
  ProcessorTimes times_;
};

TEST_F(SlowdownGovernorTest, HoldsBackBeyondTheBoundAndComesBack) {
  SlowdownGovernor governor(0.15, {.stalled = 0.1, .used = 1});
  Pass(governor, 0.1, 1);
  for (int i = 0; i < 20; ++i) Pass(governor, 0.3, 0.87);
  EXPECT_EQ(governor.share(), 1) << "0.15 less is allowed";
  for (int i = 0; i < 20; ++i) Pass(governor, 0.3, 0.5);
  const double share = governor.share();
  EXPECT_LT(share, 0.1);
  EXPECT_GE(share, 0.01);
  EXPECT_EQ(governor.lowest_share(), share);
  EXPECT_NEAR(Milliseconds(governor.Rest(0, milliseconds(2))), 2 * (1 - share) / share, 0.01);
  EXPECT_NEAR(Milliseconds(governor.Rest(0, std::chrono::seconds(2))), 5 * (1 - share) / share,
              0.01)
      << "it can only have been kept from a processor itself";
  for (int i = 0; i < 60; ++i) Pass(governor, 0.1, 1);
  EXPECT_EQ(governor.share(), 1);
  EXPECT_EQ(governor.Rest(0, milliseconds(10)), Duration::zero());
  EXPECT_LE(governor.lowest_share(), share);
}

// One of which less is asked than before the move has less to do, and does not wait.
TEST_F(SlowdownGovernorTest, HoldsNothingBackForOneThatIsAskedLess) {
  SlowdownGovernor governor(0.05, {.stalled = 0.05, .used = 1});
  for (int i = 0; i < 50; ++i) Pass(governor, 0.1, 0.4);
  EXPECT_EQ(governor.lowest_share(), 1);
}

// Of what a server lacks while it is held up it waits for a part; the rest it is idle, since those
// are held up, too, that ask it.
TEST_F(SlowdownGovernorTest, HoldsBackForOneWhoseClientsAreHeldUpAsWell) {
  SlowdownGovernor governor(0.15, {.stalled = 0.02, .used = 0.9});
  for (int i = 0; i < 20; ++i) Pass(governor, 0.2, 0.6);
  EXPECT_LT(governor.share(), 1);
}

// A program that wakes up a thousand times a second for next to nothing waits each time, and gets
// done what it has to do all the same.
TEST_F(SlowdownGovernorTest, HoldsNothingBackForOneThatGetsAllDone) {
  SlowdownGovernor governor(0.05, {.stalled = 0, .used = 0.1});
  Pass(governor, 0, 0.1);
  for (int i = 0; i < 50; ++i) Pass(governor, 0.9, 0.1);
  EXPECT_EQ(governor.lowest_share(), 1);
  // Nor for one that leaves out some of the little that it does.
  for (int i = 0; i < 50; ++i) Pass(governor, 0.9, 0.06);
  EXPECT_EQ(governor.lowest_share(), 1);
}

TEST_F(SlowdownGovernorTest, SeesWithinTenthsOfASecondThatLessIsDone) {
  SlowdownGovernor governor(0.1, {.stalled = 0, .used = 0.8});
  for (int i = 0; i < 10; ++i) Pass(governor, 0.9, 0.74);
  EXPECT_EQ(governor.lowest_share(), 1) << "nine tenths are allowed";
  for (int i = 0; i < 3; ++i) Pass(governor, 0.9, 0.4);
  EXPECT_LT(governor.share(), 1);
}

TEST_F(SlowdownGovernorTest, AlwaysLeavesSomething) {
  SlowdownGovernor governor(0, {.stalled = 0, .used = 1});
  for (int i = 0; i < 50; ++i) Pass(governor, 1);
  EXPECT_NEAR(governor.share(), 0.01, 1e-9);
  EXPECT_GT(governor.Rest(0, milliseconds(1)), Duration::zero());
  // A link that is slower is not made slower still.
  SlowdownGovernor slow(0, {.stalled = 0, .used = 1});
  read_ = 12'000'000;
  for (int i = 0; i < 50; ++i) Pass(slow, 1);
  EXPECT_EQ(slow.Rest(0, milliseconds(1)), Duration::zero());
  EXPECT_EQ(slow.lowest_share(), 1);
}

TEST_F(SlowdownGovernorTest, HasNoBoundAtOne) {
  SlowdownGovernor governor(1, {});
  EXPECT_FALSE(governor.Due(now_));
}

class CgroupFilesTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/starling-slowdown-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }
  void Write(const std::string& file, const std::string& text) {
    std::ofstream(absl::StrCat(folder_, "/", file)) << text;
  }
  std::string folder_;
};

TEST_F(CgroupFilesTest, StallIsWhatSomeTaskWaited) {
  EXPECT_EQ(ReadProcessorTimes(folder_).status().code(), absl::StatusCode::kNotFound);
  Write("cpu.stat", "usage_usec 77\nuser_usec 5\n");
  Write("cpu.pressure",
        "some avg10=1.53 avg60=0.87 avg300=0.73 total=1523000\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n");
  EXPECT_EQ(ReadProcessorTimes(folder_)->stalled, milliseconds(1523));
  EXPECT_EQ(ReadProcessorTimes(folder_)->used, std::chrono::microseconds(77));
  Write("cpu.pressure", "some avg10=1.53\n");
  EXPECT_FALSE(ReadProcessorTimes(folder_).ok());
}

TEST_F(CgroupFilesTest, ThrottleGoesByWhatIsUsed) {
  Throttle throttle(folder_);
  const TimePoint start = TimePoint{} + std::chrono::hours(1);
  Write("cpu.stat", "usage_usec 1000000\nuser_usec 5\n");
  throttle.Look(start);
  // Two processors for a second.
  Write("cpu.stat", "usage_usec 3000000\nuser_usec 5\n");
  EXPECT_EQ(throttle.Tighten(start + std::chrono::seconds(1)).status().code(),
            absl::StatusCode::kFailedPrecondition);
  Write("cpu.max", "max 100000");
  Write("cpu.stat", "usage_usec 5000000\nuser_usec 5\n");
  EXPECT_NEAR(throttle.Tighten(start + std::chrono::seconds(2)).value(), 1.4, 1e-9);
  EXPECT_EQ(ReadFile(folder_ + "/cpu.max").value().substr(0, 13), "140000 100000");
  Write("cpu.stat", "usage_usec 6400000\nuser_usec 5\n");
  EXPECT_NEAR(throttle.Tighten(start + std::chrono::seconds(3)).value(), 0.98, 1e-9);
  // One that hardly uses what it has is not taken for one that needs nothing.
  EXPECT_NEAR(throttle.Tighten(start + std::chrono::seconds(4)).value(), 0.98 * 0.49, 1e-9);
  Throttle::Lift(folder_);
  EXPECT_EQ(ReadFile(folder_ + "/cpu.max").value().substr(0, 3), "max");
}

TEST(BlackoutHistory, LearnsOfEachComponentAndOfAll) {
  BlackoutHistory history;
  const double guess = history.Expected("redis");
  EXPECT_GT(guess, 0);
  history.Learn("redis", 1.0, 0.2);
  EXPECT_NEAR(history.Expected("redis"), 0.8, 1e-9);
  EXPECT_NEAR(history.Expected("nginx"), 0.8, 1e-9) << "the best that is known of others";
  history.Learn("redis", 0.5, 0.1);
  EXPECT_NEAR(history.Expected("redis"), 0.6, 1e-9);
  history.Learn("nginx", 0.1, 0.3);
  EXPECT_EQ(history.Expected("nginx"), 0);
  EXPECT_NEAR(history.Expected("redis"), 0.6, 1e-9);
}

}  // namespace
}  // namespace starling::migration
