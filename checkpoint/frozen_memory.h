#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/status.h"
#include "checkpoint/page_stream.h"

namespace starling::checkpoint {

// A look at a component's memory while it is frozen, for what CRIU's page stream leaves open. CRIU
// tells of a page that is mapped and not soft-dirty as unchanged; but a page that was only read
// since (and so is mapped to the kernel's zero page) was never sent, or was given back and is no
// longer what was sent. Of the zero pages CRIU knows only the small one, not the huge one.
class FrozenMemory {
 public:
  virtual ~FrozenMemory() = default;

  // `bytes` (whole pages) of the space from `address` on. Errors: kNotFound for a space that is not
  // there or cannot be read this way (shared memory), kDataLoss for a page that is not.
  virtual absl::Status Read(const AddressSpace& space, uint64_t address,
                            std::span<std::byte> bytes) const = 0;

  // The parts of the run that are mapped to the huge zero page, in order. Empty for shared memory,
  // which never is.
  virtual absl::StatusOr<std::vector<PageRun>> HugeZeroPages(const PageRun& run) const = 0;

  // The first page of every executable mapping, in order; none of shared memory. CRIU has a process
  // make system calls by putting them there for a moment, before and after it dumps its memory, and
  // what it sends refers to the page and is no copy of it: received in such a moment, it is not
  // what the process has (compel's syscall_ip is the start of the first executable mapping).
  virtual absl::StatusOr<std::vector<PageRun>> CallPages(const AddressSpace& space) const = 0;
};

using FrozenMemoryOpener = std::function<absl::StatusOr<std::unique_ptr<FrozenMemory>>()>;

// Opened when it is first asked for, since it may not be frozen before.
class LateFrozenMemory {
 public:
  explicit LateFrozenMemory(const FrozenMemoryOpener& open) : open_(open) {}

  // Null without an opener.
  absl::StatusOr<const FrozenMemory*> Get() {
    if (!memory_ && open_) {
      ASSIGN_OR_RETURN(memory_, open_());
    }
    return memory_.get();
  }

 private:
  const FrozenMemoryOpener& open_;
  std::unique_ptr<FrozenMemory> memory_;
};

// Of the processes in a cgroup, known by their pids inside their own pid namespace. Needs root.
absl::StatusOr<std::unique_ptr<FrozenMemory>> OpenCgroupMemory(const std::string& cgroup);

}  // namespace starling::checkpoint
