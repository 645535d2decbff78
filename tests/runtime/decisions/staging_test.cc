#include "runtime/decisions/staging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "base/units.h"
#include "runtime/decisions/decision_log.h"
#include "tests/runtime/decisions/views.h"

namespace starling::decisions {
namespace {

using testing::HasSubstr;

constexpr int64_t kMebi = static_cast<int64_t>(kMiB);

// A host with 10 processors and 1 GiB, on which `web` (4 processors, 200 MiB) and `batch` (3,
// 400 MiB) run; a shortage of processors comes in 120 s, as likely as not.
class StagingTest : public testing::Test {
 protected:
  StagingTest() {
    s_.host = "here";
    s_.step_s = 10;
    s_.capacity[Resource::kCpu] = 10000;
    s_.capacity[Resource::kMemory] = 1024 * kMebi;
    Add("web", 4000, 200);
    Add("batch", 3000, 400);
    for (const char* name : {"there", "yonder"}) {
      HostView host;
      host.name = name;
      host.room[Resource::kCpu] = 10000;
      host.room[Resource::kMemory] = 1024 * kMebi;
      host.bytes_per_s = 60e6;
      s_.hosts.push_back(host);
    }
    s_.demand[kCpu] = Flat(7000);
    s_.demand[kMemory] = Flat(600.0 * kMiB);
    Rise(8200);
  }

  void Add(const std::string& name, double cpu, double mib) {
    ComponentView component;
    component.name = name;
    component.use[kCpu] = Flat(cpu);
    component.use[kMemory] = Flat(mib * kMiB);
    component.move_bytes = mib * kMiB;
    component.move_blackout_s = 0.1;
    component.written_bytes_per_s = 0.01 * kMiB;
    s_.components.push_back(component);
  }
  // At the farthest horizon: the median, and 2000 more at P90.
  void Rise(double median) {
    s_.demand[kCpu].at[2] = {median, median + 1000, median + 2000, median + 2600, median + 3600};
  }
  void Reserved(const std::string& component, const std::string& host) {
    LeaseView lease{absl::StrCat("here/", component), host, component,
                    reservations::Kind::kSoft,        {},   10};
    lease.amount[Resource::kMemory] = 200 * kMebi;
    s_.leases.push_back(lease);
  }
  GhostView& Ghost(const std::string& component, const std::string& host) {
    GhostView ghost;
    ghost.component = component;
    ghost.host = host;
    ghost.by_hand = false;
    ghost.ready = true;
    ghost.bytes = 200.0 * kMiB;
    ghost.left_bytes = 0.1 * kMiB;
    ghost.bytes_per_s = 0.01 * kMiB;
    s_.ghosts.push_back(ghost);
    return s_.ghosts.back();
  }
  std::string Decided() {
    decision_ = Decide(s_, p_);
    return Only(decision_);
  }

