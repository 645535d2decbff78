#include "checkpoint/lazy_pages.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/page_stream.h"

namespace starling::checkpoint {
namespace {

constexpr uint64_t kPages = 300;
constexpr uint64_t kPid = 42;

// The test's own process plays the restored one: some of its memory is registered with a
// userfaultfd, which it hands over as CRIU does.
class LazyPagesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/starling-lazy-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    folder_fd_ = OpenFile(folder_, O_RDONLY | O_DIRECTORY).value();
    arena_.Reset(::memfd_create("arena", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(arena_.get(), kPages * kPageSize), 0);
    std::string page(kPageSize, 0);
    for (uint64_t slot = 0; slot < kPages; ++slot) {
      std::memset(page.data(), Content(slot), page.size());
      ASSERT_EQ(
          ::pwrite(arena_.get(), page.data(), page.size(), static_cast<off_t>(slot * kPageSize)),
          static_cast<ssize_t>(kPageSize));
    }
    memory_ = Map();
    uffd_.Reset(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
    ASSERT_TRUE(uffd_) << "userfaultfd: needs root or vm.unprivileged_userfaultfd=1";
    uffdio_api api = {UFFD_API,
                      UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
                          UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMOVE,
                      0};
    ASSERT_EQ(::ioctl(uffd_.get(), UFFDIO_API, &api), 0);
  }
  void TearDown() override {
    lazy_.reset();
    ::munmap(memory_, kPages * kPageSize);
    ASSERT_TRUE(RemoveTree(folder_).ok());
  }

  static char Content(uint64_t slot) { return static_cast<char>(slot % 100 + 1); }
  static std::byte* Map() {
    return static_cast<std::byte*>(::mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  }
  uint64_t FirstPage() const { return reinterpret_cast<uint64_t>(memory_) / kPageSize; }
  char At(uint64_t page) const {
    return static_cast<volatile char*>(static_cast<void*>(memory_))[page * kPageSize + 17];
  }

  void Register(uint64_t first, uint64_t count) {
    uffdio_register range = {
        {reinterpret_cast<uint64_t>(memory_) + first * kPageSize, count * kPageSize},
        UFFDIO_REGISTER_MODE_MISSING,
        0};
    ASSERT_EQ(::ioctl(uffd_.get(), UFFDIO_REGISTER, &range), 0);
  }

  // Page n of the memory waits in slot n.
  LazyIndex Index() const {
    LazyIndex index;
    index.processes[kPid].pages.Assign(FirstPage(), kPages, {0});
    index.processes[kPid].mappings = {FirstPage()};
    return DecodeLazyIndex(EncodeLazyIndex(index)).value();
  }

  absl::Status Start(LazyIndex index) {
    LazyPages::Guard guard;
    guard.hold = [this](int) {
      ++held_;
      return absl::OkStatus();
    };
    guard.release = [this] {
      held_ = 0;
      return absl::OkStatus();
    };
    guard.failed = [this](const absl::Status&) { ++failures_; };
    ASSIGN_OR_RETURN(lazy_, LazyPages::Create(UniqueFd(::dup(arena_.get())), std::move(index),
                                              std::move(guard)));
    RETURN_IF_ERROR(lazy_->Listen(folder_fd_.get()));
    PlayCriu();
    return lazy_->Restored(Deadline::After(std::chrono::seconds(20)));
  }

  void PlayCriu() {
    const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, absl::StrCat(folder_, "/lazy-pages.socket").c_str());
    ASSERT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    for (int i = 0; i < zombies_; ++i) {
      const int32_t zombie = -(40 + i);
      ASSERT_EQ(::send(socket.get(), &zombie, sizeof(zombie), 0),
                static_cast<ssize_t>(sizeof(zombie)));
    }
    const int32_t pid = kPid;
    ASSERT_EQ(::send(socket.get(), &pid, sizeof(pid), 0), static_cast<ssize_t>(sizeof(pid)));
    char dummy = 0;
    iovec piece = {&dummy, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = uffd_.get();
    std::memcpy(CMSG_DATA(header), &fd, sizeof(fd));
    ASSERT_EQ(::sendmsg(socket.get(), &message, 0), 1);
    const int32_t finished = 0x52535446;
    ASSERT_EQ(::send(socket.get(), &finished, sizeof(finished), 0),
              static_cast<ssize_t>(sizeof(finished)));
    uffd_.Reset();  // CRIU keeps none
  }

  static constexpr auto kPause = std::chrono::milliseconds(20);
  static Deadline Soon() { return Deadline::After(std::chrono::seconds(60)); }
  // What a slot held before is never given for what it is to hold.
  void Stale(uint64_t slot, uint64_t count) {
    const std::string bytes(count * kPageSize, 'S');
    ASSERT_EQ(
        ::pwrite(arena_.get(), bytes.data(), bytes.size(), static_cast<off_t>(slot * kPageSize)),
        static_cast<ssize_t>(bytes.size()));
  }
  void Bring(uint64_t slot, uint64_t count) {
    std::string page(kPageSize, 0);
    for (uint64_t at = slot; at < slot + count; ++at) {
      std::memset(page.data(), Content(at), page.size());
      ASSERT_EQ(
          ::pwrite(arena_.get(), page.data(), page.size(), static_cast<off_t>(at * kPageSize)),
          static_cast<ssize_t>(kPageSize));
    }
    const SlotRange slots[] = {{slot, count}};
    lazy_->Arrived(slots);
  }

  absl::Status Filled() {
    lazy_->Fill();
    return lazy_->WaitFilled(Deadline::After(std::chrono::minutes(10)));
  }

  std::string folder_;
  UniqueFd folder_fd_;
  UniqueFd arena_;
  UniqueFd uffd_;
  std::byte* memory_ = nullptr;
  std::unique_ptr<LazyPages> lazy_;
  std::atomic<int> held_{0}, failures_{0};
  int zombies_ = 0;  // that CRIU tells of before the process
};

TEST_F(LazyPagesTest, GivesWhatIsTouchedThenTheRest) {
  Register(0, kPages);
  ASSERT_EQ(Start(Index()), absl::OkStatus());
  EXPECT_EQ(held_, 1);
  EXPECT_EQ(At(200), Content(200));
  EXPECT_EQ(At(201), Content(201));
  const LazyPages::Stats before = lazy_->stats();
  EXPECT_GE(before.faults, 1u);
  EXPECT_EQ(before.pages_in_background, 0u);
  // One of the mapping, and those around the fault.
  EXPECT_EQ(before.pages_left, kPages - 1 - before.pages_on_fault);
  ASSERT_EQ(Filled(), absl::OkStatus());
  EXPECT_EQ(held_, 0);
  for (uint64_t page = 0; page < kPages; ++page) EXPECT_EQ(At(page), Content(page)) << page;
  // The arena is empty.
  struct stat info;
  ASSERT_EQ(::fstat(arena_.get(), &info), 0);
  EXPECT_EQ(info.st_blocks, 0);
  EXPECT_EQ(failures_, 0);
}

// A component whose children had ended and were not waited for could not be moved: CRIU tells each
// of them by its pid negated and sends no userfaultfd, which was waited for until the restore
// failed. They are passed over.
TEST_F(LazyPagesTest, ZombiesHaveNoMemory) {
  Register(0, kPages);
  zombies_ = 2;
  ASSERT_EQ(Start(Index()), absl::OkStatus());
  EXPECT_EQ(held_, 1);
  EXPECT_EQ(At(200), Content(200));
  ASSERT_EQ(Filled(), absl::OkStatus());
  EXPECT_EQ(failures_, 0);
}

TEST_F(LazyPagesTest, WhatIsNotListedReadsAsZeros) {
  Register(0, kPages);
  LazyIndex index = Index();
  index.processes[kPid].pages.Erase(FirstPage() + 100, 50);
  ASSERT_EQ(Start(std::move(index)), absl::OkStatus());
  EXPECT_EQ(At(120), 0);
  EXPECT_EQ(At(99), Content(99));
  ASSERT_EQ(Filled(), absl::OkStatus());
  EXPECT_EQ(At(149), 0);
  EXPECT_EQ(At(150), Content(150));
}

TEST_F(LazyPagesTest, PagesGivenBackAreNotGivenAgain) {
  Register(0, kPages);
  ASSERT_EQ(Start(Index()), absl::OkStatus());
  ASSERT_EQ(::madvise(memory_ + 10 * kPageSize, 20 * kPageSize, MADV_DONTNEED), 0);
  ASSERT_EQ(Filled(), absl::OkStatus());
  for (uint64_t page = 10; page < 30; ++page) EXPECT_EQ(At(page), 0) << page;
  EXPECT_EQ(At(9), Content(9));
  EXPECT_EQ(At(30), Content(30));
}

TEST_F(LazyPagesTest, MovedPagesAreGivenWhereTheyMovedTo) {
  Register(0, kPages);
  ASSERT_EQ(Start(Index()), absl::OkStatus());
  std::byte* const elsewhere = Map();
  ASSERT_EQ(::mremap(memory_ + 100 * kPageSize, 50 * kPageSize, 50 * kPageSize,
                     MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere + 7 * kPageSize),
            elsewhere + 7 * kPageSize);
  ASSERT_EQ(::munmap(memory_ + 200 * kPageSize, 20 * kPageSize), 0);
  ASSERT_EQ(Filled(), absl::OkStatus());
  for (uint64_t page = 0; page < 50; ++page) {
    EXPECT_EQ(static_cast<char>(elsewhere[(7 + page) * kPageSize]), Content(100 + page)) << page;
  }
  EXPECT_EQ(At(99), Content(99));
  EXPECT_EQ(At(150), Content(150));
  EXPECT_EQ(At(220), Content(220));
  EXPECT_EQ(failures_, 0);
  ::munmap(elsewhere, kPages * kPageSize);
}

TEST_F(LazyPagesTest, ChildForkedMeanwhileHasItsParentsPages) {
  Register(0, kPages);
  ASSERT_EQ(Start(Index()), absl::OkStatus());
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // Only memory is touched in the child of a process with threads.
    for (uint64_t page = 0; page < kPages; ++page) {
      if (At(page) != Content(page)) ::_exit(1);
    }
    ::_exit(0);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(held_, 2);
  ASSERT_EQ(Filled(), absl::OkStatus());
  for (uint64_t page = 0; page < kPages; ++page) EXPECT_EQ(At(page), Content(page)) << page;
  EXPECT_EQ(failures_, 0);
}

TEST_F(LazyPagesTest, RunOverTwoMappingsIsGivenInParts) {
  // The kernel copies into one mapping at a time.
  ASSERT_EQ(::mprotect(memory_ + 70 * kPageSize, 30 * kPageSize, PROT_READ), 0);
  Register(0, kPages);
  ASSERT_EQ(Start(Index()), absl::OkStatus());
  EXPECT_EQ(At(65), Content(65));
  EXPECT_EQ(At(71), Content(71));
  ASSERT_EQ(Filled(), absl::OkStatus());
  for (uint64_t page = 0; page < kPages; ++page) EXPECT_EQ(At(page), Content(page)) << page;
}

TEST_F(LazyPagesTest, MappingThatWasNotRegisteredFailsTheRestore) {
  Register(0, 100);
  LazyIndex index = Index();
  index.processes[kPid].mappings = {FirstPage(), FirstPage() + 100};
  const absl::Status status = Start(std::move(index));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
}

TEST_F(LazyPagesTest, ProcessThatWasNotHandedOverFailsTheRestore) {
  Register(0, kPages);
  LazyIndex index = Index();
  const LazyProcess known = index.processes[kPid];
  index.processes[kPid + 1] = known;
  const absl::Status status = Start(std::move(index));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
}

TEST_F(LazyPagesTest, MissingPagesAreGivenOnlyOnceTheyHaveArrived) {
  Register(0, kPages);
  LazyIndex index = Index();
  index.missing.Assign(100, 150, {});
  Stale(100, 150);
  ASSERT_EQ(Start(DecodeLazyIndex(EncodeLazyIndex(index)).value()), absl::OkStatus());
  lazy_->Fill();
  std::atomic<int> seen{0};
  std::thread toucher([&] { seen = At(120); });
  const auto wanted = lazy_->TakeWanted(Soon());
  ASSERT_EQ(wanted.size(), 1u);
  EXPECT_EQ(wanted[0].first, 120u);
  // All that is there comes in the background, none of what is not.
  while (lazy_->stats().pages_left > 150) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(seen, 0);
  EXPECT_FALSE(lazy_->filled());
  EXPECT_EQ(lazy_->stats().pages_missing, 150u);
  Bring(120, 1);
  toucher.join();
  EXPECT_EQ(seen, Content(120));
  // One that takes over learns what is missing still.
  const auto missing = lazy_->Missing();
  ASSERT_EQ(missing.size(), 2u);
  EXPECT_EQ(missing[0], (SlotRange{100, 20}));
  EXPECT_EQ(missing[1], (SlotRange{121, 129}));
  for (const SlotRange& run : missing) Bring(run.first, run.count);
  ASSERT_EQ(Filled(), absl::OkStatus());
  EXPECT_TRUE(lazy_->TakeWanted(Soon()).empty());
  for (uint64_t page = 0; page < kPages; ++page) EXPECT_EQ(At(page), Content(page)) << page;
  EXPECT_EQ(failures_, 0);
}

TEST_F(LazyPagesTest, WhatWasToldAndNotBroughtIsToldAgain) {
  Register(0, kPages);
  LazyIndex index = Index();
  index.missing.Assign(100, 100, {});
  ASSERT_EQ(Start(std::move(index)), absl::OkStatus());
  std::thread toucher([&] { EXPECT_EQ(At(150), Content(150)); });
  ASSERT_EQ(lazy_->TakeWanted(Soon()).size(), 1u);
  EXPECT_TRUE(lazy_->TakeWanted(Deadline::After(std::chrono::milliseconds(50))).empty());
  ASSERT_EQ(lazy_->Missing().size(), 1u);
  const auto again = lazy_->TakeWanted(Soon());
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].first, 150u);
  Bring(100, 100);
  toucher.join();
  ASSERT_EQ(Filled(), absl::OkStatus());
}

TEST_F(LazyPagesTest, MissingPagesMayMoveAndGoMeanwhile) {
  Register(0, kPages);
  LazyIndex index = Index();
  index.missing.Assign(50, 200, {});
  Stale(50, 200);
  ASSERT_EQ(Start(std::move(index)), absl::OkStatus());
  lazy_->Fill();
  std::byte* const elsewhere = Map();
  ASSERT_EQ(::mremap(memory_ + 100 * kPageSize, 50 * kPageSize, 50 * kPageSize,
                     MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere),
            elsewhere);
  ASSERT_EQ(::madvise(memory_ + 60 * kPageSize, 10 * kPageSize, MADV_DONTNEED), 0);
  ASSERT_EQ(::munmap(memory_ + 200 * kPageSize, 20 * kPageSize), 0);
  EXPECT_EQ(At(65), 0);  // given back, so nobody waits for it
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    for (uint64_t page = 0; page < 50; ++page) {
      if (static_cast<volatile char&>(*reinterpret_cast<char*>(elsewhere + page * kPageSize)) !=
          Content(100 + page)) {
        ::_exit(1);
      }
    }
    ::_exit(At(70) == Content(70) ? 0 : 2);
  }
  ASSERT_FALSE(lazy_->TakeWanted(Soon()).empty());  // the child's
  Bring(50, 200);
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  ASSERT_EQ(Filled(), absl::OkStatus());
  for (uint64_t page = 0; page < 50; ++page) {
    EXPECT_EQ(static_cast<char>(elsewhere[page * kPageSize]), Content(100 + page)) << page;
  }
  for (const uint64_t page : {49, 59, 70, 99, 150, 199, 220, 249, 250}) {
    EXPECT_EQ(At(page), Content(page)) << page;
  }
  for (uint64_t page = 60; page < 70; ++page) EXPECT_EQ(At(page), 0) << page;
  EXPECT_EQ(failures_, 0);
  ::munmap(elsewhere, kPages * kPageSize);
}

