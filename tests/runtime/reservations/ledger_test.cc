#include "runtime/reservations/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace starling::reservations {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;

Amounts Cpu(int64_t processors) {
  Amounts amounts;
  amounts[Resource::kCpu] = processors;
  return amounts;
}

Amounts Memory(int64_t bytes) {
  Amounts amounts;
  amounts[Resource::kMemory] = bytes;
  return amounts;
}

class LedgerTest : public testing::Test {
 protected:
  absl::StatusOr<Lease> Grant(const std::string& id, int64_t cpu, int priority, Kind kind,
                              bool may_borrow = false, const std::string& holder = "a") {
    changes_.clear();
    auto lease = ledger_.Grant(
        now_, Ask{id, holder, "c", priority, kind, may_borrow, Cpu(cpu), seconds(10)}, changes_);
    EXPECT_EQ(ledger_.Check(now_), "");
    return lease;
  }
  absl::Status Claim(const std::string& id, const std::string& holder = "a") {
    changes_.clear();
    const absl::Status status = ledger_.Claim(now_, id, holder, changes_).status();
    EXPECT_EQ(ledger_.Check(now_), "");
    return status;
  }
  absl::Status Release(const std::string& id, const std::string& holder = "a") {
    changes_.clear();
    const absl::Status status = ledger_.Release(now_, id, holder, changes_);
    EXPECT_EQ(ledger_.Check(now_), "");
    return status;
  }
  // The ids that `what` happened to in the last call.
  std::vector<std::string> Ids(What what) const {
    std::vector<std::string> ids;
    for (const Change& change : changes_) {
      if (change.what == what) ids.push_back(change.lease().id);
    }
    return ids;
  }

  TimePoint now_{seconds(100)};
  Ledger ledger_{Cpu(10)};
  Changes changes_;
};

TEST_F(LedgerTest, PromisesNoMoreThanThereIs) {
  ASSERT_TRUE(Grant("1", 6, 0, Kind::kFirm).ok());
  const absl::Status refused = Grant("2", 5, 0, Kind::kSoft).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("too little"));
  EXPECT_TRUE(Grant("3", 4, 0, Kind::kSoft).ok());
  EXPECT_EQ(ledger_.Free(), Cpu(0));
}

TEST_F(LedgerTest, OfWhatAHostHasNotNothingIsPromised) {
  EXPECT_EQ(
      ledger_.Grant(now_, {"1", "a", "c", 0, Kind::kSoft, true, Memory(1), seconds(1)}, changes_)
          .status()
          .code(),
      absl::StatusCode::kResourceExhausted);
}

TEST_F(LedgerTest, AskingTwiceIsAskingOnce) {
  ASSERT_TRUE(Grant("1", 6, 0, Kind::kFirm).ok());
  now_ += seconds(5);
  const auto again = Grant("1", 6, 0, Kind::kFirm);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->end, now_ + seconds(10));
  EXPECT_EQ(ledger_.firm(), Cpu(6));
  EXPECT_EQ(Grant("1", 6, 0, Kind::kFirm, false, "b").status().code(),
            absl::StatusCode::kPermissionDenied);
}

TEST_F(LedgerTest, EndsByItself) {
  ASSERT_TRUE(Grant("1", 6, 0, Kind::kFirm).ok());
  now_ += seconds(10);
  ASSERT_TRUE(Grant("2", 10, 0, Kind::kFirm).ok());
  EXPECT_THAT(Ids(What::kExpired), testing::ElementsAre("1"));
  EXPECT_EQ(Claim("1").code(), absl::StatusCode::kNotFound);
}

TEST_F(LedgerTest, SoftRoomIsLentUntilItIsClaimed) {
  ASSERT_TRUE(Grant("soft", 8, 5, Kind::kSoft).ok());
  const auto loan = Grant("loan", 7, 0, Kind::kFirm, true);
  ASSERT_TRUE(loan.ok());
  EXPECT_EQ(loan->kind, Kind::kLoan);
  EXPECT_FALSE(Grant("other", 7, 0, Kind::kFirm, true).ok());  // lent once only
  ASSERT_TRUE(Claim("soft").ok());
  EXPECT_THAT(Ids(What::kRecalled), testing::ElementsAre("loan"));
  EXPECT_EQ(ledger_.firm(), Cpu(8));
}

