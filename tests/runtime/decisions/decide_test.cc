#include "runtime/decisions/decide.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/units.h"
#include "runtime/decisions/decision_log.h"
#include "runtime/decisions/move_costs.h"
#include "runtime/decisions/thresholds.h"
#include "tests/runtime/decisions/views.h"
#include "tests/runtime/scratch.h"

namespace starling::decisions {
namespace {

using testing::HasSubstr;
using testing::Not;

ComponentView Component(const std::string& name, double cpu, double gib, int priority = 0) {
  ComponentView component;
  component.name = name;
  component.priority = priority;
  component.use[kCpu] = Flat(1000 * cpu);
  component.use[kMemory] = Flat(gib * kGiB);
  component.move_bytes = gib * kGiB;
  component.move_blackout_s = 0.1;
  return component;
}

HostView Host(const std::string& name, double cpu, double gib) {
  HostView host;
  host.name = name;
  host.room[Resource::kCpu] = static_cast<int64_t>(1000 * cpu);
  host.room[Resource::kMemory] = static_cast<int64_t>(gib * kGiB);
  host.bytes_per_s = 1e9;
  return host;
}

// A host with 10 processors and 100 GiB, on which a (4, 20 GiB) and b (3, 10 GiB) run.
Situation Quiet() {
  Situation s;
  s.host = "here";
  s.step_s = 10;
  s.capacity[Resource::kCpu] = 10000;
  s.capacity[Resource::kMemory] = 100 * static_cast<int64_t>(kGiB);
  s.components = {Component("a", 4, 20), Component("b", 3, 10)};
  s.hosts = {Host("there", 10, 100)};
  s.demand[kCpu] = Flat(7000);
  s.demand[kMemory] = Flat(30.0 * kGiB);
  return s;
}

// The same, but in a step, 6 or 12 (`horizon`) so much will be used at P90.
Situation Rising(double cpu, int horizon = 0) {
  Situation s = Quiet();
  for (int h = horizon; h < predictor::kHorizonCount; ++h) s.demand[kCpu].at[h][2] = 1000 * cpu;
  return s;
}

TEST(DecideTest, DoesNothingWithoutAShortage) {
  const Decision decision = Decide(Quiet(), Policy());
  EXPECT_EQ(Only(decision), "");
  EXPECT_EQ(decision.reason, "no shortage is expected");
  EXPECT_FALSE(decision.short_of);
}

TEST(DecideTest, MovesBeforeTheShortage) {
  const Decision decision = Decide(Rising(9), Policy());
  EXPECT_EQ(Only(decision), "migrate b there");  // the smaller one is enough, and cheaper
  EXPECT_THAT(decision.reason, HasSubstr("cpu: P90 in 10 s is 90 %, above 80 %"));
  EXPECT_THAT(decision.steps[0].reason, HasSubstr("10.0 GiB, blackout 100 ms of 1000 ms"));
  EXPECT_FALSE(decision.left.AnyAboveZero());
}

TEST(DecideTest, WaitsWithMovesUntilTheyAreUrgentOrTheShortageIsLikely) {
  Situation s = Rising(9, 1);  // in 60 s; the move takes 11
  const Decision unlikely = Decide(s, Policy());
  EXPECT_EQ(Only(unlikely), "reserve b there");
  EXPECT_TRUE(unlikely.short_of);
  EXPECT_THAT(unlikely.reason, HasSubstr("P90 in 60 s is 90 %, above 80 %; P50 is not, so that"));
  // Urgent.
  s.hosts[0].bytes_per_s = 0.3e9;
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b there");
  s.hosts[0].bytes_per_s = 1e9;
  EXPECT_EQ(Only(Decide(Rising(9, 0), Policy())), "migrate b there");
  // But not where a blackout is longer than a step, which is what waiting costs.
  Situation slow = Rising(9, 0);
  for (ComponentView& component : slow.components) {
    component.move_blackout_s = 12;
    component.bears_blackout_s = 20;
  }
  EXPECT_THAT(Decide(slow, Policy()).reason, HasSubstr("P50 is not, so that"));
  EXPECT_EQ(Only(Decide(slow, Policy())), "reserve b there");
  // Likely.
  for (double& level : s.demand[kCpu].at[1]) level = std::max(level, 8100.0);
  const Decision likely = Decide(s, Policy());
  EXPECT_EQ(Only(likely), "migrate b there");
  EXPECT_FALSE(likely.left.AnyAboveZero());
}

TEST(DecideTest, MovesNobodyWhoseLeavingIsNotFelt) {
  Situation s = Rising(9);
  s.components[0].movable = false;
  ComponentView& idle = s.components[1];
  idle.use[kCpu] = Flat(0);
  const auto at_most = [&idle](double cpu) {
    for (auto& horizon : idle.use[kCpu].at) horizon[2] = horizon[3] = horizon[4] = cpu;
  };
  at_most(20);
  EXPECT_THAT(Only(Decide(s, Policy())), Not(HasSubstr("migrate")));
  at_most(1500);
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b there");
}

TEST(DecideTest, ReservesForWhatIsFarOff) {
  Situation s = Rising(9, 2);  // in 120 s; the rules act on 60
  const Decision decision = Decide(s, Policy());
  EXPECT_EQ(Only(decision), "reserve b there");
  EXPECT_THAT(decision.steps[0].reason, HasSubstr("in 120 s"));
  EXPECT_FALSE(decision.short_of);
}

TEST(DecideTest, TheFartherOffTheLikelierAShortageHasToBe) {
  Policy policy;
  policy.reserve.within_s = 120;
  Situation s = Rising(9, 2);
  EXPECT_EQ(Only(Decide(s, policy)), "");  // P90 alone, where the median counts
  for (size_t level = 0; level < kLevelCount; ++level) s.demand[kCpu].at[2][level] = 9000;
  EXPECT_EQ(Only(Decide(s, policy)), "reserve b there");
}

// A component said what it will need, at a time that is farther off than any horizon.
TEST(DecideTest, ReservesForWhatAComponentSaidItWillNeed) {
  Situation s = Quiet();
  s.components[1].use[kMemory] = Flat(0);
  EXPECT_EQ(Only(Decide(s, Policy())), "");
  NeedView need;
  need.when_s = 300;
  need.resource = kMemory;
  need.demand.fill(98.0 * kGiB);
  need.parts.push_back({"a", {}});
  need.parts[0].use.fill(88.0 * kGiB);
  s.needs = {need};
  const Decision decision = Decide(s, Policy());
  EXPECT_EQ(Only(decision), "reserve a there");
  EXPECT_THAT(decision.steps[0].reason, HasSubstr("in 300 s"));
  EXPECT_EQ(decision.steps[0].amount[Resource::kMemory], 88 * static_cast<int64_t>(kGiB));
  EXPECT_FALSE(decision.short_of);
  // Within a rule's own reach it moves, for what it will need.
  s.needs[0].when_s = 50;
  const Decision near = Decide(s, Policy());
  EXPECT_EQ(Only(near), "migrate a there");
  EXPECT_EQ(near.steps[0].amount[Resource::kMemory], 88 * static_cast<int64_t>(kGiB));
  EXPECT_FALSE(near.left.AnyAboveZero());
  // Farther off than anything is prepared for.
  s.needs[0].when_s = 4000;
  EXPECT_EQ(Only(Decide(s, Policy())), "");
  // And it can be made again from its log.
  s.needs[0].when_s = 300;
  const LoggedDecision logged{s, Policy(), decision};
  const auto read = ReadDecision(WriteDecision(logged));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->situation, s);
  EXPECT_EQ(ReplayDecision(*read), "");
  // A line from before there were needs.
  std::string old = WriteDecision({Quiet(), Policy(), Decide(Quiet(), Policy())});
  const size_t at = old.find("\"needs\":[],");
  ASSERT_NE(at, std::string::npos);
  old.erase(at, 11);
  EXPECT_TRUE(ReadDecision(old).ok());
}

TEST(DecideTest, SpreadsAddUpByTheirSquares) {
  // P90 of all is 2 above the median. That of b has 1.2 of it, and without b it is 1.6: b takes
  // 3 and 0.4 away, not 3 and 1.2.
  Situation s = Rising(11.5);
  for (auto& horizon : s.components[1].use[kCpu].at) {
    for (size_t level = 1; level < kLevelCount; ++level) horizon[level] = 4200;
  }
  for (auto& horizon : s.demand[kCpu].at) horizon = {9500, 11500, 11500, 11500, 11500};
  s.components.erase(s.components.begin());
  const Decision decision = Decide(s, Policy());
  ASSERT_EQ(Only(decision), "migrate b there");
  EXPECT_NEAR(static_cast<double>(decision.left[Resource::kCpu]), 11500 - 8000 - 3400, 2);
  // What it asks for is what three quarters of its futures need.
  EXPECT_EQ(decision.steps[0].amount[Resource::kCpu], 4200);
}

TEST(DecideTest, MovesToWhereItMakesNobodyShortUnlessItIsShortAlready) {
  Situation s = Rising(9);
  s.hosts[0].strain[Resource::kCpu] = 9000;
  EXPECT_EQ(Only(Decide(s, Policy())), "");
  s.hosts.push_back(Host("calm", 4, 100));
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b calm");
  s.hosts.pop_back();
  s.demand[kCpu].now = 9500;
  s.short_for_s = 11;
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b there");
  s.hosts.push_back(Host("calm", 4, 100));
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b calm");
}

TEST(DecideTest, InAHurryWhatMovesQuicklyGoes) {
  // Either is enough: a is cheaper to stop, b is quicker to move.
  Policy policy;
  Situation s = Rising(9);
  s.components[0].use[kCpu] = s.components[1].use[kCpu] = Flat(4000);
  s.components[0].move_bytes = 100.0 * kGiB;
  s.components[0].move_blackout_s = 0;
  s.components[1].move_blackout_s = 0.99;
  policy.costs.gib_moved = 0;
  EXPECT_EQ(Only(Decide(s, policy)), "migrate a there");
  s.demand[kCpu].now = 12000;  // two processors are missing, for as long as it takes
  EXPECT_EQ(Only(Decide(s, policy)), "migrate b there");
}

TEST(DecideTest, AReservationIsKeptWhileItsReasonLastsAndUsedWhenItComes) {
  Situation s = Rising(9, 2);
  s.leases = {{"l", "there", "b", reservations::Kind::kSoft, {}, 30}};
  s.leases[0].amount[Resource::kCpu] = 3000;
  s.hosts[0].room = {};
  s.calm_s = 1e9;
  Decision decision = Decide(s, Policy());
  ASSERT_EQ(Only(decision), "reserve b there");
  EXPECT_EQ(decision.steps[0].lease, "l");
  s.demand = Rising(9).demand;
  s.leases[0].amount[Resource::kMemory] = 10 * static_cast<int64_t>(kGiB);
  decision = Decide(s, Policy());
  ASSERT_EQ(Only(decision), "migrate b there");  // though there is no other room
  EXPECT_EQ(decision.steps[0].lease, "l");
}

TEST(DecideTest, WhatWasReservedInVainIsGivenBackAfterAWhile) {
  Situation s = Quiet();
  s.leases = {{"l", "there", "b", reservations::Kind::kSoft, {}, 2000}};
  s.calm_s = 100;
  EXPECT_EQ(Only(Decide(s, Policy())), "");
  s.calm_s = 1000;
  EXPECT_EQ(Only(Decide(s, Policy())), "give-back b there");
  s.demand = Rising(7.8, 2).demand;  // not short, but nearly
  EXPECT_EQ(Only(Decide(s, Policy())), "");
}

TEST(DecideTest, PagesOutWhatIsIdleFirst) {
  Situation s = Quiet();
  s.demand[kMemory] = Flat(88.0 * kGiB);
  s.components[0].idle_bytes = 5 * static_cast<int64_t>(kGiB);
  s.components[0].idle_probability = 0.9;
  EXPECT_EQ(Only(Decide(s, Policy())), "page-out a");
  Policy policy;
  policy.allow.page_out = false;
  EXPECT_EQ(Only(Decide(s, policy)), "migrate b there");
}

TEST(DecideTest, MovesAsWellWhenPagingOutIsNotEnough) {
  Situation s = Quiet();
  s.demand[kMemory] = Flat(94.0 * kGiB);
  s.components[0].idle_bytes = 5 * static_cast<int64_t>(kGiB);
  s.components[0].idle_probability = 0.9;
  EXPECT_EQ(Only(Decide(s, Policy())), "page-out a, migrate b there");
}

TEST(DecideTest, DegradesOnlyLowerPrioritiesAndGivesBack) {
  Situation s = Rising(9);
  s.hosts.clear();
  EXPECT_EQ(Only(Decide(s, Policy())), "");  // equals do not suffer for one another
  EXPECT_THAT(Decide(s, Policy()).reason, HasSubstr("stay short"));
  s.components[1].priority = 5;
  EXPECT_EQ(Only(Decide(s, Policy())), "degrade a");
  s.demand = Quiet().demand;
  s.components[0].degraded = true;
  s.calm_s = 3 * s.step_s;
  EXPECT_EQ(Only(Decide(s, Policy())), "restore a");
}

TEST(DecideTest, GivesNothingBackBeforeItHasLooked) {
  Situation s = Quiet();
  s.components[0].degraded = true;
  EXPECT_EQ(Only(Decide(s, Policy())), "") << "the first decision of an agent that was killed";
  s.calm_s = 3 * s.step_s;
  Policy policy;
  policy.rules = {{Resource::kCpu, 0, 0.6, 60}};
  s.demand[kCpu].now = 0.7 * static_cast<double>(s.capacity[Resource::kCpu]);
  EXPECT_EQ(Only(Decide(s, policy)), "") << "above the rule, though not for as long as it bears";
  s.demand[kCpu].now = 0.5 * static_cast<double>(s.capacity[Resource::kCpu]);
  EXPECT_EQ(Only(Decide(s, policy)), "restore a");
}

TEST(DecideTest, HigherPriorityIsMovedLast) {
  Situation s = Rising(9);
  s.components = {Component("a", 3, 10, 5), Component("b", 3, 10, 0)};
  Policy policy;
  policy.allow.degrade = false;
  EXPECT_EQ(Only(Decide(s, policy)), "migrate b there");
  std::swap(s.components[0].priority, s.components[1].priority);
  EXPECT_EQ(Only(Decide(s, policy)), "migrate a there");
  s.components[0].usual = true;  // its user works with it at this hour
  s.components[1].priority = 0;
  EXPECT_EQ(Only(Decide(s, policy)), "migrate b there");
}

TEST(DecideTest, DoesNotMoveWhatDoesNotBearIt) {
  for (const auto& keep :
       std::vector<void (*)(ComponentView&)>{[](ComponentView& c) { c.bears_blackout_s = 0.05; },
                                             [](ComponentView& c) { c.movable = false; },
                                             [](ComponentView& c) { c.not_now_s = 3; }}) {
    Situation s = Rising(9);
    keep(s.components[1]);
    EXPECT_EQ(Only(Decide(s, Policy())), "migrate a there");
    keep(s.components[0]);
    EXPECT_EQ(Only(Decide(s, Policy())), "");
  }
}

TEST(DecideTest, AGoodMomentCounts) {
  Situation s = Rising(9);
  s.components = {Component("a", 3, 10), Component("b", 3, 10)};
  s.components[1].good_moment = true;
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b there");
  std::swap(s.components[0].good_moment, s.components[1].good_moment);
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate a there");
}

TEST(DecideTest, ChoosesTheHost) {
  Situation s = Rising(9);
  s.hosts = {Host("full", 1, 100), Host("dear", 10, 100), Host("cheap", 5, 100)};
  s.hosts[1].price_per_hour = 3;
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b cheap");
  Policy policy;
  policy.avoid = {"cheap"};
  EXPECT_EQ(Only(Decide(s, policy)), "migrate b dear");
  s.hosts[1].price_per_hour = 0;
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b dear");  // as cheap, and more room
  policy.avoid = {};
  policy.prefer = {"cheap"};
  EXPECT_EQ(Only(Decide(s, policy)), "migrate b cheap");
  s.components[1].affinity = {"dear"};
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b dear");
}

TEST(DecideTest, KeepsApartAndNear) {
  Situation s = Rising(9);
  s.hosts = {Host("one", 10, 100), Host("two", 5, 100)};
  s.hosts[0].components = {"b2"};
  s.components[1].apart = {"b2"};
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b two");
  s.components[1].apart = {};
  s.components[1].near = {"a"};
  for (HostView& host : s.hosts) host.distance_s = 0.02;
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate a one");  // both apart from the other: one is left
  s.components[0].near = {"b"};
  s.hosts[1].components = {"a"};
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b two");
}

TEST(DecideTest, KeepsApartWhatGoesInOneDecision) {
  Situation s = Rising(16);
  s.hosts = {Host("one", 10, 100), Host("two", 6, 100)};
  for (auto& horizon : s.components[0].use[kCpu].at) horizon.fill(3900);
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b one, migrate a one");
  s.components[0].apart = {"b"};  // and so b is from a, whichever goes first
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b one, migrate a two");
  s.hosts.pop_back();
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b one");
}

TEST(DecideTest, KeepsApartAndNearOfAnApplication) {
  Situation s = Rising(9);
  s.hosts = {Host("one", 10, 100), Host("two", 5, 100)};
  s.hosts[0].components = {"x", "application:shop"};
  s.components[1].apart = {"application:shop"};
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b two");
  s.components[1].apart = {};
  for (HostView& host : s.hosts) host.distance_s = 0.02;
  // What is left behind counts, and nothing does that is not there.
  s.components[1].near = {"application:shop"};
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b one");
  s.hosts[0].components = {};
  s.components[1].application = s.components[0].application = "shop";
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate a one");
}

TEST(DecideTest, RoomIsNotGivenTwiceInOneDecision) {
  Situation s = Rising(12);
  s.hosts = {Host("one", 4, 100), Host("two", 4, 100)};
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b one, migrate a two");
  s.hosts.pop_back();
  const Decision decision = Decide(s, Policy());
  EXPECT_EQ(decision.steps.size(), 1u);
  EXPECT_TRUE(decision.left.AnyAboveZero());
}

TEST(DecideTest, QuietHoursHoldBackUntilItIsShort) {
  Policy policy;
  policy.quiet = {{22 * 60, 24 * 60}};
  Situation s = Rising(9);
  s.minute_of_week = 23 * 60;
  EXPECT_EQ(Only(Decide(s, policy)), "");
  EXPECT_THAT(Decide(s, policy).reason, HasSubstr("quiet hours"));
  s.demand[kCpu].now = 9500;
  EXPECT_EQ(Only(Decide(s, policy)), "");
  s.short_for_s = 11;
  EXPECT_EQ(Only(Decide(s, policy)), "migrate b there");
  EXPECT_TRUE(Decide(s, policy).short_now);
}

TEST(DecideTest, WhatIsPromisedToOthersCounts) {
  Situation s = Quiet();
  s.incoming[Resource::kCpu] = 2000;
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b there");
}

TEST(DecideTest, ThresholdsShift) {
  Situation s = Rising(8.2);
  EXPECT_EQ(Only(Decide(s, Policy())), "migrate b there");
  s.threshold_shift = 0.05;
  EXPECT_EQ(Only(Decide(s, Policy())), "");
}

TEST(DecideTest, MovesToOtherProcessorsWithinTheHost) {
  Situation s = Quiet();
  s.groups = {{5000, 4800}, {5000, 200}};
  s.components = {Component("a", 1.5, 1), Component("b", 3.9, 1)};
  EXPECT_EQ(Only(Decide(s, Policy())), "processors a");  // b would make the other short
}

TEST(DecideTest, IsBounded) {
  Situation s = Rising(90);
  Policy policy;
  policy.max_moves = 1;
  EXPECT_EQ(Only(Decide(s, policy)), "migrate b there, reserve a there");
  s.moving = 1;  // is one of them
  EXPECT_EQ(Only(Decide(s, policy)).find("migrate"), std::string::npos);
  s.moving = 0;
  policy.max_moves = 9;
  policy.max_steps = 1;
  EXPECT_EQ(Decide(s, policy).steps.size(), 1u);
}

TEST(DecideTest, DoesNotDivideByWhatIsNotThere) {
  Situation s;
  EXPECT_EQ(Only(Decide(s, Policy())), "");
  s = Rising(9);
  s.hosts[0].bytes_per_s = 0;
  s.components[0].use = {};
  s.components[1].use = {};
  EXPECT_EQ(Only(Decide(s, Policy())), "");
}

// --- Decisions made again from their log ---

Situation Random(std::mt19937& random) {
  const auto below = [&random](int bound) { return static_cast<int>(random() % bound); };
  const auto real = [&random] { return static_cast<double>(random()) / 4294967296.0; };
  Situation s;
  s.host = "here";
  s.time_s = 1.7e9 + 1e5 * real();
  s.minute_of_week = below(10080);
  s.step_s = 1 + 300 * real();
  s.calm_s = 2000 * real();
  s.short_for_s = 20 * real();
  s.threshold_shift = 0.1 * real() - 0.05;
  s.price_per_hour = real();
  s.capacity[Resource::kCpu] = 8000;
  s.capacity[Resource::kMemory] = 64 << 20;
  for (int i = below(6); i > 0; --i) {
    ComponentView c = Component(absl::StrCat("c", i), 3 * real(), 0.01 * real(), below(3));
    c.idle_bytes = below(1 << 22);
    c.idle_probability = real();
    c.good_moment = below(2) != 0;
    c.near = {"c1"};
    c.affinity = {"h2"};
    c.degraded = below(3) == 0;
    c.group = below(2);
    for (size_t r = 0; r < kResources; ++r) {
      s.demand[r].now += c.use[r].now;
      for (size_t h = 0; h < 3; ++h) {
        for (size_t q = 0; q < kLevelCount; ++q) s.demand[r].at[h][q] += c.use[r].at[h][q] * real();
      }
    }
    s.components.push_back(c);
  }
  for (int i = below(5); i > 0; --i) {
    HostView h = Host(absl::StrCat("h", i), 8 * real(), 0.05 * real());
    h.distance_s = 0.01 * real();
    h.price_per_hour = real();
    h.components = {"c1"};
    s.hosts.push_back(h);
  }
  if (below(2) != 0) {
    s.leases = {{"l", "h1", "c2", reservations::Kind::kSoft, {}, 2000 * real()}};
    s.leases[0].amount[Resource::kCpu] = below(3000);
  }
  s.groups = {{4000, 4000 * real()}, {4000, 4000 * real()}};
  return s;
}

TEST(DecisionLogTest, EveryDecisionCanBeMadeAgainFromItsLog) {
  Scratch scratch;
  DecisionLog log(scratch / "decisions.jsonl");
  std::mt19937 random(7);
  constexpr int kCount = 500;
  for (int i = 0; i < kCount; ++i) {
    LoggedDecision logged;
    logged.situation = Random(random);
    if (i % 3 == 0) logged.policy.quiet = {{60, 5000}};
    if (i % 5 == 0) logged.policy.prefer = {"h1"};
    logged.policy.prices = {{"h1", {{0, 60}}, 0.25}};
    logged.decision = Decide(logged.situation, logged.policy);
    ASSERT_TRUE(log.Append(logged).ok());
  }
  const auto read = log.Read("", 10000);
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->size(), static_cast<size_t>(kCount));
  size_t with_steps = 0;
  for (const LoggedDecision& logged : *read) {
    ASSERT_EQ(Decide(logged.situation, logged.policy), logged.decision);
    ASSERT_EQ(ReplayDecision(logged), "");
    with_steps += !logged.decision.steps.empty();
  }
  EXPECT_GT(with_steps, 100u);
}

