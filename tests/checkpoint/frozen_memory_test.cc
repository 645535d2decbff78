#include "checkpoint/frozen_memory.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "checkpoint/component_memory.h"

namespace starling::checkpoint {
namespace {

constexpr size_t kHuge = 2 << 20;

// A process whose memory is known, in what looks like a cgroup.
class FrozenMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "page flags are for root alone";
    if (!std::filesystem::exists("/proc/kpageflags")) GTEST_SKIP() << "no /proc/kpageflags here";
    memory_ = static_cast<char*>(
        ::mmap(nullptr, 4 * kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(memory_, MAP_FAILED);
    aligned_ = memory_ + (kHuge - reinterpret_cast<uintptr_t>(memory_) % kHuge) % kHuge;
    ::madvise(aligned_, 3 * kHuge, MADV_HUGEPAGE);
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    child_ = ::fork();
    if (child_ == 0) {
      // Written, then two that are only read.
      std::memset(aligned_, 'w', kHuge);
      volatile char sum = 0;
      for (size_t i = kHuge; i < 3 * kHuge; i += kPageSize) sum = sum + aligned_[i];
      if (::write(ready[1], "x", 1) != 1) ::_exit(1);
      while (true) ::pause();
    }
    ::close(ready[1]);
    char byte;
    ASSERT_EQ(::read(ready[0], &byte, 1), 1);
    ::close(ready[0]);
    char name[] = "/tmp/starling-frozen-memory-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    std::ofstream(absl::StrCat(folder_, "/cgroup.procs")) << child_ << "\n";
    // The innermost pid: this process may itself be inside a pid namespace.
    const std::string status = ReadFile(absl::StrCat("/proc/", child_, "/status")).value();
    const size_t at = status.find("NSpid:");
    const std::string line = status.substr(at, status.find('\n', at) - at);
    space_.id = std::stoull(line.substr(line.find_last_of("\t ") + 1));
  }
  void TearDown() override {
    if (child_ > 0) {
      ::kill(child_, SIGKILL);
      ::waitpid(child_, nullptr, 0);
      ASSERT_TRUE(RemoveTree(folder_).ok());
    }
    if (memory_ != nullptr) ::munmap(memory_, 4 * kHuge);
  }

  uint64_t Address(size_t offset) const { return reinterpret_cast<uint64_t>(aligned_) + offset; }

  char* memory_ = nullptr;
  char* aligned_ = nullptr;
  pid_t child_ = 0;
  std::string folder_;
  AddressSpace space_{AddressSpace::Kind::kProcess, 0};
};

TEST_F(FrozenMemoryTest, ReadsWhatTheProcessHolds) {
  const auto memory = OpenCgroupMemory(folder_).value();
  std::vector<std::byte> bytes(2 * kPageSize);
  ASSERT_TRUE(memory->Read(space_, Address(kHuge - kPageSize), bytes).ok());
  EXPECT_EQ(static_cast<char>(bytes[0]), 'w');
  EXPECT_EQ(static_cast<char>(bytes[kPageSize]), 0);
  EXPECT_EQ(memory->Read(space_, 0, bytes).code(), absl::StatusCode::kDataLoss);
  const AddressSpace shared{AddressSpace::Kind::kSharedMemory, space_.id};
  EXPECT_EQ(memory->Read(shared, 0, bytes).code(), absl::StatusCode::kNotFound);
  const AddressSpace nobody{AddressSpace::Kind::kProcess, 99999999};
  EXPECT_EQ(memory->Read(nobody, 0, bytes).code(), absl::StatusCode::kNotFound);
}

TEST_F(FrozenMemoryTest, CallPagesBeginExecutableMappings) {
  const auto memory = OpenCgroupMemory(folder_).value();
  const std::vector<PageRun> pages = memory->CallPages(space_).value();
  ASSERT_FALSE(pages.empty());
  for (const PageRun& page : pages) EXPECT_EQ(page.pages, 1u);
  // The first one of this program, which the child has mapped where we have it.
  const std::vector<Mapping> ours = ParseMaps(ReadFile("/proc/self/maps").value()).value();
  const auto first =
      std::find_if(ours.begin(), ours.end(), [](const Mapping& m) { return m.executable; });
  EXPECT_EQ(pages[0].address, first->start);
  EXPECT_EQ(pages[0].space, space_);
  const AddressSpace shared{AddressSpace::Kind::kSharedMemory, space_.id};
  EXPECT_TRUE(memory->CallPages(shared)->empty());
}

TEST_F(FrozenMemoryTest, FindsTheHugeZeroPageAndNothingElse) {
  const auto memory = OpenCgroupMemory(folder_).value();
  const PageRun written{space_, Address(0), kHuge / kPageSize};
  EXPECT_TRUE(memory->HugeZeroPages(written)->empty());
  // Off by a page at both ends: only whole huge pages can be.
  const PageRun all{space_, Address(kPageSize), 3 * kHuge / kPageSize - 2};
  const auto zero = memory->HugeZeroPages(all).value();
  // Not by its settings: some allow it, and give a page of memory all the same.
  const auto counts = ReadFile("/proc/vmstat");
  if (!counts.ok() || counts->find("thp_zero_page_alloc ") == std::string::npos ||
      counts->find("thp_zero_page_alloc 0\n") != std::string::npos) {
    EXPECT_TRUE(zero.empty());
    GTEST_SKIP() << "this kernel has never mapped the huge zero page";
  }
  ASSERT_EQ(zero.size(), 1u);
  EXPECT_EQ(zero[0], (PageRun{space_, Address(kHuge), kHuge / kPageSize}));
}

}  // namespace
}  // namespace starling::checkpoint
