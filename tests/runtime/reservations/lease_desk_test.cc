#include "runtime/reservations/lease_desk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/units.h"
#include "tests/runtime/scratch.h"

namespace starling::reservations {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;

constexpr auto kMemory = static_cast<size_t>(Resource::kMemory);
constexpr auto MiB = static_cast<int64_t>(kMiB);

Amounts Memory(int64_t bytes) {
  Amounts amounts;
  amounts[Resource::kMemory] = bytes;
  return amounts;
}

class LeaseDeskTest : public testing::Test {
 protected:
  void SetUp() override { Open(); }
  void Open() {
    desk_.reset();
    auto desk = LeaseDesk::Open("node2", scratch_.path(), "boot", now_);
    ASSERT_TRUE(desk.ok()) << desk.status();
    desk_ = *std::move(desk);
  }
  void Measure(int64_t used, std::map<std::string, Amounts> of_each = {}, int64_t landing = 0) {
    LeaseDesk::Measured measured;
    measured.total = Memory(1000 * MiB);
    measured.used = Memory(used * MiB);
    measured.landing = Memory(landing * MiB);
    measured.of_each = std::move(of_each);
    ASSERT_TRUE(desk_->Measure(now_, measured).ok());
  }
  Ask SoftAsk(const std::string& component, int64_t mib) {
    return {LeaseId("node1", component), "node1",    component, 0, Kind::kSoft, false,
            Memory(mib * MiB),           seconds(60)};
  }
  int64_t Free() { return desk_->free().of[kMemory] / MiB; }

  Scratch scratch_{InMemory()};
  TimePoint now_{seconds(1000)};
  std::unique_ptr<LeaseDesk> desk_;
};

TEST_F(LeaseDeskTest, PromisesNothingBeforeItKnowsWhatThereIs) {
  EXPECT_EQ(desk_->Grant(now_, SoftAsk("redis", 1)).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(desk_->Arrive(now_, "node1", "redis", 0, MiB).code(), absl::StatusCode::kUnavailable);
}

TEST_F(LeaseDeskTest, PromisesWhatIsNotInUse) {
  Measure(400);
  EXPECT_EQ(Free(), 600);
  ASSERT_TRUE(desk_->Grant(now_, SoftAsk("redis", 500)).ok());
  EXPECT_EQ(Free(), 100);
  const absl::Status refused = desk_->Grant(now_, SoftAsk("web", 200)).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()),
              testing::AllOf(HasSubstr("host node2"), HasSubstr("component web"),
                             HasSubstr("200.0 MiB"), HasSubstr("100.0 MiB")));
}

TEST_F(LeaseDeskTest, AnIdIsTheHoldersAndTheComponents) {
  Measure(0);
  Ask ask = SoftAsk("redis", 1);
  ask.id = "node3/redis";
  EXPECT_EQ(desk_->Grant(now_, ask).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(LeaseDeskTest, AMigrationTakesWhatWasReservedForIt) {
  Measure(400);
  ASSERT_TRUE(desk_->Grant(now_, SoftAsk("redis", 100)).ok());
  // It needs more than was thought, and that is there.
  ASSERT_TRUE(desk_->Arrive(now_, "node1", "redis", 0, 300 * MiB).ok());
  ASSERT_EQ(desk_->List().size(), 1u);
  EXPECT_EQ(desk_->List()[0].kind, Kind::kFirm);
  EXPECT_EQ(desk_->List()[0].amount.of[kMemory], 300 * MiB);
  EXPECT_EQ(Free(), 300);
  desk_->Arrived(now_, "node1", "redis");
  ASSERT_EQ(desk_->List().size(), 1u);
  EXPECT_TRUE(desk_->List()[0].pinned);
  EXPECT_EQ(desk_->List()[0].holder, "node2");
  // What it uses counts once.
  Measure(700, {{"redis", Memory(300 * MiB)}});
  EXPECT_EQ(Free(), 300);
  // It may come to use what it asked for.
  Measure(500, {{"redis", Memory(100 * MiB)}});
  EXPECT_EQ(Free(), 300);
  // It left, or ended.
  Measure(400);
  EXPECT_TRUE(desk_->List().empty());
  EXPECT_EQ(Free(), 600);
}

TEST_F(LeaseDeskTest, AMigrationWithoutRoomIsRefusedAndKeepsNothing) {
  Measure(900);
  const absl::Status refused = desk_->Arrive(now_, "node1", "redis", 0, 300 * MiB);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()),
              testing::AllOf(HasSubstr("node2"), HasSubstr("300.0 MiB"), HasSubstr("100.0 MiB")));
  desk_->CalledOff(now_, "node1", "redis");
  EXPECT_TRUE(desk_->List().empty());
}

