#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "tests/checkpoint/check_pages.h"
#include "tests/checkpoint/check_workload.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

namespace starling::checkpoint {
namespace {

constexpr size_t kMaxRegions = 48;
constexpr size_t kMaxPages = 96;
constexpr size_t kHuge = 2 << 20;
constexpr uint64_t kFile = 1;  // expected: what the file holds there

// Private memory whose every page is known. 0 expected: zeros.
struct Region {
  char* memory = nullptr;
  std::vector<uint64_t> expected;
  bool file = false;
  bool hidden = false;

  uint64_t* Page(size_t i) const { return reinterpret_cast<uint64_t*>(memory + i * kPageSize); }
  size_t bytes() const { return expected.size() * kPageSize; }
};

[[noreturn]] void Fail(const char* what) {
  ::perror(what);
  std::abort();
}

class Mappings {
 public:
  Mappings(uint64_t* counters, size_t number, size_t most_regions)
      : counters_(counters), number_(number), most_regions_(most_regions) {
    file_ = ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (file_ < 0) Fail("open");
    file_pages_.resize(16 * kPageSize);
    if (::pread(file_, file_pages_.data(), file_pages_.size(), 0) !=
        static_cast<ssize_t>(file_pages_.size())) {
      Fail("pread");
    }
    AddHuge();
  }

  // `steps` 0: for ever.
  void Go(uint64_t steps) {
    for (uint64_t step = 1; steps == 0 || step <= steps; ++step) {
      seed_ = Mix(seed_ + step + number_);
      Step();
      while (::waitpid(-1, nullptr, WNOHANG) > 0) {
      }
      __atomic_add_fetch(&counters_[number_], 1, __ATOMIC_RELAXED);
      // Slow enough that rounds and the dump see many pages at rest.
      ::usleep(4000);
    }
  }

 private:
  uint64_t Random(uint64_t below) {
    seed_ = Mix(seed_ + 0x9e3779b97f4a7c15ull);
    return seed_ % below;
  }
  Region& Any() { return regions_[Random(regions_.size())]; }

  void Step() {
    if (regions_.size() < most_regions_ / 2) return Add();
    switch (Random(17)) {
      case 0:
        return regions_.size() < most_regions_ ? Add() : Remove();
      case 1:
        return Remove();
      case 2:
        return GiveBack(Any(), /*then_read=*/false);
      case 3:
        return GiveBack(Any(), /*then_read=*/true);
      case 4:
        return Move(Any());
      case 5:
        return Replace(Any());
      case 6:
        return Hide(Any());
      case 7:
        return PageOut(Any());
      case 8:
        return Lock(Any());
      case 9:
        return Zero(Any());
      case 10:
        return UseStack(Random(40) + 1);
      case 11:
        return GrowHeap();
      case 12:
        return Fork();
      default:
        return Write(Any());
    }
  }

  void Check(const Region& region, size_t i) const {
    if (region.hidden) return;
    if (region.expected[i] != kFile) return CheckPage(region.Page(i), region.expected[i]);
    if (std::memcmp(region.Page(i), file_pages_.data() + i * kPageSize, kPageSize) != 0) {
      std::abort();
    }
  }
  void CheckAll(const Region& region) const {
    for (size_t i = 0; i < region.expected.size(); ++i) Check(region, i);
  }

  void Fill(Region& region, size_t i) {
    const uint64_t seed = Mix(seed_ + i) | 2;
    WritePage(region.Page(i), seed);
    region.expected[i] = seed;
  }

