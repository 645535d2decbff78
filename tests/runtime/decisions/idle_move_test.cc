#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tuple>

#include "absl/strings/str_replace.h"
#include "base/units.h"
#include "runtime/decisions/decide.h"
#include "runtime/decisions/decision_log.h"
#include "runtime/decisions/rest.h"
#include "tests/runtime/decisions/views.h"

// Components whose users are away move to a cheaper or an emptier host.

namespace starling::decisions {
namespace {

using testing::HasSubstr;

constexpr auto kBytes = static_cast<int64_t>(kGiB);

class IdleMoveTest : public testing::Test {
 protected:
  // A host with 10 processors and 100 GiB, of which 60 are in use; idle has 20 of them.
  IdleMoveTest() {
    policy_.idle.rest = Rest::kMoved;
    s_.host = "here";
    s_.step_s = 10;
    s_.capacity[Resource::kCpu] = 10000;
    s_.capacity[Resource::kMemory] = 100 * kBytes;
    s_.demand[kCpu] = Flat(3000);
    s_.demand[kMemory] = Flat(60.0 * kGiB);
    for (const auto& [name, cpu, gib] :
         {std::tuple("busy", 2900.0, 40.0), std::tuple("idle", 100.0, 20.0)}) {
      ComponentView& component = s_.components.emplace_back();
      component.name = name;
      component.use[kCpu] = Flat(cpu);
      component.use[kMemory] = Flat(gib * kGiB);
      component.move_bytes = gib * kGiB;
      component.move_blackout_s = 0.1;
    }
    s_.components[1].away_s = 400;
    s_.components[1].idle_probability = 0.95;
    AddHost("there", 9, 80);
  }
  void AddHost(const std::string& name, int cpu, int gib) {
    HostView& host = s_.hosts.emplace_back();
    host.name = name;
    host.room[Resource::kCpu] = 1000 * cpu;
    host.room[Resource::kMemory] = gib * kBytes;
    host.bytes_per_s = 1e9;
  }
  std::string Steps() {
    decision_ = Decide(s_, policy_);
    return Only(decision_);
  }

