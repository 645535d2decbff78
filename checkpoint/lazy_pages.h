#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/fd.h"
#include "checkpoint/lazy_index.h"
#include "checkpoint/lazy_space.h"

namespace starling::checkpoint {

// Serves a restored component's memory from the arena: each page when it is touched, the rest in
// the background. CRIU hands over one userfaultfd for each process (`lazy-pages.socket` in its work
// folder: the pid, then the descriptor, then kFinished); what the processes do with their memory
// meanwhile (fork, mremap, munmap, MADV_DONTNEED) comes as events of the userfaultfd.
//
// As long as pages wait, somebody must hold the userfaultfds: with the last holder gone they would
// silently read as zeros. `guard` lets a second process hold them too.
//
// Some slots may be missing: their content comes into the arena later, put there by somebody else.
// A page of a missing slot is never given; whoever touches it waits until Arrived().
//
// In the background comes first what lies behind the last fault, then what was written last, then
// the rest in order of address.
//
// Thread-safe. Threads of its own: some for faults and events, one that fills.
class LazyPages {
 public:
  struct Guard {
    std::function<absl::Status(int)> hold;  // a userfaultfd, borrowed; before any page of it counts
    std::function<absl::Status()> release;  // of all: every page is in place
    std::function<void(absl::Status)>
        failed;                         // a page cannot be given: the component must not go on
    std::function<void()> before_fill;  // on the thread that fills; may wait, may be null
  };

  // `arena`: slot s is at offset s * kPageSize. It is emptied as pages leave it.
  static absl::StatusOr<std::unique_ptr<LazyPages>> Create(UniqueFd arena, LazyIndex index,
                                                           Guard guard);

  // Ends both threads and gives up the userfaultfds. Before Finished() only for a component that is
  // dead.
  ~LazyPages();
  LazyPages(const LazyPages&) = delete;
  LazyPages& operator=(const LazyPages&) = delete;

  // Makes CRIU's socket in `images_dir` (a descriptor) and serves from here on.
  absl::Status Listen(int images_dir);

  // After CRIU is done: every process of the index has handed over its memory, and one page of each
  // mapping was placed in it, so that no page can be lost to a mapping that CRIU did not register.
  // kFailedPrecondition if that is not so.
  absl::Status Restored(Deadline deadline);

  // Starts the background fill.
  void Fill();

  // Until no page waits any more (processes that have ended wait for none).
  absl::Status WaitFilled(Deadline deadline);

  // The slots that are missing, ascending. What is touched and waits is told by TakeWanted() again.
  std::vector<SlotRange> Missing() { return arena_.missing.All(); }
  // Slots that somebody waits for, each told once, since they were touched; waits for one until
  // the deadline. Empty when none was, at once when no page waits any more (filled(), or Lose()).
  std::vector<SlotRange> TakeWanted(Deadline deadline) {
    return arena_.missing.TakeWanted(deadline);
  }
  // Their content is in the arena.
  void Arrived(std::span<const SlotRange> slots);
  // What is missing will never come: fails as a page does that cannot be given. Does nothing once
  // no page waits.
  void Lose(absl::Status why);
  int arena() const { return fd_.get(); }

  struct Stats {
    uint64_t pages_left = 0;
    uint64_t pages_missing = 0;
    uint64_t pages_on_fault = 0;
    uint64_t pages_in_background = 0;
    uint64_t faults = 0;
  };
  Stats stats() const;
  bool filled() const { return filled_; }

 private:
  LazyPages(UniqueFd arena, std::byte* base, uint64_t bytes, LazyIndex index, Guard guard);

  void ServeLoop();
  void FillLoop();
  absl::Status HearCriu();  // one message of CRIU
  absl::Status Adopt(uint64_t pid, UniqueFd uffd, RunMap<SlotValue> pages,
                     std::vector<LazyMapping> recent);
  void ServeArrivals();
  void ServeUntilStopped();
  void Fail(absl::Status status);
  void Finish();

  const UniqueFd fd_;  // of the arena
  const uint64_t bytes_;
  LazyIndex index_;
  const Guard guard_;
  LazyArena arena_;

  UniqueFd epoll_;
  UniqueFd stop_;      // eventfd
  UniqueFd arrived_;   // eventfd: some slots are missing no more
  UniqueFd listener_;  // CRIU's socket
  UniqueFd criu_;      // its connection

  mutable std::mutex mutex_;  // guards what follows; before a space's own mutex, never under it
  std::condition_variable changed_;
  std::list<LazySpace> spaces_;  // one for each address space; never fewer until the end
  bool criu_finished_ = false;
  bool fill_ = false;
  bool stopping_ = false;
  absl::Status failed_;  // of the restore

  std::atomic<bool> filled_{false};
  std::atomic<bool> failing_{false};  // a page could not be given
  std::atomic<int> adopting_{0};      // forks read and not yet in spaces_

  std::vector<std::thread> serving_;  // under mutex_
  std::atomic<int> servers_{0};       // of them that have not ended
  std::thread filling_;
};

}  // namespace starling::checkpoint
