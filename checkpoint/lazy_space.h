#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <vector>

#include "absl/status/status.h"
#include "base/fd.h"
#include "checkpoint/lazy_index.h"
#include "checkpoint/missing_slots.h"

struct uffd_msg;

namespace starling::checkpoint {

// The memory that pages come from.
struct LazyArena {
  std::byte* base;  // slot s is at s * kPageSize
  MissingSlots missing;
  std::atomic<bool> shared{false};  // a slot may be needed by more than one process
};

// One address space that waits for pages: its userfaultfd, what waits where, and in which order it
// is given. Thread-safe: several threads serve faults and one fills.
class LazySpace {
 public:
  // Whose it is. Both are called with the space's gate held.
  struct Owner {
    // The process forked: the child's userfaultfd, and what waits for it.
    std::function<void(UniqueFd, RunMap<SlotValue>)> forked;
    std::function<void(absl::Status)> failed;  // a page cannot be given
  };
  // `pid`: of the process that CRIU restored; a fork keeps its parent's. `uffd` is non-blocking.
  LazySpace(uint64_t pid, UniqueFd uffd, RunMap<SlotValue> pages, std::vector<LazyMapping> recent,
            LazyArena& arena, Owner owner);

  uint64_t pid() const { return pid_; }
  int uffd() const { return uffd_.get(); }
  void Close() { uffd_.Reset(); }  // when nobody uses it any more

  // Reads events and gives what is touched until there is nothing to do.
  void Serve();
  // Tries the faults that wait. True: some have to be tried again soon.
  bool ServeFaults();
  // Gives this page alone, if it waits. False: it is missing, or its mapping is not registered.
  bool GiveFirst(uint64_t page);

  // What one pass over all pages that wait came to.
  struct Pass {
    bool blocked = false;  // some could not be given, and can be soon
    bool left = false;     // some wait still
  };
  // A step of a pass. True: it is over. By one thread.
  bool FillSome(Pass& pass);

  struct Stats {
    uint64_t pages_left = 0;
    uint64_t pages_on_fault = 0;
    uint64_t pages_in_background = 0;
    uint64_t faults = 0;
  };
  Stats stats() const;

 private:
  enum class Given { kDone, kLater, kUnknown, kGone, kFailed };
  enum class Fault { kDone, kLater, kMissing };
  using Run = RunMap<SlotValue>::Run;

  // Acts on one message, with gate_ held alone.
  void OnMessage(const uffd_msg& message);
  // With gate_ shared, as is Give().
  Fault OnFault(uint64_t address);
  // Copies `count` pages, none of them missing, and strikes what was placed off the list.
  Given Give(uint64_t page, uint64_t count, uint64_t slot);
  std::optional<Run> Find(uint64_t page) const;
  // What the background gives next; empty: nothing, as far as was looked. Under mutex_.
  Run NextToFill();

  const uint64_t pid_;
  UniqueFd uffd_;
  LazyArena& arena_;
  const Owner owner_;

  // Shared by those who give pages; held alone to read an event and act on it, so that no page is
  // given between the two that the event is about.
  std::shared_mutex gate_;
  std::atomic<int> waiting_for_gate_{0};  // to read; the background stands back for them
  mutable std::mutex mutex_;              // guards what follows; taken under the gate
  RunMap<SlotValue> pages_;
  std::vector<uint64_t> faults_;  // addresses that were touched and not given yet
  std::vector<LazyMapping> recent_;
  size_t next_recent_ = 0;
  uint64_t next_ = 0;       // page where the background goes on; 0: a new pass
  uint64_t near_ = 0;       // page behind the last fault
  uint64_t near_left_ = 0;  // pages from there on that come first
  int unknown_tries_ = 0;

  std::atomic<uint64_t> on_fault_{0}, in_background_{0}, faults_seen_{0};
};

}  // namespace starling::checkpoint
