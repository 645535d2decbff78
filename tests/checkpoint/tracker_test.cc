#include "checkpoint/tracker.h"

#include <gtest/gtest.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "tests/checkpoint/child_process.h"
#include "tests/checkpoint/tracker_kinds.h"

namespace starling::checkpoint {
namespace {

// Sixteen pages of which the child writes, maps and gives back some at each step.
constexpr int kPages = 16;

class TrackerTest : public ::testing::TestWithParam<TrackerKind> {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "other processes' memory is for root alone";
    if (const char* why = GetParam().missing()) GTEST_SKIP() << why;
    char name[] = "/tmp/starling-tracker-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    memory_ = static_cast<char*>(::mmap(nullptr, 2 * kPages * kPageSize, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(memory_, MAP_FAILED);
    ::madvise(memory_, 2 * kPages * kPageSize, MADV_NOHUGEPAGE);
    elsewhere_ = memory_ + kPages * kPageSize;
  }
  void TearDown() override {
    child_.End();
    if (memory_ != nullptr) ::munmap(memory_, 2 * kPages * kPageSize);
    if (folder_.empty()) return;
    ASSERT_TRUE(RemoveTree(folder_).ok());
  }

  void Start(const std::function<void(int)>& body) {
    child_.Start(body);
    SetProcesses({child_.pid()});
    tracker_ = GetParam().make(folder_, [this](bool frozen) {
      ::kill(child_.pid(), frozen ? SIGSTOP : SIGCONT);
      freezes_ += frozen;
      return absl::OkStatus();
    });
  }
  void SetProcesses(const std::vector<pid_t>& pids) {
    std::ofstream procs(absl::StrCat(folder_, "/cgroup.procs"));
    for (const pid_t pid : pids) procs << pid << "\n";
  }
  void Write(int page, char content) {
    std::memset(memory_ + page * kPageSize, content, kPageSize);
  }

  // One list, all of it sent; what it has of memory_, by page. `last`: with the child stopped.
  struct Seen {
    std::string resident = std::string(2 * kPages, '.');
    std::string changed = std::string(2 * kPages, '.');
    bool is_new = false;
    size_t processes = 0;
  };
  Seen List(bool last = false) {
    if (last) ::kill(child_.pid(), SIGSTOP);
    absl::StatusOr<MemoryChanges> changes = last ? tracker_->ListLast() : tracker_->List();
    if (last) ::kill(child_.pid(), SIGCONT);
    EXPECT_TRUE(changes.ok()) << changes.status();
    Seen seen;
    if (!changes.ok()) return seen;
    seen.processes = changes->processes.size();
    for (const ProcessChanges& process : changes->processes) {
      EXPECT_EQ(CountPages(Subtract(process.changed, process.resident)), 0u);
      for (const PageRange& range : process.changed) {
        std::vector<std::byte> bytes(range.pages * kPageSize);
        std::vector<bool> there;
        EXPECT_TRUE(process.memory->Read({&range, 1}, bytes, there).ok());
        tracker_->Sent(process.memory->space(), range.address, bytes);
      }
      if (process.memory->pid() != child_.pid()) continue;
      seen.is_new = process.is_new;
      Mark(process.resident, seen.resident);
      Mark(process.changed, seen.changed);
    }
    return seen;
  }
  void Mark(const std::vector<PageRange>& ranges, std::string& marks) const {
    const auto base = reinterpret_cast<uint64_t>(memory_);
    for (const PageRange& range : ranges) {
      for (uint64_t at = range.address; at < range.end(); at += kPageSize) {
        if (at >= base && at < base + marks.size() * kPageSize) {
          marks[(at - base) / kPageSize] = 'x';
        }
      }
    }
  }

