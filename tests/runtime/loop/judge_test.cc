#include "runtime/loop/judge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace starling::loop {
namespace {

using decisions::Action;
using decisions::Decision;
using decisions::Policy;
using decisions::Situation;
using reservations::Resource;
using std::chrono::seconds;
using testing::HasSubstr;

constexpr auto kMemory = static_cast<size_t>(Resource::kMemory);

// A host of 1000 bytes with one component, and another with room.
class JudgeTest : public testing::Test {
 protected:
  JudgeTest() {
    policy_.rules = {{Resource::kMemory, 90, 0.8, 6}, {Resource::kMemory, 0, 0.9, 10}};
    policy_.reserve.within_s = 12;
    policy_.reserve.patience_s = 5;
  }
  // Demand at each horizon, with the component using all of it.
  Decision Step(double now, double soon, double late) {
    now_ += seconds(1);
    situation_ = Situation();
    situation_.host = "node1";
    situation_.capacity[Resource::kMemory] = 1000;
    decisions::Outlook& demand = situation_.demand[kMemory];
    demand.now = now;
    demand.at[0].fill(now);
    demand.at[1].fill(soon);
    demand.at[2].fill(late);
    decisions::ComponentView& component = situation_.components.emplace_back();
    component.name = "redis7";
    component.use[kMemory] = demand;
    decisions::HostView& host = situation_.hosts.emplace_back();
    host.name = "node2";
    host.room[Resource::kMemory] = 10000;
    situation_.leases = leases_;
    return judge_.Decide(now_, policy_, situation_);
  }

  Judge judge_;
  Policy policy_;
  Situation situation_;
  std::vector<decisions::LeaseView> leases_;
  TimePoint now_{seconds(1000)};
};

TEST_F(JudgeTest, ReservesThenMovesThenGivesBack) {
  EXPECT_TRUE(Step(100, 100, 100).steps.empty());
  Decision decision = Step(300, 500, 900);
  ASSERT_EQ(decision.steps.size(), 1u);
  EXPECT_EQ(decision.steps[0].action, Action::kReserve);
  EXPECT_EQ(decision.steps[0].host, "node2");
  decision = Step(500, 900, 1000);
  ASSERT_FALSE(decision.steps.empty());
  EXPECT_EQ(decision.steps[0].action, Action::kMigrate);
  EXPECT_THAT(decision.reason, HasSubstr("P90 in 6 s is 90 %"));
  // It did not come: what was reserved is given back after some calm, and not before.
  leases_ = {{"node1/redis7", "node2", "redis7", reservations::Kind::kSoft,
              situation_.hosts[0].room, 100}};
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Step(100, 100, 100).steps.empty()) << i;
  decision = Step(100, 100, 100);
  ASSERT_EQ(decision.steps.size(), 1u);
  EXPECT_EQ(decision.steps[0].action, Action::kGiveBack);
}

TEST_F(JudgeTest, KnowsForHowLongUseHasBeenAbove) {
  policy_.rules = {{Resource::kMemory, 0, 0.9, 10}};
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(Step(950, 0, 0).short_now) << i;
  EXPECT_TRUE(Step(950, 0, 0).short_now);
  EXPECT_FALSE(Step(850, 0, 0).short_now);
  EXPECT_FALSE(Step(950, 0, 0).short_now) << "counted anew";
}

TEST_F(JudgeTest, ThresholdsGoDownAfterAShortageThatNobodyForesaw) {
  policy_.rules = {{Resource::kMemory, 0, 0.9, 2}};
  Step(100, 100, 100);
  for (int i = 0; i < 30; ++i) Step(950, 0, 0);
  EXPECT_EQ(situation_.threshold_shift, 0);
  Step(100, 100, 100);
  Step(100, 100, 100);
  EXPECT_LT(situation_.threshold_shift, -0.02);
}

TEST_F(JudgeTest, ThresholdsStayAfterOneThatWasForeseen) {
  policy_.rules.push_back({Resource::kMemory, 0, 0.9, 2});
  Step(100, 500, 950);
  for (int i = 0; i < 30; ++i) Step(950, 950, 950);
  for (int i = 0; i < 3; ++i) Step(100, 100, 100);
  EXPECT_EQ(situation_.threshold_shift, 0);
}

TEST_F(JudgeTest, ThresholdsGoUpAfterWhatWasInVain) {
  Step(100, 100, 100);
  judge_.InVain(policy_);
  Step(100, 100, 100);
  EXPECT_GT(situation_.threshold_shift, 0.005);
  EXPECT_LE(situation_.threshold_shift, policy_.thresholds.higher);
}

TEST_F(JudgeTest, RestTakesMoreAfterUsersCameBackSoonAndLessUnderLoad) {
  Step(600, 600, 600);
  EXPECT_NEAR(situation_.idle_shift, 0, 1e-9);
  judge_.CameBack(decisions::Rest::kParked, seconds(5));
  Step(600, 600, 600);
  const double parked = situation_.idle_shift;
  EXPECT_GT(parked, 0.01);
  judge_.CameBack(decisions::Rest::kShrunk, seconds(5));
  Step(600, 600, 600);
  const double both = situation_.idle_shift;
  EXPECT_GT(both, parked);
  EXPECT_LT(both, 2 * parked) << "to have been shrunk is less";
  judge_.CameBack(decisions::Rest::kParked, seconds(500));
  Step(600, 600, 600);
  EXPECT_LT(situation_.idle_shift, both);
  Step(1000, 1000, 1000);
  EXPECT_LT(situation_.idle_shift, 0) << "room is worth more";
}

TEST_F(JudgeTest, TellsWhatIsNew) {
  EXPECT_FALSE(judge_.Tell(now_, Step(100, 100, 100))) << "nothing, from the beginning";
  EXPECT_FALSE(judge_.Tell(now_, Step(100, 100, 100)));
  EXPECT_TRUE(judge_.Tell(now_, Step(300, 500, 900)));
  EXPECT_FALSE(judge_.Tell(now_, Step(300, 510, 910))) << "figures alone are not new";
  EXPECT_TRUE(judge_.Tell(now_, Step(500, 900, 1000)));
  EXPECT_TRUE(judge_.Tell(now_, Step(100, 100, 100))) << "that it is over";
  EXPECT_FALSE(judge_.Tell(now_, Step(100, 100, 100)));
  now_ += seconds(3600);
  EXPECT_FALSE(judge_.Tell(now_, Step(100, 100, 100)));
  EXPECT_TRUE(judge_.Tell(now_, Step(300, 500, 900)));
  now_ += seconds(61);
  EXPECT_TRUE(judge_.Tell(now_, Step(300, 500, 900))) << "it goes on";
}

}  // namespace
}  // namespace starling::loop