TEST_F(LedgerTest, AClaimRecallsNoMoreLoansThanItMust) {
  ASSERT_TRUE(Grant("soft", 4, 5, Kind::kSoft).ok());
  ASSERT_TRUE(Grant("rest", 6, 5, Kind::kSoft).ok());
  ASSERT_TRUE(Grant("low", 3, 0, Kind::kFirm, true).ok());
  ASSERT_TRUE(Grant("high", 5, 1, Kind::kFirm, true).ok());
  ASSERT_TRUE(Claim("soft").ok());
  EXPECT_THAT(Ids(What::kRecalled), testing::ElementsAre("low"));
}

TEST_F(LedgerTest, ALoanBecomesALeaseWhenThereIsRoom) {
  ASSERT_TRUE(Grant("soft", 8, 5, Kind::kSoft).ok());
  ASSERT_TRUE(Grant("loan", 7, 0, Kind::kFirm, true).ok());
  ASSERT_TRUE(Release("soft").ok());
  EXPECT_THAT(Ids(What::kPromoted), testing::ElementsAre("loan"));
  EXPECT_EQ(ledger_.Find("loan")->kind, Kind::kFirm);
}

TEST_F(LedgerTest, ALoanIsNotClaimed) {
  ASSERT_TRUE(Grant("soft", 8, 5, Kind::kSoft).ok());
  ASSERT_TRUE(Grant("loan", 7, 0, Kind::kSoft, true).ok());
  EXPECT_EQ(Claim("loan").code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(LedgerTest, HigherPriorityTakesWhatMayYield) {
  ASSERT_TRUE(Grant("soft", 5, 1, Kind::kSoft).ok());
  ASSERT_TRUE(Grant("firm", 5, 1, Kind::kFirm).ok());
  // A soft lease takes no firm room, whatever its priority.
  EXPECT_FALSE(Grant("s", 6, 9, Kind::kSoft).ok());
  ASSERT_TRUE(Grant("s", 5, 9, Kind::kSoft).ok());
  EXPECT_THAT(Ids(What::kWithdrawn), testing::ElementsAre("soft"));
  ASSERT_TRUE(Grant("f", 5, 9, Kind::kFirm).ok());
  EXPECT_THAT(Ids(What::kWithdrawn), testing::ElementsAre("firm"));
}

TEST_F(LedgerTest, EqualAndLowerPriorityTakeNothing) {
  ASSERT_TRUE(Grant("1", 10, 3, Kind::kSoft).ok());
  EXPECT_FALSE(Grant("2", 1, 3, Kind::kFirm).ok());
  EXPECT_FALSE(Grant("3", 1, 2, Kind::kFirm).ok());
  EXPECT_TRUE(Grant("4", 1, 4, Kind::kFirm).ok());
}

TEST_F(LedgerTest, NothingYieldsInVain) {
  ASSERT_TRUE(Grant("1", 3, 1, Kind::kSoft).ok());
  ASSERT_TRUE(Grant("2", 7, 2, Kind::kFirm).ok());
  EXPECT_FALSE(Grant("3", 4, 2, Kind::kFirm).ok());
  EXPECT_TRUE(Ids(What::kWithdrawn).empty());
  EXPECT_NE(ledger_.Find("1"), nullptr);
}

TEST_F(LedgerTest, TheHolderOfMostYieldsFirst) {
  ASSERT_TRUE(Grant("a1", 4, 1, Kind::kSoft, false, "a").ok());
  ASSERT_TRUE(Grant("a2", 2, 1, Kind::kSoft, false, "a").ok());
  ASSERT_TRUE(Grant("b1", 4, 1, Kind::kSoft, false, "b").ok());
  ASSERT_TRUE(Grant("x", 2, 2, Kind::kSoft, false, "c").ok());
  EXPECT_THAT(Ids(What::kWithdrawn), testing::ElementsAre("a2"));
}

TEST_F(LedgerTest, WhoNeedNotYieldIsSpared) {
  ASSERT_TRUE(Grant("small", 2, 1, Kind::kSoft).ok());
  ASSERT_TRUE(Grant("large", 8, 2, Kind::kSoft).ok());
  // The lowest priority alone is too little; with the larger one, it is not needed.
  ASSERT_TRUE(Grant("x", 8, 3, Kind::kFirm).ok());
  EXPECT_THAT(Ids(What::kWithdrawn), testing::ElementsAre("large"));
}

// A firm ask was refused although a firm lease of lower priority could have yielded: room was looked
// for among what is promised, where a soft lease had it, and then in hand among loans alone.
TEST_F(LedgerTest, AFirmLeaseYieldsInBothBooks) {
  ASSERT_TRUE(Grant("s1", 3, 9, Kind::kSoft).ok());
  ASSERT_TRUE(Grant("s2", 3, 9, Kind::kSoft).ok());
  ASSERT_TRUE(Grant("firm", 4, 1, Kind::kFirm).ok());
  ASSERT_EQ(Grant("loan", 6, 5, Kind::kFirm, true)->kind, Kind::kLoan);
  ASSERT_TRUE(Release("s1").ok());
  ASSERT_TRUE(Grant("low", 3, 0, Kind::kSoft).ok());
  ASSERT_TRUE(Grant("x", 3, 2, Kind::kFirm).ok());
  EXPECT_THAT(Ids(What::kWithdrawn), testing::ElementsAre("firm"));
}

TEST_F(LedgerTest, WhatRunsHereYieldsToNobody) {
  ASSERT_TRUE(Grant("1", 10, 0, Kind::kFirm).ok());
  changes_.clear();
  ASSERT_TRUE(ledger_.Pin(now_, "1", "a", "here", changes_).ok());
  now_ += std::chrono::hours(100);
  EXPECT_FALSE(Grant("2", 1, 9, Kind::kFirm).ok());
  EXPECT_EQ(Release("1", "a").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(Release("1", "here").ok());
  EXPECT_TRUE(Grant("2", 1, 9, Kind::kFirm).ok());
}

TEST_F(LedgerTest, NothingRunsInASoftLease) {
  ASSERT_TRUE(Grant("1", 10, 0, Kind::kSoft).ok());
  EXPECT_EQ(ledger_.Pin(now_, "1", "a", "here", changes_).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(LedgerTest, AStagedLeaseGrowsAndShrinks) {
  ASSERT_TRUE(Grant("1", 2, 0, Kind::kSoft).ok());
  ASSERT_TRUE(Grant("2", 4, 0, Kind::kSoft).ok());
  const auto renew = [&](int64_t cpu) {
    changes_.clear();
    const auto lease = ledger_.Renew(now_, "1", "a", seconds(20), Cpu(cpu), changes_);
    EXPECT_EQ(ledger_.Check(now_), "");
    return lease.value();
  };
  EXPECT_EQ(renew(6).amount, Cpu(6));
  const Lease kept = renew(7);
  EXPECT_EQ(kept.amount, Cpu(6));  // no room, and it is renewed all the same
  EXPECT_EQ(kept.end, now_ + seconds(20));
  EXPECT_EQ(renew(1).amount, Cpu(1));
  EXPECT_EQ(ledger_.Free(), Cpu(5));
}

TEST_F(LedgerTest, AHostThatShrinksKeepsWhatRuns) {
  ASSERT_TRUE(Grant("runs", 4, 0, Kind::kFirm).ok());
  ASSERT_TRUE(ledger_.Pin(now_, "runs", "a", "here", changes_).ok());
  ASSERT_TRUE(Grant("firm", 2, 5, Kind::kFirm).ok());
  ASSERT_TRUE(Grant("soft", 4, 7, Kind::kSoft).ok());
  changes_.clear();
  ledger_.Resize(now_, Cpu(7), changes_);
  EXPECT_EQ(ledger_.Check(now_), "");
  EXPECT_THAT(Ids(What::kWithdrawn), testing::ElementsAre("soft"));
  changes_.clear();
  ledger_.Resize(now_, Cpu(3), changes_);
  EXPECT_EQ(ledger_.Check(now_), "");
  EXPECT_THAT(Ids(What::kWithdrawn), testing::ElementsAre("firm"));
  EXPECT_EQ(ledger_.Deficit(), Cpu(1));
}

TEST_F(LedgerTest, UndoLeavesNoTrace) {
  ASSERT_TRUE(Grant("1", 6, 1, Kind::kSoft).ok());
  ASSERT_TRUE(Grant("2", 4, 1, Kind::kSoft).ok());
  ASSERT_TRUE(Grant("loan", 6, 1, Kind::kFirm, true).ok());
  ASSERT_TRUE(Grant("3", 10, 2, Kind::kFirm).ok());
  ASSERT_EQ(ledger_.size(), 1u);
  ledger_.Undo(changes_);
  EXPECT_EQ(ledger_.Check(now_), "");
  EXPECT_EQ(ledger_.size(), 3u);
  EXPECT_EQ(ledger_.soft(), Cpu(10));
  EXPECT_EQ(ledger_.loans(), Cpu(6));
}

TEST_F(LedgerTest, RefusesWhatMakesNoSense) {
  const Ask sound{"1", "a", "c", 0, Kind::kSoft, false, Cpu(1), seconds(1)};
  const auto refused = [&](auto change) {
    Ask ask = sound;
    change(ask);
    return ledger_.Grant(now_, ask, changes_).status().code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](Ask& ask) { ask.id = ""; }));
  EXPECT_TRUE(refused([](Ask& ask) { ask.id = std::string(Ledger::kMostText + 1, 'x'); }));
  EXPECT_TRUE(refused([](Ask& ask) { ask.holder = ""; }));
  EXPECT_TRUE(refused([](Ask& ask) { ask.component = ""; }));
  EXPECT_TRUE(refused([](Ask& ask) { ask.kind = Kind::kLoan; }));
  EXPECT_TRUE(refused([](Ask& ask) { ask.amount = Cpu(0); }));
  EXPECT_TRUE(refused([](Ask& ask) { ask.amount = Cpu(-1); }));
  EXPECT_TRUE(refused([](Ask& ask) { ask.amount = Cpu(Amounts::kMost + 1); }));
  EXPECT_TRUE(refused([](Ask& ask) { ask.length = seconds(0); }));
  EXPECT_TRUE(refused([](Ask& ask) { ask.length = Ledger::kLongest + seconds(1); }));
  EXPECT_EQ(ledger_.size(), 0u);
}

TEST_F(LedgerTest, OneHolderCannotFillIt) {
  ledger_ = Ledger(Cpu(1000000));
  for (size_t i = 0; i < Ledger::kMostOfHolder; ++i) {
    ASSERT_TRUE(
        ledger_
            .Grant(now_, {std::to_string(i), "a", "c", 0, Kind::kSoft, false, Cpu(1), seconds(10)},
                   changes_)
            .ok());
  }
  EXPECT_EQ(Grant("more", 1, 9, Kind::kFirm).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Grant("more", 1, 9, Kind::kFirm, false, "b").ok());
}

TEST(AmountsTest, AreShown) {
  Amounts amounts;
  EXPECT_EQ(Show(amounts), "nothing");
  amounts[Resource::kCpu] = 2500;
  amounts[Resource::kMemory] = 512 << 20;
  amounts[Resource::kNetwork] = 1 << 20;
  EXPECT_EQ(Show(amounts), "2.5 processors, 512.0 MiB of memory, 1.0 MiB/s of network");
  Resource resource;
  EXPECT_TRUE(ParseResource("gpu-memory", resource));
  EXPECT_EQ(resource, Resource::kGpuMemory);
  EXPECT_FALSE(ParseResource("gpumemory", resource));
}

}  // namespace
}  // namespace starling::reservations
