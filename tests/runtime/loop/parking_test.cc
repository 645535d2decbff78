#include "runtime/loop/parking.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "runtime/keeper/cgroup.h"
#include "runtime/loop/memory_in.h"
#include "tests/runtime/scratch.h"

// A process that counts, in a cgroup of its own, which a freezer as the keeper's stops.

namespace starling::loop {
namespace {

using decisions::Rest;

template <typename Condition>
bool Soon(Condition condition) {
  for (int i = 0; i < 5000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

class ParkingTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto root = keeper::FindCgroupRoot();
    if (!root.ok()) GTEST_SKIP() << root.status().message();
    const std::string path = absl::StrCat(*root, "/starling-parking-test-", getpid());
    auto group = keeper::Cgroup::Create(path, 0);
    if (!group.ok()) GTEST_SKIP() << "no cgroup can be made here: " << group.status().message();
    group_ = std::make_unique<keeper::Cgroup>(*std::move(group));
    beats_ = static_cast<std::atomic<uint64_t>*>(
        mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(beats_, MAP_FAILED);
    pid_ = fork();
    if (pid_ == 0) {
      while (true) {
        beats_->fetch_add(1);
        usleep(1000);
      }
    }
    ASSERT_TRUE(group_->Add(pid_).ok());
    auto limits = Limits::Open(scratch_ / "limits.json");
    ASSERT_TRUE(limits.ok());
    limits_ = *std::move(limits);
    Begin(std::chrono::seconds(30));
  }
  void Begin(Duration term) {
    Parking::Parts parts;
    parts.freeze = [this](const std::string&, double term_s) {
      terms_ += 1;
      last_term_s_ = term_s;
      if (const absl::Status asked = group_->RequestFrozen(true); !asked.ok()) return asked;
      return group_->WaitFrozen(true, Deadline::After(std::chrono::seconds(5)));
    };
    parts.thaw = [this](const std::string&) { return group_->RequestFrozen(false); };
    parts.activities = [this](const std::string&) -> uint64_t { return activities_; };
    parts.packets = [this](const std::string&) -> uint64_t { return packets_; };
    parts.event = [this](const std::string&, absl::string_view kind, absl::string_view) {
      std::lock_guard lock(mutex_);
      absl::StrAppend(&events_, kind, " ");
    };
    parts.came_back = [this](decisions::Rest rest, Duration after) {
      std::lock_guard lock(mutex_);
      absl::StrAppend(&events_, rest == decisions::Rest::kParked ? "came-back " : "returned ");
      EXPECT_GE(after, Duration{});
    };
    parking_.reset();
    parking_ = std::make_unique<Parking>(*limits_, std::move(parts), term);
  }
  void TearDown() override {
    parking_.reset();
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      if (group_) (void)group_->RequestFrozen(false);
      waitpid(pid_, nullptr, 0);
    }
    if (group_ != nullptr) {
      EXPECT_TRUE(group_->Remove(Deadline::After(std::chrono::seconds(5))).ok());
    }
    if (beats_ != nullptr) munmap(beats_, 4096);
  }
  bool Beats() {
    const uint64_t before = *beats_;
    return Soon([&] { return *beats_ > before + 2; });
  }
  bool Stands() {
    const uint64_t before = *beats_;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return *beats_ == before;
  }
  using By = Parking::By;
  absl::Status Park(By by = By::kPolicy) {
    return parking_->Park("one", group_->path(), by, "a test");
  }
  std::string Events() {
    std::lock_guard lock(mutex_);
    return events_;
  }

  Scratch scratch_{InMemory()};
  std::unique_ptr<keeper::Cgroup> group_;
  std::atomic<uint64_t>* beats_ = nullptr;
  pid_t pid_ = 0;
  std::atomic<uint64_t> activities_{7}, packets_{9};
  std::atomic<int> terms_{0};
  std::atomic<double> last_term_s_{0};
  std::mutex mutex_;
  std::string events_;  // guarded by mutex_
  std::unique_ptr<Limits> limits_;
  std::unique_ptr<Parking> parking_;
};

TEST_F(ParkingTest, StandsUntilItIsWoken) {
  ASSERT_TRUE(Beats());
  ASSERT_TRUE(Park().ok());
  EXPECT_TRUE(Stands());
  EXPECT_EQ(parking_->Of("one").rest, Rest::kParked);
  EXPECT_GT(last_term_s_, 0) << "without an agent it would stand for ever";
  ASSERT_TRUE(parking_->Wake("one", "a test").ok());
  EXPECT_TRUE(Beats());
  EXPECT_EQ(parking_->Of("one").rest, Rest::kNone);
  EXPECT_TRUE(parking_->Wake("one", "again").ok());
  EXPECT_EQ(Events(), "parked woken ");
}

TEST_F(ParkingTest, RunsOnWhenItsUserIsThere) {
  ASSERT_TRUE(Park().ok());
  ASSERT_TRUE(Stands());
  ++activities_;
  EXPECT_TRUE(Beats());
  EXPECT_TRUE(Soon([&] { return parking_->Of("one").rest == Rest::kNone; }));
  EXPECT_TRUE(Soon([&] { return Events() == "parked woken came-back "; })) << Events();
}

TEST_F(ParkingTest, RunsOnWhenAPacketComes) {
  ASSERT_TRUE(Park(By::kPerson).ok());
  EXPECT_EQ(parking_->Of("one").by, By::kPerson);
  ASSERT_TRUE(Stands());
  ++packets_;
  EXPECT_TRUE(Beats());
}

TEST_F(ParkingTest, ItsFreezeIsRenewedWhileThereIsAnAgent) {
  Begin(std::chrono::milliseconds(300));
  ASSERT_TRUE(Park().ok());
  EXPECT_TRUE(Soon([&] { return terms_ >= 3; }));
  EXPECT_TRUE(Stands());
}

TEST_F(ParkingTest, WhoDiesMeanwhileIsForgotten) {
  ASSERT_TRUE(Park().ok());
  parking_->KeepOnly([](const std::string&) { return false; });
  EXPECT_EQ(parking_->Of("one").rest, Rest::kNone);
}

TEST_F(ParkingTest, AllAreWokenButThoseOfOthers) {
  for (const By by : {By::kPerson, By::kHost}) {
    ASSERT_TRUE(Park(by).ok());
    // That the policy wants it as well changes nothing.
    ASSERT_TRUE(Park(By::kPolicy).ok());
    EXPECT_EQ(parking_->Of("one").by, by);
    parking_->WakeAll("the policy only observes", /*others_too=*/false);
    EXPECT_TRUE(Stands());
    parking_->WakeAll("the agent goes down", /*others_too=*/true);
    EXPECT_TRUE(Beats());
  }
}

TEST_F(ParkingTest, WhatAnotherHostGuessedIsNoMistakeOfThisOne) {
  ASSERT_TRUE(Park(By::kHost).ok());
  ++activities_;
  EXPECT_TRUE(Beats());
  EXPECT_TRUE(Soon([&] { return Events() == "parked woken "; })) << Events();
}

TEST_F(ParkingTest, ShrunkItRunsAndHasItsLimitsBackWhenItsUserIsThere) {
  // Beside the real group, whose controllers may not be there: one of plain files.
  const std::string cgroup = scratch_ / "cgroup";
  ASSERT_TRUE(MakeDirectories(cgroup).ok());
  ASSERT_TRUE(WriteFileAtomic(cgroup + "/cpu.weight", "100\n").ok());
  ASSERT_TRUE(WriteFileAtomic(cgroup + "/memory.high", "max\n").ok());
  ASSERT_TRUE(parking_->Shrink("one", cgroup, 12345, "a test").ok());
  EXPECT_EQ(parking_->Of("one").rest, Rest::kShrunk);
  EXPECT_TRUE(Beats());
  EXPECT_EQ(ReadFile(cgroup + "/memory.high").value_or("").substr(0, 5), "12345");
  ++packets_;
  EXPECT_TRUE(Beats());
  EXPECT_EQ(parking_->Of("one").rest, Rest::kShrunk) << "packets come for who runs";
  ++activities_;
  EXPECT_TRUE(Soon([&] { return parking_->Of("one").rest == Rest::kNone; }));
  EXPECT_EQ(ReadFile(cgroup + "/memory.high").value_or("").substr(0, 3), "max");
}

TEST_F(ParkingTest, WhatIsNotSwappedOutIsNotAskedFor) { EXPECT_EQ(BringIn(group_->path()), 0); }

}  // namespace
}  // namespace starling::loop