TEST(DecisionLogTest, SaysWhatComesOutDifferently) {
  Scratch scratch;
  DecisionLog log(scratch / "decisions.jsonl");
  std::mt19937 random(7);
  LoggedDecision logged;
  do {
    logged.situation = Random(random);
    logged.decision = Decide(logged.situation, logged.policy);
  } while (logged.decision.steps.empty());
  LoggedDecision other = logged;
  other.decision.steps[0].cost += 1;
  EXPECT_THAT(ReplayDecision(other), HasSubstr("step 1 was"));
  other = logged;
  other.decision.steps.pop_back();
  EXPECT_THAT(ReplayDecision(other), HasSubstr("was nothing and is"));
  other = logged;
  other.situation.capacity[Resource::kCpu] *= 1000;
  other.situation.capacity[Resource::kMemory] *= 1000;
  EXPECT_NE(ReplayDecision(other), "");
  ASSERT_TRUE(log.Append(logged).ok());
  const auto read = DecisionLog::ReadAll(scratch / "decisions.jsonl");
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->size(), 1u);
  EXPECT_EQ(ReplayDecision((*read)[0]), "");
  { std::ofstream(scratch / "decisions.jsonl", std::ios::app) << "{}\n"; }
  EXPECT_THAT(DecisionLog::ReadAll(scratch / "decisions.jsonl").status().ToString(),
              HasSubstr("decisions.jsonl:2"));
}