  Policy policy_;
  Situation s_;
  Decision decision_;
};

TEST_F(IdleMoveTest, MakesRoomWhereOthersAreAtWork) {
  EXPECT_EQ(Steps(), "migrate idle there");
  EXPECT_TRUE(decision_.steps[0].while_idle);
  EXPECT_THAT(decision_.steps[0].reason, HasSubstr("away for 400 s"));
  EXPECT_THAT(decision_.steps[0].reason, HasSubstr("it makes room"));
  EXPECT_EQ(decision_.steps[0].amount[Resource::kMemory], 20 * kBytes);
  EXPECT_EQ(decision_.reason, "no shortage is expected");
  EXPECT_FALSE(decision_.steps[0].park);
  policy_.idle.rest = Rest::kParkedAway;
  EXPECT_EQ(Steps(), "migrate idle there");
  EXPECT_TRUE(decision_.steps[0].park);
}

TEST_F(IdleMoveTest, OnlyAsThePolicyWantsIt) {
  policy_.idle.rest = Rest::kNone;
  EXPECT_EQ(Steps(), "");
  policy_.idle.rest = Rest::kMoved;
  policy_.allow.migrate = false;
  EXPECT_EQ(Steps(), "");
  policy_.allow.migrate = true;
  policy_.max_moves = 0;
  EXPECT_EQ(Steps(), "");
  policy_.max_moves = 2;
  policy_.avoid = {"there"};
  EXPECT_EQ(Steps(), "");
  policy_.avoid = {};
  policy_.quiet = {{0, 7 * 24 * 60}};
  EXPECT_EQ(Steps(), "");
}

TEST_F(IdleMoveTest, NotWhoMightBeWanted) {
  ComponentView& idle = s_.components[1];
  const ComponentView before = idle;
  for (const auto& change : std::initializer_list<void (*)(ComponentView&)>{
           [](ComponentView& c) { c.idle_probability = 0.8; },
           [](ComponentView& c) { c.away_s = 100; },
           [](ComponentView& c) { c.away_s = -1; },
           [](ComponentView& c) { c.usual = true; },
           [](ComponentView& c) { c.not_now_s = 5; },
           [](ComponentView& c) { c.movable = false; },
           [](ComponentView& c) { c.move_blackout_s = 2; },
           [](ComponentView& c) { c.apart = {"rival"}; },
       }) {
    idle = before;
    change(idle);
    s_.hosts[0].components = {"rival"};
    EXPECT_EQ(Steps(), "");
  }
}

TEST_F(IdleMoveTest, WhereThereIsRoomEnoughNothingMovesForRoom) {
  s_.demand[kMemory] = Flat(45.0 * kGiB);
  s_.hosts[0].room[Resource::kMemory] = 90 * kBytes;
  EXPECT_EQ(Steps(), "");
  policy_.idle.move_at = 0.4;
  EXPECT_EQ(Steps(), "migrate idle there");
}

TEST_F(IdleMoveTest, NotToWhereLessIsLeft) {
  // 40 GiB are left here; with the component 45 would be there, which is no clear difference.
  s_.hosts[0].room[Resource::kMemory] = 65 * kBytes;
  EXPECT_EQ(Steps(), "");
  s_.hosts[0].room[Resource::kMemory] = 71 * kBytes;
  EXPECT_EQ(Steps(), "migrate idle there");
  // Its own rules foresee that it will need some of it.
  s_.hosts[0].strain[Resource::kMemory] = 10 * kBytes;
  EXPECT_EQ(Steps(), "");
  s_.hosts[0].strain = {};
  s_.hosts[0].room[Resource::kCpu] = 6000;
  EXPECT_EQ(Steps(), "") << "fewer processors would be left than here";
}

// What a host that it came from would decide in the place of the other one.
TEST_F(IdleMoveTest, DoesNotGoBackAndForth) {
  for (int room = 0; room <= 100; room += 5) {
    s_.hosts[0].room[Resource::kMemory] = room * kBytes;
    const double free_here = 40;
    if (Steps().empty()) continue;
    Situation back = s_;
    back.host = "there";
    back.demand[kMemory] = Flat((100.0 - room + 20) * kGiB);
    back.demand[kCpu] = Flat(1100);
    back.components.erase(back.components.begin());
    back.hosts[0].name = "here";
    back.hosts[0].room[Resource::kMemory] = static_cast<int64_t>(free_here + 20) * kBytes;
    back.hosts[0].room[Resource::kCpu] = 7100;
    EXPECT_TRUE(Decide(back, policy_).steps.empty()) << room;
  }
}

TEST_F(IdleMoveTest, GoesWhereItIsCheaper) {
  s_.demand[kMemory] = Flat(25.0 * kGiB);
  s_.price_per_hour = 10;
  EXPECT_EQ(Steps(), "migrate idle there") << "a fifth of 10, for 20 GiB and 0.1 s of blackout";
  EXPECT_THAT(decision_.steps[0].reason, HasSubstr("it is cheaper there"));
  s_.price_per_hour = 1;
  EXPECT_EQ(Steps(), "") << "less than the move costs";
  policy_.costs.stay_h = 10;
  EXPECT_EQ(Steps(), "migrate idle there");
  // Not to a dearer one for the sake of room.
  policy_.costs.stay_h = 1;
  s_.demand[kMemory] = Flat(60.0 * kGiB);
  s_.price_per_hour = 0;
  s_.hosts[0].price_per_hour = 0.01;
  EXPECT_EQ(Steps(), "");
}

TEST_F(IdleMoveTest, NoMoreThanMakesSense) {
  policy_.rules = {{Resource::kMemory, 99, 1, 60}};  // what is in use here is no shortage
  policy_.max_moves = 16;
  for (const char* name : {"idle2", "idle3"}) {
    s_.components.push_back(s_.components[1]);
    s_.components.back().name = name;
  }
  s_.demand[kMemory] = Flat(90.0 * kGiB);
  // After the second there would be as much left here as there.
  EXPECT_EQ(Steps(), "migrate idle there, migrate idle2 there");
}

TEST_F(IdleMoveTest, WhatRestsUnderAnotherPolicyIsWoken) {
  s_.components[1].rest = Rest::kParked;
  EXPECT_EQ(Steps(), "wake idle");
}

TEST_F(IdleMoveTest, TheLogKnowsOfIt) {
  ASSERT_EQ(Steps(), "migrate idle there");
  const std::string line = WriteDecision({s_, policy_, decision_});
  const auto read = ReadDecision(line);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->decision, decision_);
  EXPECT_EQ(read->policy, policy_);
  EXPECT_EQ(ReplayDecision(*read), "");
  // One that was written before.
  const auto older =
      ReadDecision(absl::StrReplaceAll(line, {{",\"move_at\":0.5", ""}, {"\"move_at\":0.5,", ""}}));
  ASSERT_TRUE(older.ok()) << older.status();
  EXPECT_EQ(older->policy.idle.move_at, 0.5);
}

}  // namespace
}  // namespace starling::decisions
