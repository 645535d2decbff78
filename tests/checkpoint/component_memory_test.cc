#include "checkpoint/component_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "tests/checkpoint/child_process.h"

namespace starling::checkpoint {
namespace {

constexpr uint64_t kPage = kPageSize;

TEST(RangesTest, SubtractLeavesWhatIsNotInTheOther) {
  const std::vector<PageRange> a = {{0, 10}, {20 * kPage, 5}, {40 * kPage, 1}};
  EXPECT_EQ(Subtract(a, {}), a);
  EXPECT_TRUE(Subtract({}, a).empty());
  EXPECT_TRUE(Subtract(a, a).empty());
  const std::vector<PageRange> b = {
      {2 * kPage, 3}, {7 * kPage, 1}, {9 * kPage, 12}, {24 * kPage, 9}};
  EXPECT_EQ(Subtract(a, b),
            (std::vector<PageRange>{
                {0, 2}, {5 * kPage, 2}, {8 * kPage, 1}, {21 * kPage, 3}, {40 * kPage, 1}}));
}

TEST(RangesTest, AppendJoinsNeighbours) {
  std::vector<PageRange> ranges;
  Append(ranges, {0, 2});
  Append(ranges, {2 * kPage, 1});
  Append(ranges, {4 * kPage, 1});
  EXPECT_EQ(ranges, (std::vector<PageRange>{{0, 3}, {4 * kPage, 1}}));
  EXPECT_EQ(CountPages(ranges), 4u);
}

TEST(ParseMapsTest, ReadsWhatTheKernelWrites) {
  const auto maps = ParseMaps(
      "55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0                          [heap]\n"
      "7f0000000000-7f0000001000 ---p 00000000 00:00 0 \n"
      "7f0000200000-7f0000400000 rw-p 00000000 00:10 31337                      /anon_hugepage "
      "(deleted)\n"
      "7f0000400000-7f0000401000 rw-s 00000000 00:01 9                          /dev/zero "
      "(deleted)\n"
      "7ffd00000000-7ffd00004000 r--p 00000000 00:00 0                          [vvar]\n"
      "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n");
  ASSERT_TRUE(maps.ok()) << maps.status();
  ASSERT_EQ(maps->size(), 6u);
  EXPECT_EQ((*maps)[0].start, 0x55d0c0a00000u);
  EXPECT_EQ((*maps)[0].end, 0x55d0c0a21000u);
  EXPECT_EQ((*maps)[0].name, "[heap]");
  EXPECT_TRUE((*maps)[0].readable);
  EXPECT_FALSE((*maps)[1].readable);
  EXPECT_EQ((*maps)[1].name, "");
  EXPECT_EQ((*maps)[2].name, "/anon_hugepage (deleted)");
  EXPECT_NE((*maps)[2].device, 0u);
  EXPECT_TRUE((*maps)[3].shared);

  EXPECT_TRUE(Tracked((*maps)[0], false));
  EXPECT_TRUE(Tracked((*maps)[1], false)) << "what cannot be read has content all the same";
  EXPECT_FALSE(Tracked((*maps)[2], true));
  EXPECT_FALSE(Tracked((*maps)[3], false));
  EXPECT_FALSE(Tracked((*maps)[4], false));
  EXPECT_FALSE(Tracked((*maps)[5], false));
}

TEST(ParseMapsTest, RefusesWhatItDoesNotUnderstand) {
  for (const char* line : {"7f00-8000 rw-p 0 00:00 0", "x", "8000-7000 rw-p 0 00:00 0 ",
                           "7000-8000 rw 0 00:00 0 ", "7000-8000 rw-p 0 0000 0 "}) {
    EXPECT_EQ(ParseMaps(line).status().code(), absl::StatusCode::kDataLoss) << line;
  }
}

class ProcessMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "other processes' memory is for root alone";
    memory_ = static_cast<char*>(::mmap(nullptr, 16 * kPageSize, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(memory_, MAP_FAILED);
    ::madvise(memory_, 16 * kPageSize, MADV_NOHUGEPAGE);
    child_.Start([this](int step) {
      if (step == 0) {
        for (int i : {0, 1, 2, 5, 6}) std::memset(memory_ + i * kPageSize, 'a' + i, kPageSize);
        ::mprotect(memory_ + 5 * kPageSize, 2 * kPageSize, PROT_NONE);
      } else {
        ::munmap(memory_ + kPageSize, kPageSize);
        ::madvise(memory_ + 2 * kPageSize, kPageSize, MADV_DONTNEED);
      }
    });
  }
  void TearDown() override {
    child_.End();
    if (memory_ != nullptr) ::munmap(memory_, 16 * kPageSize);
  }
  uint64_t Address(int page) const {
    return reinterpret_cast<uint64_t>(memory_) + static_cast<uint64_t>(page) * kPageSize;
  }
  // What exists within memory_.
  std::vector<PageRange> Existing(const ProcessMemory& process) {
    const auto mappings = process.TrackedMappings().value();
    std::vector<PageRange> all;
    const auto resident = process.Resident(mappings).value();
    for (const ResidentRange& range : resident) Append(all, range.range);
    const std::vector<PageRange> mine = {{Address(0), 16}};
    return Subtract(mine, Subtract(mine, all));
  }

  char* memory_ = nullptr;
  ChildProcess child_;
};

TEST_F(ProcessMemoryTest, ListsWhatExistsAndReadsIt) {
  child_.Step();
  const auto process = ProcessMemory::Open(child_.pid()).value();
  const std::vector<PageRange> existing = Existing(*process);
  EXPECT_EQ(existing, (std::vector<PageRange>{{Address(0), 3}, {Address(5), 2}}));
  std::vector<std::byte> bytes(5 * kPageSize);
  std::vector<bool> there;
  ASSERT_TRUE(process->Read(existing, bytes, there).ok());
  EXPECT_EQ(there, std::vector<bool>(5, true));
  EXPECT_EQ(static_cast<char>(bytes[2 * kPageSize]), 'c');
  EXPECT_EQ(static_cast<char>(bytes[3 * kPageSize]), 'f') << "not readable to the process itself";
  EXPECT_EQ(static_cast<char>(bytes[5 * kPageSize - 1]), 'g');
}

// The bytes of anonymous huge pages in the mapping at `address` of this process.
uint64_t HugeBytes(const void* address) {
  std::ifstream smaps("/proc/self/smaps");
  const std::string start = absl::StrFormat("%x-", reinterpret_cast<uint64_t>(address));
  std::string line;
  bool here = false;
  while (std::getline(smaps, line)) {
    if (absl::StrContains(line.substr(0, line.find(' ')), '-'))
      here = absl::StartsWith(line, start);
    uint64_t kib = 0;
    if (here && std::sscanf(line.c_str(), "AnonHugePages: %lu kB", &kib) == 1) return kib << 10;
  }
  return 0;
}

TEST(SplitHugePagesTest, LeavesNoneInTheRangesAndAllTheirContent) {
  if (::geteuid() != 0) GTEST_SKIP() << "other processes' memory is for root alone";
  constexpr uint64_t kHuge = uint64_t{2} << 20;
  void* const room =
      ::mmap(nullptr, 4 * kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(room, MAP_FAILED);
  const uint64_t first = (reinterpret_cast<uint64_t>(room) + kHuge - 1) & ~(kHuge - 1);
  auto* const memory = reinterpret_cast<char*>(first);
  ASSERT_EQ(::madvise(memory, 2 * kHuge, MADV_HUGEPAGE), 0);
  for (uint64_t at = 0; at < 2 * kHuge; at += kPage) memory[at] = static_cast<char>(at / kPage);
  if (HugeBytes(memory) != 2 * kHuge) GTEST_SKIP() << "no transparent huge pages here";
  const auto process = ProcessMemory::Open(::getpid()).value();
  // The second one does not lie in the range as a whole.
  const std::vector<PageRange> range = {{first, kHuge / kPage + 511}};
  ASSERT_TRUE(process->SplitHugePages(range).ok());
  EXPECT_EQ(HugeBytes(memory), kHuge);
  for (uint64_t at = 0; at < 2 * kHuge; at += kPage)
    ASSERT_EQ(memory[at], static_cast<char>(at / kPage));
  // What is not mapped is passed over.
  ASSERT_EQ(::munmap(memory, kHuge / 2), 0);
  const std::vector<PageRange> both = {{first, 2 * kHuge / kPage}};
  ASSERT_TRUE(process->SplitHugePages(both).ok());
  EXPECT_EQ(HugeBytes(memory + kHuge / 2), 0);
  ::munmap(room, 4 * kHuge);
}

TEST_F(ProcessMemoryTest, SaysWhatIsGone) {
  child_.Step();
  const auto process = ProcessMemory::Open(child_.pid()).value();
  const std::vector<PageRange> before = Existing(*process);
  child_.Step();
  EXPECT_EQ(Existing(*process), (std::vector<PageRange>{{Address(0), 1}, {Address(5), 2}}));
  std::vector<std::byte> bytes(5 * kPageSize);
  std::vector<bool> there;
  ASSERT_TRUE(process->Read(before, bytes, there).ok());
  EXPECT_EQ(there, (std::vector<bool>{true, false, true, true, true}));
  EXPECT_EQ(static_cast<char>(bytes[0]), 'a');
  EXPECT_EQ(static_cast<char>(bytes[2 * kPageSize]), 0);
  EXPECT_EQ(static_cast<char>(bytes[3 * kPageSize]), 'f');
}

TEST_F(ProcessMemoryTest, AProcessThatHasEndedIsNotFound) {
  const pid_t pid = child_.pid();
  child_.End();
  EXPECT_EQ(ProcessMemory::Open(pid).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ProcessMemoryTest, TheVdsoIsThereAsAWhole) {
  child_.Step();
  const auto process = ProcessMemory::Open(child_.pid()).value();
  const auto mappings = process->TrackedMappings().value();
  for (const Mapping& mapping : mappings) {
    if (mapping.name != "[vdso]") continue;
    const auto ranges = process->Resident({&mapping, 1}).value();
    ASSERT_EQ(ranges.size(), 1u);
    EXPECT_EQ(ranges[0].range, (PageRange{mapping.start, (mapping.end - mapping.start) / kPage}));
    std::vector<std::byte> bytes(mapping.end - mapping.start);
    std::vector<bool> there;
    ASSERT_TRUE(process->Read({&ranges[0].range, 1}, bytes, there).ok());
    EXPECT_EQ(std::memcmp(bytes.data(), "\177ELF", 4), 0);
    return;
  }
  FAIL() << "no vdso";
}

}  // namespace
}  // namespace starling::checkpoint