  void Add() {
    Region region;
    region.file = Random(4) == 0;
    region.expected.resize(region.file ? 16 : 1 + Random(kMaxPages), region.file ? kFile : 0);
    Map(region, nullptr);
    for (size_t i = 0; i < region.expected.size(); i += 1 + Random(3)) Fill(region, i);
    regions_.push_back(std::move(region));
  }
  void AddHuge() {
    auto* memory = static_cast<char*>(
        ::mmap(nullptr, 4 * kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory == MAP_FAILED) Fail("mmap");
    const size_t cut = (kHuge - reinterpret_cast<uintptr_t>(memory) % kHuge) % kHuge;
    Region region;
    region.memory = memory + cut;
    region.expected.resize(2 * kHuge / kPageSize);
    ::madvise(region.memory, region.bytes(), MADV_HUGEPAGE);
    Fill(region, 3);
    regions_.push_back(std::move(region));
  }
  void Map(Region& region, void* at) {
    void* memory =
        ::mmap(at, region.bytes(), PROT_READ | PROT_WRITE,
               MAP_PRIVATE | (at != nullptr ? MAP_FIXED : 0) | (region.file ? 0 : MAP_ANONYMOUS),
               region.file ? file_ : -1, 0);
    if (memory == MAP_FAILED) Fail("mmap");
    region.memory = static_cast<char*>(memory);
  }
  void Remove() {
    const size_t at = Random(regions_.size());
    if (IsHuge(regions_[at])) return;
    CheckAll(regions_[at]);
    ::munmap(regions_[at].memory, regions_[at].bytes());
    regions_.erase(regions_.begin() + static_cast<ptrdiff_t>(at));
  }
  static bool IsHuge(const Region& region) { return region.expected.size() > kMaxPages; }

  void GiveBack(Region& region, bool then_read) {
    const size_t first = IsHuge(region) ? 0 : Random(region.expected.size());
    const size_t count =
        IsHuge(region) ? region.expected.size() : 1 + Random(region.expected.size() - first);
    if (::madvise(region.Page(first), count * kPageSize, MADV_DONTNEED) != 0) {
      // Locked pages are not given back.
      if (errno == EINVAL) return;
      Fail("madvise");
    }
    for (size_t i = first; i < first + count; ++i) region.expected[i] = region.file ? kFile : 0;
    if (!then_read || region.hidden) return;
    for (size_t i = first; i < first + count; ++i) Check(region, i);
  }
  void Move(Region& region) {
    if (IsHuge(region)) return;
    // Another address for sure: where this one, mapped for the purpose, has been.
    void* to = ::mmap(nullptr, region.bytes(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (to == MAP_FAILED) Fail("mmap");
    void* now =
        ::mremap(region.memory, region.bytes(), region.bytes(), MREMAP_MAYMOVE | MREMAP_FIXED, to);
    if (now == MAP_FAILED) Fail("mremap");
    region.memory = static_cast<char*>(now);
  }
  void Replace(Region& region) {
    if (IsHuge(region)) return;
    CheckAll(region);
    region.hidden = false;
    std::fill(region.expected.begin(), region.expected.end(), region.file ? kFile : 0);
    Map(region, region.memory);
    for (size_t i = 0; i < region.expected.size(); i += 1 + Random(5)) Fill(region, i);
  }
  void Hide(Region& region) {
    if (IsHuge(region)) return;
    region.hidden = !region.hidden;
    if (::mprotect(region.memory, region.bytes(),
                   region.hidden ? PROT_NONE : PROT_READ | PROT_WRITE) != 0) {
      Fail("mprotect");
    }
    if (!region.hidden) CheckAll(region);
  }
  static void PageOut(Region& region) {
    // Without swap it does nothing.
    (void)::madvise(region.memory, region.bytes(), MADV_PAGEOUT);
  }
  static void Lock(Region& region) {
    if (region.hidden || IsHuge(region)) return;
    // As far as the limit goes.
    (void)::mlock(region.memory, region.bytes());
  }
  void Zero(Region& region) {
    if (region.hidden) return;
    const size_t i = Random(region.expected.size());
    std::memset(region.Page(i), 0, kPageSize);
    region.expected[i] = 0;
  }
  void Write(Region& region) {
    if (region.hidden) return;
    for (int n = 0; n < 4; ++n) {
      const size_t i = Random(region.expected.size());
      Check(region, i);
      Fill(region, i);
    }
  }
  void UseStack(uint64_t depth) {
    uint64_t page[kWordsAPage];
    const uint64_t seed = Mix(depth + seed_) | 2;
    WritePage(page, seed);
    if (depth > 0) UseStack(depth - 1);
    CheckPage(page, seed);
  }
  void GrowHeap() {
    // Many steps' worth stays; a page of it is looked at again.
    heap_.emplace_back(kWordsAPage * 3);
    WritePage(heap_.back().data(), heap_.size() | 2);
    const size_t at = Random(heap_.size());
    CheckPage(heap_[at].data(), (at + 1) | 2);
    if (heap_.size() > 200) heap_.clear();
  }
  // A child has everything of its parent's; it writes to its own copy for a while and ends. Some
  // become other programs first.
  void Fork() {
    if (number_ != 0 || Random(4) != 0) return;
    const pid_t child = ::fork();
    if (child < 0) Fail("fork");
    if (child > 0) return;
    number_ = 1;
    for (const Region& region : regions_) CheckAll(region);
    if (Random(3) == 0) {
      ::execl("/bin/sleep", "sleep", "0.4", nullptr);
      Fail("exec");
    }
    Go(150);
    for (const Region& region : regions_) CheckAll(region);
    ::_exit(0);
  }

  uint64_t* const counters_;
  size_t number_;
  const size_t most_regions_;
  int file_ = -1;
  uint64_t seed_ = 1;
  std::vector<char> file_pages_;
  std::vector<Region> regions_;
  std::vector<std::vector<uint64_t>> heap_;
};

}  // namespace

int RunMappingsWorkload(int megabytes) {
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  auto* counters = static_cast<uint64_t*>(
      ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  if (counters == MAP_FAILED) return 1;
  // What is written once and never again, and what is only read.
  const size_t still = static_cast<size_t>(megabytes) << 20;
  auto* at_rest = static_cast<char*>(
      ::mmap(nullptr, still, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (at_rest == MAP_FAILED) return 1;
  volatile char sum = 0;
  for (size_t i = 0; i < still; i += kPageSize) {
    if (i / kPageSize % 8 == 7) {
      sum = sum + at_rest[i];
    } else {
      WritePage(reinterpret_cast<uint64_t*>(at_rest + i), i | 2);
    }
  }
  const pid_t other = ::fork();
  if (other < 0) return 1;
  Mappings(counters, other == 0 ? 2 : 0, kMaxRegions).Go(0);
  return 1;
}

}  // namespace starling::checkpoint