  std::string folder_;
  char* memory_ = nullptr;
  char* elsewhere_ = nullptr;
  ChildProcess child_;
  std::unique_ptr<Tracker> tracker_;
  int freezes_ = 0;
};

TEST_P(TrackerTest, FindsWhatWasWrittenAndNothingElse) {
  Start([this](int step) {
    if (step == 0) {
      for (int page : {0, 1, 2, 3, 8}) Write(page, 'a');
    } else {
      Write(2, static_cast<char>('a' + step));
      Write(12, 'n');
    }
  });
  child_.Step();
  Seen seen = List();
  EXPECT_TRUE(seen.is_new);
  EXPECT_EQ(seen.resident, "xxxx....x.......................");
  EXPECT_EQ(seen.changed, seen.resident);
  seen = List();
  EXPECT_FALSE(seen.is_new);
  EXPECT_EQ(seen.changed, std::string(2 * kPages, '.'));
  child_.Step();
  seen = List();
  EXPECT_EQ(seen.resident, "xxxx....x...x...................");
  EXPECT_EQ(seen.changed, "..x.........x...................");
  child_.Step();
  seen = List(/*last=*/true);
  EXPECT_EQ(seen.resident, "xxxx....x...x...................");
  EXPECT_EQ(seen.changed[2], 'x');
  EXPECT_EQ(seen.changed[0], '.');
  // Nothing is known after the last one.
  seen = List();
  EXPECT_EQ(seen.changed, seen.resident);
}

TEST_P(TrackerTest, WhatIsGivenBackExistsNoMoreAndIsNewWhenItIsWritten) {
  Start([this](int step) {
    if (step == 0) {
      for (int page : {0, 1, 2, 3}) Write(page, 'a');
    } else if (step == 1) {
      ::madvise(memory_ + kPageSize, 2 * kPageSize, MADV_DONTNEED);
    } else {
      Write(1, 'b');
    }
  });
  child_.Step();
  List();
  child_.Step();
  Seen seen = List();
  EXPECT_EQ(seen.resident, "x..x............................");
  EXPECT_EQ(seen.changed, std::string(2 * kPages, '.'));
  child_.Step();
  seen = List();
  EXPECT_EQ(seen.resident, "xx.x............................");
  EXPECT_EQ(seen.changed, ".x..............................");
}

TEST_P(TrackerTest, WhatIsMappedElsewhereOrAnewHasChanged) {
  Start([this](int step) {
    if (step == 0) {
      for (int page : {0, 1, 2, 3}) Write(page, static_cast<char>('a' + page));
    } else if (step == 1) {
      // Moved with its content; page 1 of the old place is empty then.
      ::mremap(memory_ + kPageSize, kPageSize, kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED,
               elsewhere_ + kPageSize);
      // Another mapping in the old one's place.
      ::mmap(memory_ + 2 * kPageSize, kPageSize, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      Write(2, 'n');
    }
  });
  child_.Step();
  List();
  child_.Step();
  Seen seen = List();
  EXPECT_EQ(seen.resident, "x.xx.............x..............");
  EXPECT_EQ(seen.changed[2], 'x');
  EXPECT_EQ(seen.changed[kPages + 1], 'x');
  EXPECT_EQ(seen.changed[0], '.');
  seen = List();
  EXPECT_EQ(seen.changed, std::string(2 * kPages, '.'));
}

TEST_P(TrackerTest, WhatCannotBeReadIsTrackedAllTheSame) {
  Start([this](int step) {
    ::mprotect(memory_, 4 * kPageSize, PROT_READ | PROT_WRITE);
    for (int page : {0, 1, 2, 3}) {
      if (step == 0 || page == 1) Write(page, static_cast<char>('a' + step));
    }
    ::mprotect(memory_, 4 * kPageSize, PROT_NONE);
  });
  child_.Step();
  Seen seen = List();
  EXPECT_EQ(seen.changed, "xxxx............................");
  child_.Step();
  seen = List();
  EXPECT_EQ(seen.changed, ".x..............................");
}

TEST_P(TrackerTest, PagesThatChangeAndChangeBackAreFound) {
  Start([this](int step) { Write(0, step % 2 == 0 ? 'a' : 'b'); });
  child_.Step();
  // Listed with 'a', sent with 'b', and listed with 'a' again.
  auto changes = tracker_->List();
  ASSERT_TRUE(changes.ok()) << changes.status();
  child_.Step();
  for (const ProcessChanges& process : changes->processes) {
    for (const PageRange& range : process.changed) {
      std::vector<std::byte> bytes(range.pages * kPageSize);
      std::vector<bool> there;
      ASSERT_TRUE(process.memory->Read({&range, 1}, bytes, there).ok());
      tracker_->Sent(process.memory->space(), range.address, bytes);
    }
  }
  child_.Step();
  EXPECT_EQ(List().changed[0], 'x');
}

TEST_P(TrackerTest, AForkedChildIsNewAndOneThatEndedIsGone) {
  int report[2];
  ASSERT_EQ(::pipe(report), 0);
  Start([this, &report](int step) {
    if (step == 0) {
      Write(0, 'a');
      Write(1, 'a');
      return;
    }
    const pid_t forked = ::fork();
    if (forked == 0) {
      // Ends with its parent.
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      while (true) ::pause();
    }
    if (::write(report[1], &forked, sizeof(forked)) != sizeof(forked)) ::_exit(1);
  });
  child_.Step();
  List();
  child_.Step();
  // Its number as its parent counts, which is as we do: no namespace lies between.
  pid_t forked = 0;
  ASSERT_EQ(::read(report[0], &forked, sizeof(forked)), static_cast<ssize_t>(sizeof(forked)));
  SetProcesses({child_.pid(), forked});
  auto changes = tracker_->List();
  ASSERT_TRUE(changes.ok()) << changes.status();
  ASSERT_EQ(changes->processes.size(), 2u);
  for (const ProcessChanges& process : changes->processes) {
    const bool child = process.memory->pid() == forked;
    EXPECT_EQ(process.is_new, child);
    if (!child) continue;
    EXPECT_EQ(process.changed, process.resident) << "its parent's pages were not sent as its own";
    std::string resident(2 * kPages, '.');
    Mark(process.resident, resident);
    EXPECT_EQ(resident, "xx..............................");
  }
  ::kill(forked, SIGKILL);
  SetProcesses({child_.pid()});
  EXPECT_EQ(List().processes, 1u);
  ::close(report[0]);
  ::close(report[1]);
}

TEST_P(TrackerTest, WhatAProcessBecomesIsKnownFromItsFirstPageOn) {
  Start([this](int step) {
    if (step == 0) return Write(0, 'a');
    ::execl("/bin/sleep", "sleep", "600", nullptr);
  });
  child_.Step();
  EXPECT_EQ(List().resident[0], 'x');
  child_.StepWithoutAnswer();
  const std::string program = absl::StrCat("/proc/", child_.pid(), "/comm");
  while (ReadFile(program).value_or("") != "sleep\n") ::usleep(1000);
  ::usleep(100000);
  auto changes = tracker_->List();
  ASSERT_TRUE(changes.ok()) << changes.status();
  ASSERT_EQ(changes->processes.size(), 1u);
  EXPECT_EQ(changes->processes[0].changed, changes->processes[0].resident);
  EXPECT_GT(CountPages(changes->processes[0].resident), 0u);
  // And watched again from then on: once it has come to rest, hardly anything is listed.
  const Deadline patience = Deadline::After(std::chrono::seconds(30));
  do {
    ::usleep(10000);
    List();
    changes = tracker_->List();
    ASSERT_TRUE(changes.ok()) << changes.status();
    ASSERT_EQ(changes->processes.size(), 1u);
    EXPECT_TRUE(changes->processes[0].watched);
  } while (CountPages(changes->processes[0].changed) >= 4 && !patience.Passed());
  EXPECT_LT(CountPages(changes->processes[0].changed), 4u);
}

TEST_P(TrackerTest, TellsPagesOfAHugePageApart) {
  constexpr uint64_t kHuge = uint64_t{2} << 20;
  void* const room =
      ::mmap(nullptr, 2 * kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(room, MAP_FAILED);
  auto* const huge =
      reinterpret_cast<char*>((reinterpret_cast<uint64_t>(room) + kHuge - 1) & ~(kHuge - 1));
  ::madvise(huge, kHuge, MADV_HUGEPAGE);
  Start([&](int step) {
    if (step == 0) {
      std::memset(huge, 'a', kHuge);
    } else {
      huge[77 * kPageSize] = 'b';
    }
  });
  child_.Step();
  List();
  child_.Step();
  const auto changes = tracker_->List();
  ASSERT_TRUE(changes.ok()) << changes.status();
  ASSERT_EQ(changes->processes.size(), 1u);
  const PageRange all{reinterpret_cast<uint64_t>(huge), kHuge / kPageSize};
  const PageRange written{all.address + 77 * kPageSize, 1};
  EXPECT_EQ(Intersect(changes->processes[0].changed, {&all, 1}), std::vector<PageRange>{written});
  ::munmap(room, 2 * kHuge);
}

TEST_P(TrackerTest, AProcessWithASystemCallFilterIsListedWhateverTheTracker) {
  Start([this](int step) {
    if (step > 0) return Write(2, 'b');
    Write(0, 'a');
    Write(2, 'a');
    ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
  });
  child_.Step();
  EXPECT_EQ(List().changed, "x.x.............................");
  child_.Step();
  auto changes = tracker_->List();
  ASSERT_TRUE(changes.ok()) << changes.status();
  ASSERT_EQ(changes->processes.size(), 1u);
  std::string changed(2 * kPages, '.');
  Mark(changes->processes[0].changed, changed);
  EXPECT_EQ(changed[2], 'x');
  if (changes->processes[0].watched) {
    EXPECT_EQ(changed[0], '.');
  } else {
    EXPECT_EQ(changes->processes[0].changed, changes->processes[0].resident);
  }
}

INSTANTIATE_TEST_SUITE_P(All, TrackerTest,
                         ::testing::Values(kSoftDirtyKind, kPagemapScanKind, kHashKind), TestName);

}  // namespace
}  // namespace starling::checkpoint