TEST(DecisionLogTest, IsBoundedAndFindsWhatIsAskedFor) {
  Scratch scratch;
  DecisionLog log(scratch / "decisions.jsonl", 20000);
  LoggedDecision logged;
  for (int i = 0; i < 100; ++i) {
    logged.situation.time_s = i;
    logged.decision.steps = {{Action::kMigrate, i % 2 == 0 ? "even" : "odd", "h"}};
    ASSERT_TRUE(log.Append(logged).ok());
  }
  const auto odd = log.Read("odd", 3);
  ASSERT_TRUE(odd.ok());
  ASSERT_EQ(odd->size(), 3u);
  EXPECT_EQ((*odd)[2].situation.time_s, 99);
  EXPECT_EQ((*odd)[0].situation.time_s, 95);
  // A line that was cut off is no decision.
  { std::ofstream(scratch / "decisions.jsonl", std::ios::app) << "{\"schema\":1,\"situ"; }
  EXPECT_EQ(log.Read("", 5)->size(), 5u);
  EXPECT_LT(log.Read("", 1000)->size(), 100u);  // the oldest are gone
  EXPECT_TRUE(DecisionLog(scratch / "none").Read("", 5)->empty());
}

TEST(DecisionLogTest, RefusesWhatIsNoDecision) {
  for (const char* line : {"", "1", "{}", "[]", "{\"schema\":2}", "{\"schema\":1}",
                           "{\"schema\":1,\"situation\":[],\"policy\":{},\"decision\":{}}"}) {
    EXPECT_FALSE(ReadDecision(line).ok()) << line;
  }
}

