#include "checkpoint/shared_tracker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "tests/checkpoint/child_process.h"
#include "tests/checkpoint/tracker_kinds.h"

namespace starling::checkpoint {
namespace {

using ::testing::HasSubstr;

constexpr int kPages = 16;

// Sixteen pages of a child, of which it writes those that `wanted_` (shared with it) says at each
// step.
class SharedTrackerTest : public ::testing::TestWithParam<TrackerKind> {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "other processes' memory is for root alone";
    if (const char* why = GetParam().missing()) GTEST_SKIP() << why;
    char name[] = "/tmp/starling-shared-tracker-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    memory_ = static_cast<char*>(::mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(memory_, MAP_FAILED);
    ::madvise(memory_, kPages * kPageSize, MADV_NOHUGEPAGE);
    wanted_ = static_cast<char*>(
        ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(wanted_, MAP_FAILED);
    child_.Start([this](int step) {
      for (int page = 0; page < kPages; ++page) {
        if (wanted_[page] != 0) {
          std::memset(memory_ + page * kPageSize, 'a' + step % 20, kPageSize);
        }
      }
    });
    std::ofstream(absl::StrCat(folder_, "/cgroup.procs")) << child_.pid() << "\n";
  }
  void TearDown() override {
    child_.End();
    if (memory_ != nullptr) ::munmap(memory_, kPages * kPageSize);
    if (wanted_ != nullptr) ::munmap(wanted_, kPageSize);
    if (folder_.empty()) return;
    ASSERT_TRUE(RemoveTree(folder_).ok());
  }

  std::unique_ptr<Tracker> Join() {
    absl::StatusOr<std::unique_ptr<Tracker>> reader = shared_->Join(GetParam().name, [this] {
      ++made_;
      return GetParam().make(folder_, [this](bool frozen) -> absl::Status {
        if (fails_) return absl::UnavailableError("it does not come to rest");
        ::kill(child_.pid(), frozen ? SIGSTOP : SIGCONT);
        return absl::OkStatus();
      });
    });
    EXPECT_TRUE(reader.ok()) << reader.status();
    return *std::move(reader);
  }

  void Write(const std::string& pages) {
    for (int page = 0; page < kPages; ++page) {
      wanted_[page] = pages[static_cast<size_t>(page)] == 'x' ? 1 : 0;
    }
    child_.Step();
  }

  std::string Changed(const absl::StatusOr<MemoryChanges>& changes) {
    std::string marks(kPages, '.');
    EXPECT_TRUE(changes.ok()) << changes.status();
    if (!changes.ok() || changes->processes.size() != 1) return "not one process";
    is_new_ = changes->processes[0].is_new;
    const auto base = reinterpret_cast<uint64_t>(memory_);
    for (const PageRange& range : changes->processes[0].changed) {
      for (uint64_t at = range.address; at < range.end(); at += kPageSize) {
        if (at >= base && at < base + kPages * kPageSize) marks[(at - base) / kPageSize] = 'x';
      }
    }
    return marks;
  }
  std::string List(Tracker& tracker) { return Changed(tracker.List()); }

