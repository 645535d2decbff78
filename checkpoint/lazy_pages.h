#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/fd.h"
#include "checkpoint/lazy_index.h"

namespace starling::checkpoint {

// Serves a restored component's memory from the arena: each page when it is touched, the rest in
// the background. CRIU hands over one userfaultfd for each process (`lazy-pages.socket` in its work
// folder: the pid, then the descriptor, then kFinished); what the processes do with their memory
// meanwhile (fork, mremap, munmap, MADV_DONTNEED) comes as events of the userfaultfd.
//
// As long as pages wait, somebody must hold the userfaultfds: with the last holder gone they would
// silently read as zeros. `guard` lets a second process hold them too.
//
// Thread-safe. Two threads of its own: one for faults and events, one that fills.
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

  struct Stats {
    uint64_t pages_left = 0;
    uint64_t pages_on_fault = 0;
    uint64_t pages_in_background = 0;
    uint64_t faults = 0;
  };
  Stats stats() const;
  bool filled() const { return filled_; }

 private:
  struct Space;
  enum class Given { kDone, kLater, kUnknown, kGone, kFailed };

  LazyPages(UniqueFd arena, std::byte* base, uint64_t bytes, LazyIndex index, Guard guard);

  void ServeLoop();
  void FillLoop();
  absl::Status HearCriu();  // one message of CRIU
  absl::Status Adopt(uint64_t pid, UniqueFd uffd, RunMap<SlotValue> pages);
  void ServeSpace(Space& space);
  // False: not yet, an event has to be read first. Under space.mutex.
  bool OnFault(Space& space, uint64_t address);
  // Copies `count` pages and strikes what was placed off the list. Under space.mutex.
  Given Give(Space& space, uint64_t page, uint64_t count, uint64_t slot);
  // Some pages of the space; false: none waits, or (`blocked`) none can be given now.
  bool FillSome(Space& space, bool* blocked);
  void Fail(absl::Status status);
  void Finish();

  const UniqueFd arena_;
  std::byte* const base_;
  const uint64_t bytes_;
  LazyIndex index_;
  const Guard guard_;

  UniqueFd epoll_;
  UniqueFd stop_;      // eventfd
  UniqueFd listener_;  // CRIU's socket
  UniqueFd criu_;      // its connection

  mutable std::mutex mutex_;  // guards what follows; before a space's own mutex, never under it
  std::condition_variable changed_;
  std::list<Space> spaces_;  // one for each address space; never fewer until the end
  bool criu_finished_ = false;
  bool fill_ = false;
  bool stopping_ = false;
  absl::Status failed_;  // of the restore

  std::atomic<bool> filled_{false};
  std::atomic<bool> failing_{false};  // a page could not be given
  std::atomic<bool> forked_{false};   // a slot may be needed by more than one process
  std::atomic<int> adopting_{0};      // forks read and not yet in spaces_
  std::atomic<uint64_t> on_fault_{0}, in_background_{0}, faults_{0};

  std::thread serving_;
  std::thread filling_;
};

}  // namespace starling::checkpoint