// --- What it learns ---

TEST(MoveCostsTest, LearnFromTheComponentAndFromAll) {
  MoveCosts costs;
  const double link = 1e9;
  EXPECT_DOUBLE_EQ(costs.Expect("a", 4e9, 0, link).bytes, 4e9);
  EXPECT_DOUBLE_EQ(costs.Expect("a", 4e9, 5e8, link).bytes, 8e9);  // half is written again
  for (int i = 0; i < 10; ++i) costs.Learn({"a", 4e9, 0, link, 6e9, 12, 0.5});
  MoveCost other = costs.Expect("b", 2e9, 0, link);
  EXPECT_NEAR(other.bytes, 3e9, 1);
  EXPECT_NEAR(other.total_s, 6, 1e-6);
  EXPECT_NEAR(other.blackout_s, 0.5, 1e-9);
  for (int i = 0; i < 10; ++i) costs.Learn({"b", 2e9, 0, link, 2e9, 2, 0.1});
  other = costs.Expect("b", 2e9, 0, link);
  EXPECT_LT(other.blackout_s, 0.15);
  EXPECT_GT(costs.Expect("a", 4e9, 0, link).blackout_s, 0.4);
}

TEST(MoveCostsTest, NonsenseTeachesNothing) {
  MoveCosts costs;
  const MoveCost before = costs.Expect("a", 1e9, 0, 1e9);
  costs.Learn({"a", 0, 0, 1e9, 1e9, 1, 0.1});
  costs.Learn({"a", 1e9, 0, 0, 1e9, 1, 0.1});
  costs.Learn({"a", 1e9, 0, 1e9, NAN, 1, 0.1});
  costs.Learn({"a", 1e9, 0, 1e9, 1e9, 1, -1});
  EXPECT_EQ(costs.Expect("a", 1e9, 0, 1e9).blackout_s, before.blackout_s);
  EXPECT_LE(costs.Expect("a", 1e9, 1e12, 1e9).bytes,
            1.1e10);  // never converges, and ends all the same
}

TEST(ThresholdsTest, MoveWithinBoundsAndBack) {
  const Policy::Thresholds bounds;
  Thresholds thresholds;
  EXPECT_EQ(thresholds.Shift(bounds, 0.5), 0);
  for (int i = 0; i < 3; ++i) thresholds.InVain(bounds, 1);
  EXPECT_NEAR(thresholds.Shift(bounds, 0.5), 3 * bounds.step, 1e-9);
  EXPECT_EQ(thresholds.Shift(bounds, 0.95), 0);  // no lighter at the limit
  for (int i = 0; i < 100; ++i) thresholds.InVain(bounds, 1);
  EXPECT_NEAR(thresholds.Shift(bounds, 0.5), bounds.higher, 1e-9);
  thresholds.Calm(86400);
  EXPECT_NEAR(thresholds.Shift(bounds, 0.5), bounds.higher / 2, 1e-9);
  thresholds.Missed(bounds, 1e9);
  thresholds.Missed(bounds, 1e9);
  EXPECT_NEAR(thresholds.Shift(bounds, 0.5), -bounds.lower, 1e-9);
  EXPECT_NEAR(thresholds.Shift(bounds, 0.99), -bounds.lower, 1e-9);
}

}  // namespace
}  // namespace starling::decisions
