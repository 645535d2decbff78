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

#include <atomic>
#include <cstring>

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

  absl::Status Filled() {
    lazy_->Fill();
    return lazy_->WaitFilled(Deadline::After(std::chrono::seconds(60)));
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

TEST_F(LazyPagesTest, IndexBeyondTheArenaIsRefused) {
  LazyIndex index;
  index.processes[kPid].pages.Assign(1, 10, {kPages - 5});
  EXPECT_EQ(LazyPages::Create(UniqueFd(::dup(arena_.get())), index, {}).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(DecodeLazyIndex("nonsense").status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace starling::checkpoint