TEST_F(LazyPagesTest, WhatNeverComesFails) {
  Register(0, kPages);
  LazyIndex index = Index();
  index.missing.Assign(100, 1, {});
  ASSERT_EQ(Start(std::move(index)), absl::OkStatus());
  lazy_->Lose(absl::UnavailableError("the source is gone"));
  EXPECT_EQ(failures_, 1);
  EXPECT_TRUE(lazy_->TakeWanted(Soon()).empty());
  EXPECT_FALSE(Filled().ok());
}

TEST_F(LazyPagesTest, MappingIsProvenByAPageThatIsThere) {
  Register(0, kPages);
  LazyIndex index = Index();
  index.missing.Assign(0, 1, {});
  const absl::Status status = Start(std::move(index));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
}

TEST_F(LazyPagesTest, ManyThreadsAtOnceGetTheirPages) {
  Register(0, kPages);
  LazyIndex index = Index();
  index.missing.Assign(200, 100, {});
  ASSERT_EQ(Start(std::move(index)), absl::OkStatus());
  std::thread bringer([&] {
    for (uint64_t brought = 0; brought < 100;) {
      for (const SlotRange& run : lazy_->TakeWanted(Deadline::After(kPause))) {
        Bring(run.first, run.count);
      }
      brought = 100 - lazy_->stats().pages_missing;
      if (brought > 50) {  // the rest by itself
        Bring(200, 100);
        brought = 100;
      }
    }
  });
  std::vector<std::thread> touchers;
  std::atomic<int> wrong{0};
  for (uint64_t from = 0; from < 8; ++from) {
    touchers.emplace_back([&, from] {
      for (uint64_t i = 0; i < kPages; ++i) {
        const uint64_t page = (from * 37 + i * 7) % kPages;
        wrong += At(page) != Content(page);
      }
    });
  }
  lazy_->Fill();
  for (std::thread& thread : touchers) thread.join();
  bringer.join();
  EXPECT_EQ(wrong, 0);
  ASSERT_EQ(Filled(), absl::OkStatus());
}

