#include "runtime/decisions/follow_use.h"

#include <gtest/gtest.h>

#include "base/units.h"
#include "runtime/decisions/rest.h"
#include "tests/runtime/decisions/views.h"

namespace starling::decisions {
namespace {

constexpr int64_t kMiB = 1 << 20;

class FollowUseTest : public testing::Test {
 protected:
  FollowUseTest() {
    policy_.allow.limits = true;
    policy_.limits.headroom = 1.5;
    situation_.step_s = 10;
    situation_.capacity[Resource::kCpu] = 16000;
    situation_.capacity[Resource::kMemory] = 64 * static_cast<int64_t>(kGiB);
    component_.name = "a";
    component_.settled = true;
    Uses(1, 1000);
  }
  void Uses(double processors, double mib) {
    component_.use[kCpu] = Flat(1000 * processors, 1000 * processors);
    component_.use[kMemory] = Flat(mib * kMiB, mib * kMiB);
  }
  std::optional<Step> Follow() {
    situation_.components.assign(components_, component_);
    return FollowUse(component_, situation_, policy_, mean_cpu_);
  }
  // Steps until nothing changes, as the loop takes them. Returns how many.
  int Settle() {
    int steps = 0;
    for (; steps < 100; ++steps) {
      const auto step = Follow();
      if (!step) break;
      component_.limit = step->amount;
      component_.weight = step->weight;
    }
    return steps;
  }