  std::shared_ptr<SharedTracker> shared_ = std::make_shared<SharedTracker>();
  std::string folder_;
  char* memory_ = nullptr;
  char* wanted_ = nullptr;
  ChildProcess child_;
  bool is_new_ = false;
  int made_ = 0;
  std::atomic<bool> fails_{false};
};

TEST_P(SharedTrackerTest, EachReaderHasWhatWasWrittenSinceItsOwnList) {
  const auto one = Join(), two = Join();
  EXPECT_EQ(made_, 1);
  EXPECT_EQ(one->name(), std::string(GetParam().name));
  Write("xxxx............");
  EXPECT_EQ(List(*one), "xxxx............");
  EXPECT_TRUE(is_new_);
  Write("x...............");
  // The first list of the other one has everything, whoever listed before.
  EXPECT_EQ(List(*two), "xxxx............");
  EXPECT_TRUE(is_new_);
  Write(".x..x...........");
  EXPECT_EQ(List(*one), "xx..x...........");
  EXPECT_FALSE(is_new_);
  Write("...x............");
  EXPECT_EQ(List(*one), "...x............");
  EXPECT_EQ(List(*two), ".x.xx...........");
  EXPECT_FALSE(is_new_);
  EXPECT_EQ(List(*one), "................");
  EXPECT_EQ(List(*two), "................");
}

TEST_P(SharedTrackerTest, WhoJoinsLaterOrForgetsHasEverythingAndTheOthersWhatWasWritten) {
  const auto one = Join();
  Write("xxxx............");
  List(*one);
  auto two = Join();
  Write("..x.............");
  EXPECT_EQ(List(*two), "xxxx............");
  Write("x...............");
  two->Forget();
  EXPECT_EQ(List(*two), "xxxx............");
  EXPECT_EQ(List(*one), "x.x.............");
  two.reset();
  Write("...x............");
  EXPECT_EQ(List(*one), "...x............");
}

TEST_P(SharedTrackerTest, WhenNobodyReadsAnyMoreTheNextHasATrackerOfItsOwn) {
  Join().reset();
  EXPECT_EQ(made_, 1);
  const auto again = Join();
  EXPECT_EQ(made_, 2);
  Write("x...............");
  EXPECT_EQ(List(*again), "x...............");
}

TEST_P(SharedTrackerTest, WhenTheMarksAreNotTheirsAllHaveEverything) {
  const auto one = Join(), two = Join();
  Write("xxxx............");
  List(*one);
  List(*two);
  shared_->Forget();
  EXPECT_EQ(List(*two), "xxxx............");
  EXPECT_EQ(List(*one), "xxxx............");
}

TEST_P(SharedTrackerTest, AListOfTheFrozenComponentIsKeptForTheOthersToo) {
  const auto one = Join(), two = Join();
  Write("xxxx............");
  List(*one);
  List(*two);
  Write(".x..............");
  {
    const auto hold = shared_->Hold();
    ::kill(child_.pid(), SIGSTOP);
    EXPECT_EQ(Changed(one->ListFrozen())[1], 'x');
    ::kill(child_.pid(), SIGCONT);
  }
  Write("...x............");
  const std::string seen = List(*two);
  EXPECT_EQ(seen[1], 'x');
  EXPECT_EQ(seen[3], 'x');
  // A tracker that goes on behind the freeze knows the rest to be as it was.
  EXPECT_EQ(seen[0], two->goes_on() ? '.' : 'x');
  // And after a last one nothing is known.
  ::kill(child_.pid(), SIGSTOP);
  EXPECT_TRUE(one->ListLast().ok());
  ::kill(child_.pid(), SIGCONT);
  EXPECT_EQ(List(*two), "xxxx............");
  EXPECT_EQ(List(*one), "xxxx............");
}

TEST_P(SharedTrackerTest, AListThatFailedLeavesNobodyWithoutWhatItMayHaveTaken) {
  const auto one = Join(), two = Join();
  Write("xxxx............");
  List(*one);
  List(*two);
  Write(".x..............");
  fails_ = true;
  const bool froze = !one->List().ok();
  fails_ = false;
  EXPECT_EQ(List(*two), froze ? "xxxx............" : ".x..............");
}

TEST_P(SharedTrackerTest, NobodyListsWhileTheComponentIsHeld) {
  const auto one = Join(), two = Join();
  Write("x...............");
  List(*two);
  std::atomic<bool> listed{false};
  std::thread other;
  {
    const auto hold = shared_->Hold();
    other = std::thread([&] {
      (void)two->List();
      listed = true;
    });
    ::usleep(50000);
    EXPECT_FALSE(listed);
    // Who holds it may.
    EXPECT_TRUE(one->List().ok());
  }
  other.join();
  EXPECT_TRUE(listed);
}

// Three copies that are made of what each reader lists, in any order: none ever misses a page.
TEST_P(SharedTrackerTest, NoCopyMissesAPage) {
  std::mt19937 random(1);
  struct Copy {
    std::unique_ptr<Tracker> reader;
    std::string content = std::string(kPages * kPageSize, '\0');
  };
  std::vector<Copy> copies(3);
  for (Copy& copy : copies) copy.reader = Join();
  for (int step = 0; step < 300; ++step) {
    std::string pages(kPages, '.');
    for (char& page : pages) page = random() % 4 == 0 ? 'x' : '.';
    if (step == 0) pages = std::string(kPages, 'x');
    Write(pages);
    Copy& copy = copies[random() % copies.size()];
    if (random() % 20 == 0) copy.reader->Forget();
    if (random() % 30 == 0) {
      copy.reader.reset();
      copy.reader = Join();
    }
    const auto changes = copy.reader->List();
    ASSERT_TRUE(changes.ok()) << changes.status();
    ASSERT_EQ(changes->processes.size(), 1u);
    const auto base = reinterpret_cast<uint64_t>(memory_);
    const PageRange all{base, kPages};
    const auto read = [&](const PageRange& range, char* to) {
      std::vector<bool> there;
      ASSERT_TRUE(changes->processes[0]
                      .memory
                      ->Read({&range, 1},
                             std::as_writable_bytes(std::span(to, range.pages * kPageSize)), there)
                      .ok());
    };
    for (const PageRange& range : Intersect(changes->processes[0].changed, {&all, 1})) {
      read(range, copy.content.data() + (range.address - base));
    }
    std::string now(kPages * kPageSize, '\0');
    read(all, now.data());
    ASSERT_EQ(copy.content, now) << "at step " << step;
  }
}

INSTANTIATE_TEST_SUITE_P(All, SharedTrackerTest,
                         ::testing::Values(kSoftDirtyKind, kPagemapScanKind), TestName);

TEST(SharedTrackerAloneTest, WhatUsesTheMarksInAnotherWayIsRefused) {
  const auto shared = std::make_shared<SharedTracker>();
  const auto make = [] { return MakeSoftDirtyTracker("/nowhere", nullptr); };
  auto reader = shared->Join("soft-dirty", make);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto other = shared->Join("pagemap-scan", make);
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(other.status().message(), HasSubstr("soft-dirty"));
  EXPECT_EQ(shared->Alone().status().code(), absl::StatusCode::kFailedPrecondition);
  reader->reset();
  auto alone = shared->Alone();
  ASSERT_TRUE(alone.ok()) << alone.status();
  EXPECT_FALSE(shared->Alone().ok());
  EXPECT_FALSE(shared->Join("soft-dirty", make).ok());
  alone->reset();
  EXPECT_TRUE(shared->Join("soft-dirty", make).ok());
}

}  // namespace
}  // namespace starling::checkpoint