// A look from outside at which pages are in place; none is touched.
TEST_F(LazyPagesTest, BackgroundBeginsWithWhatWasWrittenLast) {
  constexpr uint64_t kMany = 16 * 1024;  // more than is given between two looks
  ASSERT_EQ(::ftruncate(arena_.get(), kMany * kPageSize), 0);
  ::munmap(memory_, kPages * kPageSize);
  memory_ = static_cast<std::byte*>(::mmap(nullptr, kMany * kPageSize, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  Register(0, kMany);
  LazyIndex index;
  LazyProcess& process = index.processes[kPid];
  process.pages.Assign(FirstPage(), kMany, {0});
  process.mappings = {FirstPage()};
  process.recent = {{FirstPage() + 15000, 100}, {FirstPage() + 10000, 100}};
  ASSERT_EQ(Start(DecodeLazyIndex(EncodeLazyIndex(index)).value()), absl::OkStatus());
  lazy_->Fill();
  // As soon as any page in the order of addresses is there, those written last are.
  std::vector<unsigned char> there(kMany);
  do {
    ASSERT_EQ(::mincore(memory_, kMany * kPageSize, there.data()), 0);
  } while (there[1] == 0);
  EXPECT_EQ(std::count(&there[15000], &there[15100], 1), 100);
  EXPECT_EQ(std::count(&there[10000], &there[10100], 1), 100);
  ASSERT_EQ(Filled(), absl::OkStatus());
  ::munmap(memory_, kMany * kPageSize);
  memory_ = Map();
}

TEST_F(LazyPagesTest, IndexBeyondTheArenaIsRefused) {
  LazyIndex index;
  index.processes[kPid].pages.Assign(1, 10, {kPages - 5});
  EXPECT_EQ(LazyPages::Create(UniqueFd(::dup(arena_.get())), index, {}).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(DecodeLazyIndex("nonsense").status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace starling::checkpoint