  Situation s_;
  Policy p_;
  Decision decision_;
};

TEST_F(StagingTest, AGhostIsMadeWhereRoomIsReserved) {
  EXPECT_EQ(Decided(), "reserve web there, ghost web there");
  const Step& step = decision_.steps[1];
  EXPECT_EQ(step.bytes_per_s, 16.0 * kMiB);
  EXPECT_EQ(step.amount[Resource::kMemory], 200 * kMebi);
  EXPECT_THAT(step.reason, HasSubstr("spares a move 3.5 s with probability 0.55, for 200.0 MiB"));
  EXPECT_THAT(step.reason, HasSubstr("in 120 s"));
  // Or was.
  Reserved("web", "yonder");
  EXPECT_EQ(Decided(), "reserve web yonder, ghost web yonder");
  EXPECT_EQ(decision_.steps[1].lease, "here/web");
  // One is enough at a host, whoever made it.
  Ghost("web", "yonder").by_hand = true;
  EXPECT_EQ(Decided(), "reserve web yonder");
  s_.ghosts[0].host = "there";
  EXPECT_EQ(Decided(), "reserve web yonder, ghost web yonder");
}

TEST_F(StagingTest, NotForWhatIsHardlyLikely) {
  p_.costs.moving_s = 0.001;
  EXPECT_EQ(Decided(), "reserve web there, ghost web there");
  Rise(7300);
  EXPECT_EQ(Decided(), "reserve web there");
  p_.costs.gib_moved = 0;
  EXPECT_EQ(Decided(), "reserve web there, ghost web there");
}

TEST_F(StagingTest, WhatCannotBeThereInTimeOrIsNeverFreshIsNotStaged) {
  p_.ghosts.rate_mib_s = 1;  // 200 s
  EXPECT_EQ(Decided(), "reserve web there");
  p_.ghosts.rate_mib_s = 16;
  s_.components[0].written_bytes_per_s = 17.0 * kMiB;
  EXPECT_EQ(Decided(), "reserve web there");
  // Written so fast that keeping it fresh is dearer than what it spares.
  s_.components[0].written_bytes_per_s = 15.0 * kMiB;
  EXPECT_EQ(Decided(), "reserve web there");
}

TEST_F(StagingTest, IsBounded) {
  p_.ghosts.memory_mib = 199;
  EXPECT_EQ(Decided(), "reserve web there");
  p_.ghosts.memory_mib = 300;
  EXPECT_EQ(Decided(), "reserve web there, ghost web there");
  GhostView& other = Ghost("batch", "there");
  other.bytes = 150.0 * kMiB;
  other.ready = false;  // so that moving batch is no cheaper for it
  EXPECT_EQ(Decided(), "reserve web there");
  // A person's do not count.
  s_.ghosts[0].by_hand = true;
  EXPECT_EQ(Decided(), "reserve web there, ghost web there");
  p_.ghosts.most = 0;
  EXPECT_EQ(Decided(), "reserve web there");
  p_.ghosts.most = 4;
  p_.max_steps = 1;
  EXPECT_EQ(Decided(), "reserve web there");
}

TEST_F(StagingTest, NotUnlessItMay) {
  p_.allow.ghost = false;
  EXPECT_EQ(Decided(), "reserve web there");
  p_ = Policy();
  s_.components[0].may_stage = false;
  EXPECT_EQ(Decided(), "reserve web there");
  s_.components[0].may_stage = true;
  s_.components[0].rest = Rest::kShrunk;
  EXPECT_EQ(Decided(), "reserve web there");
  s_.components[0].rest = Rest::kNone;
  p_.quiet = {{0, 10080}};
  EXPECT_EQ(Decided(), "");
}

TEST_F(StagingTest, ALeaseInWhichAGhostLiesKeepsItsMemory) {
  Reserved("web", "there");
  s_.leases[0].amount[Resource::kMemory] = 300 * kMebi;
  Ghost("web", "there");
  EXPECT_EQ(Decided(), "reserve web there");
  EXPECT_EQ(decision_.steps[0].amount[Resource::kMemory], 300 * kMebi);
  s_.ghosts.clear();
  p_.allow.ghost = false;
  EXPECT_EQ(Decided(), "reserve web there");
  EXPECT_EQ(decision_.steps[0].amount[Resource::kMemory], 200 * kMebi);
}

TEST_F(StagingTest, AMoveGoesToWhereItsGhostIsAndCostsWhatIsLeft) {
  s_.demand[kCpu] = Flat(7000);
  s_.demand[kCpu].at[0][2] = 8500;
  // The smaller one is cheaper to move, and more of it fits at the first host.
  EXPECT_EQ(Decided(), "migrate web there");
  Ghost("batch", "yonder");
  s_.ghosts[0].bytes = 400.0 * kMiB;
  s_.components[0].move_blackout_s = s_.components[1].move_blackout_s = 0;
  EXPECT_EQ(Decided(), "migrate batch yonder");
  EXPECT_THAT(decision_.steps[0].reason, HasSubstr("the rest is in its ghost there"));
  EXPECT_THAT(decision_.steps[0].reason, HasSubstr("102.4 KiB"));
  s_.ghosts[0].ready = false;
  EXPECT_EQ(Decided(), "migrate web there");
}

TEST_F(StagingTest, WhatDidNotComeIsGivenUpWithItsRoom) {
  s_.demand[kCpu] = Flat(7000);
  Reserved("web", "there");
  s_.leases[0].age_s = 0;  // that of a ghost is not by itself in vain
  Ghost("web", "there").unneeded_s = p_.reserve.patience_s - 1;
  s_.calm_s = p_.reserve.patience_s + 1;
  EXPECT_EQ(Decided(), "");
  s_.ghosts[0].unneeded_s = p_.reserve.patience_s;
  EXPECT_EQ(Decided(), "drop-ghost web there, give-back web there");
  EXPECT_THAT(decision_.steps[0].reason, HasSubstr("not been needed for 900 s"));
  EXPECT_EQ(decision_.steps[1].lease, "here/web");
  // A person's stays.
  s_.ghosts[0].by_hand = true;
  EXPECT_EQ(Decided(), "");
  // And so does one that is likely to be needed there again; the larger the likelier it has to be.
  s_.ghosts[0].by_hand = false;
  s_.ghosts[0].again = 0.06;
  EXPECT_EQ(Decided(), "");
  s_.ghosts[0].bytes = 100.0 * kGiB;
  EXPECT_EQ(Decided(), "drop-ghost web there, give-back web there");
}

TEST_F(StagingTest, WhatCostsMoreThanItIsWorthIsGivenUpAndItsRoomStays) {
  Reserved("web", "there");
  Ghost("web", "there");
  EXPECT_EQ(Decided(), "reserve web there");
  s_.ghosts[0].bytes_per_s = 40.0 * kMiB;
  s_.components[0].may_stage = false;  // as it is from then on
  EXPECT_EQ(Decided(), "reserve web there, drop-ghost web there");
  EXPECT_THAT(decision_.steps[1].reason, HasSubstr("40.0 MiB/s to keep it fresh for 120 s"));
  // While its first round is under way nothing is known.
  s_.ghosts[0].ready = false;
  EXPECT_EQ(Decided(), "reserve web there");
  // The longer it has been in vain, the less it is worth.
  s_.ghosts[0].ready = true;
  s_.ghosts[0].bytes_per_s = 1.0 * kMiB;
  EXPECT_EQ(Decided(), "reserve web there");
  s_.ghosts[0].age_s = 6 * p_.ghosts.half_life_s;
  EXPECT_EQ(Decided(), "reserve web there, drop-ghost web there");
}

TEST_F(StagingTest, OneThatIsUsedOrNotHeardOfIsNotGivenUp) {
  s_.demand[kCpu] = Flat(7000);
  Ghost("web", "there").unneeded_s = 1e6;
  EXPECT_EQ(Decided(), "drop-ghost web there");
  s_.hosts.erase(s_.hosts.begin());
  EXPECT_EQ(Decided(), "");
  s_.ghosts[0].host = "yonder";
  s_.demand[kCpu].at[0][2] = 8500;
  EXPECT_EQ(Decided(), "migrate web yonder");
  s_.demand[kCpu].at[0][2] = 7000;
  p_.allow.ghost = false;
  s_.ghosts[0].unneeded_s = 0;
  EXPECT_EQ(Decided(), "drop-ghost web yonder");
}

// What this host keeps for others goes when its own memory is short, that of least value first.
TEST_F(StagingTest, WhatIsKeptForOthersYields) {
  s_.demand[kCpu] = Flat(7000);
  s_.demand[kMemory] = Flat(900.0 * kMiB);
  p_.allow.migrate = p_.allow.reserve = p_.allow.degrade = false;
  EXPECT_EQ(Decided(), "");
  s_.kept = {{"old", "there", 0, 100.0 * kMiB, 0.2, false},
             {"new", "there", 0, 100.0 * kMiB, 1, false},
             {"lone", "yonder", 0, 100.0 * kMiB, 0.1, true},
             {"high", "yonder", 5, 100.0 * kMiB, 0.1, false}};
  EXPECT_EQ(Decided(), "drop-ghost old here");
  EXPECT_THAT(decision_.steps[0].reason, HasSubstr("100.0 MiB kept for host there"));
  EXPECT_FALSE(decision_.left.AnyAboveZero());
  s_.demand[kMemory] = Flat(980.0 * kMiB);
  EXPECT_EQ(Decided(), "drop-ghost old here, drop-ghost new here");
  // Rather than that something of its own moves.
  p_.allow.migrate = true;
  EXPECT_EQ(Decided(), "drop-ghost old here, drop-ghost new here");
  p_.allow.ghost = false;
  EXPECT_EQ(Decided(), "migrate web there");
}

TEST(ChanceAboveTest, IsThatOfANormalDistribution) {
  const std::array<double, kLevelCount> levels = {100, 105, 112.816, 117, 123};
  EXPECT_NEAR(ChanceAbove(levels, 100), 0.5, 1e-9);
  EXPECT_NEAR(ChanceAbove(levels, 112.816), 0.1, 1e-4);
  EXPECT_NEAR(ChanceAbove(levels, 87.184), 0.9, 1e-4);
  EXPECT_EQ(ChanceAbove({5, 5, 5, 5, 5}, 4), 1);
  EXPECT_EQ(ChanceAbove({5, 5, 5, 5, 5}, 5), 0);
}

TEST_F(StagingTest, CanBeDecidedAgainFromTheLogAndOlderLinesDecideAsTheyDid) {
  GhostView& ghost = Ghost("batch", "yonder");
  ghost.again = 0.25;
  ghost.ready = false;
  s_.kept = {{"old", "there", 1, 5, 0.5, false}};
  LoggedDecision logged{s_, p_, Decide(s_, p_)};
  ASSERT_EQ(Only(logged.decision), "reserve web there, ghost web there");
  const auto read = ReadDecision(WriteDecision(logged));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->situation, logged.situation);
  EXPECT_EQ(read->policy, logged.policy);
  EXPECT_EQ(read->decision, logged.decision);
  EXPECT_EQ(ReplayDecision(*read), "");
  // From before there were ghosts: without those members, and none was made.
  s_.ghosts.clear();
  s_.kept.clear();
  p_.allow.ghost = false;
  logged = {s_, p_, Decide(s_, p_)};
  std::string line = WriteDecision(logged);
  const auto without = [&line](const std::string& text) {
    size_t at = line.find(text);
    ASSERT_NE(at, std::string::npos) << text;
    for (; at != std::string::npos; at = line.find(text)) line.erase(at, text.size());
  };
  without("\"ghosts\":[],");
  without("\"kept\":[],");
  without("\"bytes_per_s\":0.0,");
  without("\"may_stage\":true,");
  without("\"ghost\":false,");
  without("\"moving_s\":0.01,");
  const auto older = ReadDecision(line);
  ASSERT_TRUE(older.ok()) << older.status();
  EXPECT_EQ(older->decision, logged.decision);
  EXPECT_EQ(ReplayDecision(*older), "");
}

}  // namespace
}  // namespace starling::decisions
