#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/fd.h"
#include "checkpoint/component_memory.h"
#include "checkpoint/page_stream.h"

namespace starling::checkpoint {

// What one process's tracked memory (see Tracked()) is like now.
struct ProcessChanges {
  std::unique_ptr<ProcessMemory> memory;
  // Not the process, or not the memory, that the list before knew by this space: nothing that was
  // sent of the space counts any more.
  bool is_new = false;
  bool watched = true;              // false: all of it counts as written, because nobody knows
  std::vector<PageRange> resident;  // every page that exists, in order
  // What may differ since the list before, in order; possibly with pages that have gone meanwhile.
  std::vector<PageRange> changed;
};

struct MemoryChanges {
  std::vector<ProcessChanges> processes;  // a process that is missing here has ended
  Duration paused{};                      // the component could not run
};

// Freezes the component, or lets it run again; returns when it has come to rest.
using Freezer = std::function<absl::Status(bool frozen)>;

// Knows which pages of a component were written. A page is in `changed` of the next list, at the
// latest, when it was written after a list began; it may be there without having been written.
// After an error nothing is known: Forget(), and the next list has everything. Used by one thread
// at a time.
class Tracker {
 public:
  virtual ~Tracker() = default;
  virtual const char* name() const = 0;  // for reports
  // Whether `changed` tells writes since the list before. If not, it tells what differs from what
  // was sent, however long ago.
  virtual bool knows_writes() const { return true; }
  // Whether a page in `changed` was written itself, and not only one beside it.
  virtual bool exact() const { return true; }

  // The component runs.
  virtual absl::StatusOr<MemoryChanges> List() = 0;

  // The component is frozen, and stays so. Afterwards nothing of the tracker is left in it, its
  // soft-dirty bits are cleared (so that CRIU takes for unchanged what is not written from here
  // on), and nothing is tracked any more.
  virtual absl::StatusOr<MemoryChanges> ListLast() = 0;

  // As ListLast(), but a tracker that goes_on() tracks on from here: the next list has what is
  // written once the component runs again.
  virtual absl::StatusOr<MemoryChanges> ListFrozen() { return ListLast(); }
  virtual bool goes_on() const { return false; }

  virtual void Forget() = 0;

  // What was read of a listed range and sent: `bytes` from `address` on.
  virtual void Sent(const AddressSpace& space, uint64_t address,
                    std::span<const std::byte> bytes) = 0;
};

// Soft-dirty bits (CONFIG_MEM_SOFT_DIRTY). Since reading and clearing them are two steps, the
// component is frozen around both; the first list needs no freeze.
std::unique_ptr<Tracker> MakeSoftDirtyTracker(std::string cgroup, Freezer freezer);

// Asynchronous write protection (userfaultfd) listed by PAGEMAP_SCAN, Linux 6.7 and later: lists
// and protects in one step, so that the component is never frozen for it, and knows single pages of
// transparent huge pages, which it splits. Each process is stopped once for the moment that it
// takes to make a userfaultfd (see InjectedCalls); one with a seccomp filter, or that cannot be
// stopped, is not watched: all of it counts as written in every list.
std::unique_ptr<Tracker> MakePagemapScanTracker(std::string cgroup);
bool HasAsyncProtection();
// A userfaultfd of this process's memory for such write protection. Errors: this kernel has none.
absl::StatusOr<UniqueFd> OpenAsyncUserfault();

// Hashes (XXH3) of what was sent, compared with what is there: reads all memory for every list and
// needs nothing of the kernel. Costs 8 bytes for each page.
std::unique_ptr<Tracker> MakeHashTracker(std::string cgroup);

// Which processes are known from the list before. Common to the trackers.
class KnownProcesses {
 public:
  // True if it was not known; it is from now on.
  bool Learn(const ProcessMemory& process);
  // Forgets all that are not among these.
  void Keep(std::span<const ProcessChanges> processes);
  void Clear() { started_.clear(); }

 private:
  absl::btree_map<AddressSpace, std::pair<pid_t, uint64_t>> started_;
};

// The parts of a list that every tracker makes alike: what exists of the process. The soft-dirty
// bits are left to the caller in `scanned`. kNotFound: the process has ended.
absl::Status ListResident(ProcessChanges& process, std::vector<ResidentRange>& scanned);

}  // namespace starling::checkpoint
