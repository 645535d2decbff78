#include "runtime/migration/plan.h"

#include <gtest/gtest.h>

namespace starling::migration {
namespace {

RoundFacts After(uint32_t rounds, uint64_t last, uint64_t previous, double took_s, double link,
                 double dirty) {
  RoundFacts facts;
  facts.rounds_done = rounds;
  facts.last_round_bytes = last;
  facts.previous_round_bytes = previous;
  facts.last_round_s = took_s;
  facts.link_bytes_per_s = link;
  facts.dirty_bytes_per_s = dirty;
  return facts;
}

PlanLimits Limits(double max_s, uint32_t rounds, double fixed_s) {
  PlanLimits limits;
  limits.max_blackout_s = max_s;
  limits.max_rounds = rounds;
  limits.fixed_blackout_s = fixed_s;
  limits.resident_bytes = 1'000'000'000;
  return limits;
}

TEST(Plan, BeginsWithARoundUnlessNoneIsAllowed) {
  EXPECT_TRUE(PlanNextRound({}, Limits(1, 8, 0)).another_round);
  EXPECT_FALSE(PlanNextRound({}, Limits(1, 0, 0)).another_round);
}

TEST(Plan, AsksForASecondRoundToLearnTheDirtyRate) {
  const RoundFacts facts = After(1, 100'000'000, 0, 4, 25e6, 0);
  EXPECT_TRUE(PlanNextRound(facts, Limits(1, 8, 0)).another_round);
  EXPECT_FALSE(PlanNextRound(facts, Limits(1, 1, 0)).another_round);
}

TEST(Plan, PredictsWhatIsDirtiedInTheLastRoundOverTheLink) {
  // 2 s of writing 5 MB/s over a link of 25 MB/s: 0.4 s, and 0.1 s that the freeze costs anyway.
  const Plan plan =
      PlanNextRound(After(2, 20'000'000, 100'000'000, 2, 25e6, 5e6), Limits(0.2, 8, 0.1));
  EXPECT_NEAR(plan.expected_blackout_s, 0.5, 1e-9);
  EXPECT_TRUE(plan.another_round);
}

TEST(Plan, StopsWhenItFits) {
  const Plan plan =
      PlanNextRound(After(2, 20'000'000, 100'000'000, 2, 25e6, 5e6), Limits(0.6, 8, 0.1));
  EXPECT_FALSE(plan.another_round);
}

TEST(Plan, StopsAtTheLimitOfRounds) {
  EXPECT_FALSE(PlanNextRound(After(8, 1'000'000, 50'000'000, 2, 25e6, 20e6), Limits(0.01, 8, 0))
                   .another_round);
}

TEST(Plan, StopsWhenRoundsDoNotShrink) {
  EXPECT_FALSE(PlanNextRound(After(3, 80'000'000, 100'000'000, 4, 25e6, 20e6), Limits(0.01, 8, 0))
                   .another_round);
  EXPECT_TRUE(PlanNextRound(After(3, 70'000'000, 100'000'000, 4, 25e6, 20e6), Limits(0.01, 8, 0))
                  .another_round);
}

TEST(Plan, StopsWhenMemoryHardlyMatters) {
  EXPECT_FALSE(PlanNextRound(After(3, 1'000'000, 50'000'000, 0.1, 25e6, 5e6), Limits(0.2, 8, 1.0))
                   .another_round);
}

TEST(Plan, NeverExpectsMoreThanTheWholeComponent) {
  PlanLimits limits = Limits(0.2, 8, 0);
  limits.resident_bytes = 50'000'000;
  EXPECT_NEAR(
      PlanNextRound(After(2, 50'000'000, 50'000'000, 100, 25e6, 25e6), limits).expected_blackout_s,
      2.0, 1e-9);
}

TEST(Plan, FallsShortOnlyBecauseOfMemory) {
  // 4 s of writing 20 MB/s over 25 MB/s: 3.2 s.
  const RoundFacts grows = After(3, 80'000'000, 100'000'000, 4, 25e6, 20e6);
  EXPECT_TRUE(PlanNextRound(grows, Limits(0.2, 8, 0.3)).falls_short);
  EXPECT_NE(Advice(grows).find("--auto-converge"), std::string::npos);
  EXPECT_TRUE(PlanNextRound(After(8, 1'000'000, 50'000'000, 4, 25e6, 20e6), Limits(0.2, 8, 0.3))
                  .falls_short);
  // The limit is below what the freeze costs anyway: nothing that more rounds could mend.
  const Plan plan = PlanNextRound(After(3, 80'000, 100'000, 0.1, 25e6, 1e6), Limits(0.2, 8, 0.3));
  EXPECT_FALSE(plan.another_round);
  EXPECT_FALSE(plan.falls_short);
  EXPECT_NEAR(plan.memory_s, 0.004, 1e-9);
}

TEST(Plan, WhatMayStayBehindDoesNotCount) {
  // 20 MB/s for 4 s: 80 MB, over a link of 25 MB/s.
  const RoundFacts grows = After(2, 100'000'000, 100'000'000, 4, 25e6, 20e6);
  PlanLimits limits = Limits(0.5, 8, 0.3);
  EXPECT_TRUE(PlanNextRound(grows, limits).falls_short);
  EXPECT_NE(Advice(grows).find("--post-copy"), std::string::npos);
  limits.post_copy_bytes = 100'000'000;
  const Plan plan = PlanNextRound(grows, limits);
  EXPECT_FALSE(plan.another_round);
  EXPECT_FALSE(plan.falls_short);
  EXPECT_DOUBLE_EQ(plan.memory_s, 0);
  limits.post_copy_bytes = 55'000'000;
  EXPECT_DOUBLE_EQ(PlanNextRound(grows, limits).memory_s, 1);
}

TEST(Plan, CountsWhatWasLeftAsHot) {
  RoundFacts facts = After(3, 20'000'000, 100'000'000, 0.1, 25e6, 5e6);
  facts.deferred_bytes = 10'000'000;
  EXPECT_NEAR(PlanNextRound(facts, Limits(0.2, 8, 0)).memory_s, 0.4, 1e-9);
}

}  // namespace
}  // namespace starling::migration
