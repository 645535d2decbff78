#include "runtime/loop/ghost_needs.h"

#include <gtest/gtest.h>

namespace starling::loop {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;

class GhostNeedsTest : public testing::Test {
 protected:
  // Minutes, in each of which something is decided ten times.
  void Live(int count, bool needed) {
    for (int i = 0; i < 10 * count; ++i) {
      if (needed) needs_.Needed("web", "node2", now_);
      now_ += seconds(6);
      needs_.Step(now_);
    }
  }
  double Again() const { return needs_.Again("web", "node2"); }

  GhostNeeds needs_;
  TimePoint now_{std::chrono::hours(1000)};
};

TEST_F(GhostNeedsTest, NothingSpeaksForWhatWasNeededOnce) {
  EXPECT_EQ(Again(), 0);
  needs_.Step(now_);
  Live(3, true);
  EXPECT_EQ(Again(), 0);
  Live(10, false);
  EXPECT_EQ(Again(), 0);
  EXPECT_NEAR(needs_.UnneededFor("web", "node2", now_), 600, 7);
  Live(1, true);
  EXPECT_GT(Again(), 0);
  EXPECT_LT(needs_.UnneededFor("web", "node2", now_), 7);
  EXPECT_EQ(needs_.Again("web", "node3"), 0);
}

// Needed each quarter of an hour for hours: in the minute before it is, that is known.
TEST_F(GhostNeedsTest, ARhythmIsLearned) {
  needs_.Step(now_);
  for (int i = 0; i < 120; ++i) {
    Live(2, true);
    Live(13, false);
  }
  const double due = Again();
  Live(2, true);
  Live(5, false);
  EXPECT_GT(due, 0.3);
  EXPECT_LT(Again(), 0.5 * due);
}

TEST_F(GhostNeedsTest, AHostThatSleptLearnsNoMoreThanItCan) {
  needs_.Step(now_);
  Live(2, true);
  now_ += std::chrono::hours(24 * 365);
  needs_.Step(now_);
  Live(2, true);
  EXPECT_GT(Again(), 0);
}

TEST_F(GhostNeedsTest, WhatKeepsAGhostFreshIsSeenFromItsRounds) {
  const auto saw = [&](uint32_t rounds, uint64_t bytes) {
    needs_.Saw("web", "node2", rounds, bytes, now_);
    now_ += seconds(5);
  };
  saw(0, 0);
  saw(0, 50'000'000);
  saw(1, 100'000'000);
  // The first one has everything, which says nothing.
  EXPECT_FALSE(needs_.WrittenPerSecond("web").has_value());
  saw(2, 105'000'000);
  EXPECT_NEAR(needs_.WrittenPerSecond("web").value(), 1e6, 1);
  saw(3, 110'000'000);
  EXPECT_NEAR(needs_.WrittenPerSecond("web").value(), 1e6, 1);
  EXPECT_NEAR(needs_.Age("web", "node2", now_), 25, 1e-3);
  // One that is made anew sends everything once more, and what was known stays.
  saw(1, 100'000'000);
  EXPECT_NEAR(needs_.Age("web", "node2", now_), 5, 1e-3);
  EXPECT_NEAR(needs_.WrittenPerSecond("web").value(), 1e6, 1);
  needs_.Gone("web", "node2");
  EXPECT_EQ(needs_.Age("web", "node2", now_), 0);
  needs_.KeepOnly([](const std::string& component) { return component != "web"; });
  EXPECT_FALSE(needs_.WrittenPerSecond("web").has_value());
}

TEST_F(GhostNeedsTest, WhatWasGivenUpRests) {
  EXPECT_TRUE(needs_.MayStage("web", now_, 60));
  needs_.GivenUp("web", now_);
  EXPECT_FALSE(needs_.MayStage("web", now_ + seconds(59), 60));
  EXPECT_TRUE(needs_.MayStage("web", now_ + seconds(60), 60));
  EXPECT_TRUE(needs_.MayStage("other", now_, 60));
}

TEST_F(GhostNeedsTest, IsBounded) {
  needs_.Needed("web", "node2", now_);
  for (size_t i = 0; i < GhostNeeds::kMost + 10; ++i) {
    now_ += seconds(1);
    needs_.Needed("web" + std::to_string(i), "node2", now_);
  }
  // The oldest is forgotten.
  EXPECT_EQ(needs_.UnneededFor("web", "node2", now_), 0);
  EXPECT_GT(needs_.UnneededFor("web20", "node2", now_), 0);
}

}  // namespace
}  // namespace starling::loop