  Policy policy_;
  Situation situation_;
  ComponentView component_;
  size_t components_ = 1;
  double mean_cpu_ = 1000;
};

TEST_F(FollowUseTest, NotUnlessTheOwnerWantsIt) {
  policy_.allow.limits = false;
  EXPECT_FALSE(Follow());
  component_.limit[Resource::kCpu] = 1500;
  const auto step = Follow();
  ASSERT_TRUE(step);
  EXPECT_EQ(step->action, Action::kLimits);
  EXPECT_EQ(step->amount, Amounts()) << "its own again";
  EXPECT_EQ(step->weight, 0);
}

TEST_F(FollowUseTest, ShrinkUntilTheyFitAndStay) {
  EXPECT_GT(Settle(), 1) << "not at once";
  EXPECT_GE(component_.limit[Resource::kCpu], 1500);
  EXPECT_LE(component_.limit[Resource::kCpu], 1.25 * 1500);
  EXPECT_GE(component_.limit[Resource::kMemory], 1500 * kMiB);
  EXPECT_LE(component_.limit[Resource::kMemory], 1.25 * 1500 * kMiB);
  // A little more or less is within them.
  Uses(0.95, 980);
  EXPECT_FALSE(Follow());
}

TEST_F(FollowUseTest, NothingIsHeldBackThatIsNotKnownYet) {
  component_.settled = false;
  EXPECT_FALSE(Follow());
  // As after a move: but what it has grows.
  component_.limit[Resource::kCpu] = 1200;
  const auto step = Follow();
  ASSERT_TRUE(step);
  EXPECT_GE(step->amount[Resource::kCpu], 1500);
}

TEST_F(FollowUseTest, GrowAtOnceWithTheForecast) {
  Settle();
  component_.use[kCpu] = Flat(1000, 6000);
  const auto step = Follow();
  ASSERT_TRUE(step);
  EXPECT_GE(step->amount[Resource::kCpu], 9000);
}

TEST_F(FollowUseTest, WhatPressesAgainstItsLimitGetsMoreUntilItDoesNot) {
  Settle();
  // Held back, it uses what it may, and is foreseen to.
  const double wants = 8000;
  int steps = 0;
  for (; steps < 20; ++steps) {
    const auto limit = static_cast<double>(component_.limit[Resource::kCpu]);
    const double uses = limit > 0 ? std::min(wants, limit) : wants;
    component_.use[kCpu] = Flat(uses, uses);
    const auto step = Follow();
    if (!step) break;
    component_.limit = step->amount;
  }
  EXPECT_LT(steps, 10);
  const int64_t limit = component_.limit[Resource::kCpu];
  EXPECT_TRUE(limit == 0 || limit > 8000) << limit;
}

TEST_F(FollowUseTest, StayWithinLeaseAndSpecification) {
  Uses(0.1, 10);
  component_.least[Resource::kCpu] = 2000;
  component_.least[Resource::kMemory] = 500 * kMiB;
  Settle();
  EXPECT_GE(component_.limit[Resource::kCpu], 2000) << "it was promised so much";
  EXPECT_GE(component_.limit[Resource::kMemory], 500 * kMiB);
  Uses(3, 900);
  component_.most[Resource::kCpu] = 3500;
  component_.most[Resource::kMemory] = 1000 * kMiB;
  Settle();
  EXPECT_EQ(component_.limit[Resource::kCpu], 3500) << "the rest is promised to others";
  EXPECT_EQ(component_.limit[Resource::kMemory], 1000 * kMiB);
  // What it has in use already is not taken from it.
  Uses(3, 1200);
  Settle();
  EXPECT_GE(component_.limit[Resource::kMemory], 1200 * kMiB);
}

TEST_F(FollowUseTest, AllOfTheHostIsNoLimit) {
  Uses(15, 60000);
  EXPECT_EQ(Settle(), 0);
  EXPECT_EQ(component_.limit, Amounts());
}

TEST_F(FollowUseTest, WeightsStandAsUseDoes) {
  components_ = 2;
  mean_cpu_ = 500;
  const auto step = Follow();
  ASSERT_TRUE(step);
  EXPECT_EQ(step->weight, 200);
  component_.weight = 200;
  component_.limit = step->amount;
  Settle();
  mean_cpu_ = 450;
  EXPECT_FALSE(Follow()) << "222 is near enough";
  mean_cpu_ = 1;
  ASSERT_TRUE(Follow());
  EXPECT_EQ(Follow()->weight, 400);
  Uses(0, 1000);
  mean_cpu_ = 1000;
  EXPECT_EQ(Follow()->weight, 25);
}

TEST_F(FollowUseTest, WhatRestsKeepsWhatItHas) {
  component_.rest = Rest::kParked;
  EXPECT_FALSE(Follow());
}

TEST_F(FollowUseTest, ComesAfterWhatIsShortAndWhoWantsMoreComesFirst) {
  policy_.max_steps = 1;
  ComponentView grows = component_;
  grows.name = "b";
  grows.limit[Resource::kCpu] = 500;
  situation_.components = {component_, grows};
  const Decision decision = Decide(situation_, policy_);
  ASSERT_EQ(decision.steps.size(), 1u);
  EXPECT_EQ(decision.steps[0].component, "b");
  EXPECT_EQ(decision.reason, "no shortage is expected");
}

class RestTest : public testing::Test {
 protected:
  RestTest() {
    policy_.idle.rest = Rest::kParked;
    component_.name = "a";
    component_.away_s = 400;
    component_.idle_probability = 0.95;
  }
  std::optional<Action> Next() {
    const auto step = RestOrWake(component_, policy_, shift_);
    return step ? std::optional(step->action) : std::nullopt;
  }
  Policy policy_;
  ComponentView component_;
  double shift_ = 0;
};

TEST_F(RestTest, LoadAndMistakesMoveTheProbability) {
  component_.idle_probability = 0.85;
  EXPECT_EQ(Next(), std::nullopt);
  shift_ = -0.08;
  EXPECT_EQ(Next(), Action::kPark) << "room is scarce";
  component_.idle_probability = 0.95;
  shift_ = 0.06;
  EXPECT_EQ(Next(), std::nullopt) << "users came back soon";
  component_.idle_probability = 0.99;
  shift_ = 5;
  EXPECT_EQ(Next(), Action::kPark) << "there is a highest";
  component_.idle_probability = 0.4;
  shift_ = -5;
  EXPECT_EQ(Next(), std::nullopt) << "and a lowest";
}

TEST_F(RestTest, WhoseUserIsAwayIsPutToRestAsThePolicySays) {
  EXPECT_EQ(Next(), Action::kPark);
  policy_.idle.rest = Rest::kShrunk;
  EXPECT_EQ(Next(), Action::kShrink);
  for (const Rest rest : {Rest::kNone, Rest::kMoved, Rest::kParkedAway}) {
    policy_.idle.rest = rest;
    EXPECT_EQ(Next(), std::nullopt);
  }
}

TEST_F(RestTest, NotWhoMightBeWanted) {
  const ComponentView before = component_;
  component_.idle_probability = 0.85;
  EXPECT_EQ(Next(), std::nullopt);
  component_ = before;
  component_.away_s = 200;
  EXPECT_EQ(Next(), std::nullopt);
  component_.away_s = -1;
  EXPECT_EQ(Next(), std::nullopt) << "it never told of a user";
  component_ = before;
  component_.usual = true;
  EXPECT_EQ(Next(), std::nullopt);
  component_ = before;
  component_.not_now_s = 5;
  EXPECT_EQ(Next(), std::nullopt);
  component_ = before;
  component_.movable = false;
  EXPECT_EQ(Next(), std::nullopt) << "something else is being done to it";
}

TEST_F(RestTest, IsWokenWhenItsUserIsExpected) {
  component_.rest = Rest::kParked;
  EXPECT_EQ(Next(), std::nullopt);
  component_.idle_probability = 0.8;
  EXPECT_EQ(Next(), std::nullopt) << "a little less is not yet";
  component_.idle_probability = 0.6;
  EXPECT_EQ(Next(), Action::kWake);
  component_.rests_by_hand = true;
  EXPECT_EQ(Next(), std::nullopt);
  component_.rests_by_hand = false;
  component_.idle_probability = 0.95;
  component_.usual = true;
  EXPECT_EQ(Next(), Action::kWake);
  component_.usual = false;
  policy_.idle.rest = Rest::kNone;
  EXPECT_EQ(Next(), Action::kWake);
}

TEST_F(RestTest, WhoWasSentHereRestsWhateverThePolicySaysOfOthers) {
  policy_.idle.rest = Rest::kNone;
  component_.rest = Rest::kParked;
  component_.sent_to_rest = true;
  EXPECT_EQ(Next(), std::nullopt);
  component_.idle_probability = 0;
  EXPECT_EQ(Next(), std::nullopt) << "nothing is known of users here";
  component_.usual = true;
  EXPECT_EQ(Next(), Action::kWake);
}

TEST_F(RestTest, IsPartOfTheDecision) {
  Situation situation;
  situation.components = {component_};
  const Decision decision = Decide(situation, policy_);
  ASSERT_EQ(decision.steps.size(), 1u);
  EXPECT_EQ(decision.steps[0].action, Action::kPark);
}

}  // namespace
}  // namespace starling::decisions