TEST_F(LeaseDeskTest, ALeaseThatCannotGrowIsNotEnough) {
  Measure(800);
  ASSERT_TRUE(desk_->Grant(now_, SoftAsk("redis", 100)).ok());
  EXPECT_EQ(desk_->Arrive(now_, "node1", "redis", 0, 300 * MiB).code(),
            absl::StatusCode::kResourceExhausted);
}

TEST_F(LeaseDeskTest, AComponentThatCameJustNowIsNotTakenForOneThatLeft) {
  Measure(400);
  ASSERT_TRUE(desk_->Arrive(now_, "node1", "redis", 0, 100 * MiB).ok());
  // It was looked who is here, and then it came.
  desk_->Arrived(now_, "node1", "redis");
  Measure(400);
  EXPECT_EQ(desk_->List().size(), 1u);
  Measure(400);
  EXPECT_TRUE(desk_->List().empty());
}

TEST_F(LeaseDeskTest, WhatIsCalledOffIsGivenBack) {
  Measure(400);
  ASSERT_TRUE(desk_->Arrive(now_, "node1", "redis", 0, 300 * MiB).ok());
  EXPECT_EQ(Free(), 300);
  desk_->CalledOff(now_, "node1", "redis");
  EXPECT_EQ(Free(), 600);
}

TEST_F(LeaseDeskTest, WhatLandsCountsOnceAndIsNotTakenBack) {
  Measure(400);
  ASSERT_TRUE(desk_->Grant(now_, SoftAsk("web", 200)).ok());
  ASSERT_TRUE(desk_->Arrive(now_, "node1", "redis", 0, 300 * MiB).ok());
  Measure(650, {}, 250);
  EXPECT_EQ(Free(), 100);
  EXPECT_EQ(desk_->List().size(), 2u);
  // Others use nearly all: what was only promised goes, what is on its way stays.
  Measure(990, {}, 250);
  ASSERT_EQ(desk_->List().size(), 1u);
  EXPECT_EQ(desk_->List()[0].component, "redis");
}

TEST_F(LeaseDeskTest, AComponentThatReturnsBeforeAnybodyLookedIsItsSources) {
  Measure(400);
  ASSERT_TRUE(desk_->Arrive(now_, "node1", "redis", 0, 100 * MiB).ok());
  desk_->Arrived(now_, "node1", "redis");
  ASSERT_TRUE(desk_->Arrive(now_, "node1", "redis", 0, 200 * MiB).ok());
  ASSERT_EQ(desk_->List().size(), 1u);
  EXPECT_EQ(desk_->List()[0].holder, "node1");
}

TEST_F(LeaseDeskTest, LeasesAreThereAgainAfterARestart) {
  Measure(400);
  ASSERT_TRUE(desk_->Grant(now_, SoftAsk("redis", 100)).ok());
  ASSERT_TRUE(desk_->Arrive(now_, "node3", "web", 0, 50 * MiB).ok());
  Open();
  EXPECT_EQ(desk_->List().size(), 2u);
  Measure(400);
  EXPECT_EQ(desk_->List().size(), 2u);
  EXPECT_EQ(Free(), 450);
  // The one that nobody renews ends by itself.
  now_ += seconds(61);
  desk_->Keep(now_, "node3", "web");
  Measure(400);
  ASSERT_EQ(desk_->List().size(), 1u);
  EXPECT_EQ(desk_->List()[0].component, "web");
}

}  // namespace
}  // namespace starling::reservations
