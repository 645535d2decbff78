#pragma once

#include <sys/types.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"
#include "checkpoint/page_stream.h"

// The memory of a component's processes, seen from outside: which mappings there are, which of
// their pages exist, and their content. Needs root.

namespace starling::checkpoint {

// `pages` adjacent pages from `address` on.
struct PageRange {
  uint64_t address = 0;
  uint64_t pages = 0;
  uint64_t end() const { return address + pages * kPageSize; }
  friend bool operator==(const PageRange&, const PageRange&) = default;
};

// Adds a range behind the others; one range with the last where they touch.
void Append(std::vector<PageRange>& ranges, const PageRange& range);

uint64_t CountPages(std::span<const PageRange> ranges);

// Both sorted and without overlap, as is the result: what is in `a` and not in `b`.
std::vector<PageRange> Subtract(std::span<const PageRange> a, std::span<const PageRange> b);

// What is in both, and what is in either.
std::vector<PageRange> Intersect(std::span<const PageRange> a, std::span<const PageRange> b);
std::vector<PageRange> Unite(std::span<const PageRange> a, std::span<const PageRange> b);

// Ranges that are taken from the front, so many pages at a time. Not thread-safe.
class RangeQueue {
 public:
  explicit RangeQueue(std::vector<PageRange> ranges) : ranges_(std::move(ranges)) {}

  bool empty() const { return first_ == ranges_.size(); }
  std::span<const PageRange> left() const { return std::span(ranges_).subspan(first_); }

  // Up to `pages` pages.
  std::vector<PageRange> Take(uint64_t pages) {
    std::vector<PageRange> part;
    while (pages > 0 && !empty()) {
      PageRange& front = ranges_[first_];
      const uint64_t now = std::min(pages, front.pages);
      part.push_back({front.address, now});
      front.address += now * kPageSize;
      front.pages -= now;
      pages -= now;
      if (front.pages == 0) ++first_;
    }
    return part;
  }

 private:
  std::vector<PageRange> ranges_;
  size_t first_ = 0;
};

// One line of /proc/PID/maps (Documentation/filesystems/proc.rst).
struct Mapping {
  uint64_t start = 0;
  uint64_t end = 0;
  bool readable = false;
  bool executable = false;
  bool shared = false;
  uint64_t device = 0;  // major << 20 | minor; 0: no file
  std::string name;     // path, "[heap]", ..., or empty
};

// Errors: kDataLoss naming the line that is not understood.
absl::StatusOr<std::vector<Mapping>> ParseMaps(absl::string_view maps);

// Pages that exist (in memory or in swap) in a mapping that trackers own, and are not a file's.
struct ResidentRange {
  PageRange range;
  bool soft_dirty = false;
};

// What trackers own: private anonymous memory (heap and stacks too), copied pages of private file
// mappings and the vdso. Left to CRIU: shared memory of every kind, huge pages of hugetlbfs (the
// kernel does not track writes to them), asynchronous I/O rings, and what the kernel brings by
// itself ([vvar], [vsyscall]).
bool Tracked(const Mapping& mapping, bool hugetlb);

// One process. Refers to the memory that the process had when this was made: an exec ends it.
class ProcessMemory {
 public:
  // Errors: kNotFound for a process that has ended or has no memory any more.
  static absl::StatusOr<std::unique_ptr<ProcessMemory>> Open(pid_t pid);

  pid_t pid() const { return pid_; }                    // as this process counts
  const AddressSpace& space() const { return space_; }  // by the innermost pid
  uint64_t started() const { return started_; }         // clock ticks since boot: tells reused pids
  int pagemap() const { return pagemap_.get(); }

  // Mappings that trackers own, in order of address.
  absl::StatusOr<std::vector<Mapping>> TrackedMappings() const;

  // In order of address; neighbours that are equally dirty are one range. The vdso is always there
  // as a whole, since CRIU always wants it.
  absl::StatusOr<std::vector<ResidentRange>> Resident(std::span<const Mapping> mappings) const;

  // The ranges one after the other into `bytes`, which is as large as they are. False in `there`
  // (one for each page): that page cannot be read, because it is not mapped any more.
  absl::Status Read(std::span<const PageRange> ranges, std::span<std::byte> bytes,
                    std::vector<bool>& there) const;

  // Has the kernel map transparent huge pages that lie in these ranges by single pages from here
  // on, so that writes to them are told apart. What is locked, or shared with another process,
  // stays as it is. kUnimplemented on kernels before 5.10.
  absl::Status SplitHugePages(std::span<const PageRange> ranges) const;

  // Forgets which pages are soft-dirty, of the whole process.
  absl::Status ClearSoftDirty() const;

 private:
  ProcessMemory() = default;
  absl::StatusOr<bool> HugeTlb(const Mapping& mapping) const;
  absl::Status ScanByIoctl(const Mapping& mapping, std::vector<ResidentRange>& out) const;
  absl::Status ScanByEntries(const Mapping& mapping, std::vector<ResidentRange>& out) const;

  pid_t pid_ = 0;
  AddressSpace space_;
  uint64_t started_ = 0;
  UniqueFd memory_;
  UniqueFd pagemap_;
};

// Every process of a cgroup, in order of the pids inside. One that ends meanwhile is left out.
absl::StatusOr<std::vector<std::unique_ptr<ProcessMemory>>> OpenProcesses(
    const std::string& cgroup);

// Pid inside the innermost pid namespace.
absl::StatusOr<uint64_t> InnermostPid(pid_t pid);

// Whether this kernel has PAGEMAP_SCAN, which lists pages much faster than their entries can be
// read; and whether it tracks soft-dirty pages. Tried on the caller's own memory.
bool HasPagemapScan();
bool HasSoftDirty();

}  // namespace starling::checkpoint
