#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/btree_set.h"
#include "base/clock.h"
#include "checkpoint/lazy_index.h"

namespace starling::checkpoint {

// The slots of an arena whose content comes later, put there by somebody else, and who waits for
// it. Thread-safe.
class MissingSlots {
 public:
  explicit MissingSlots(RunMap<Missing> slots);

  bool none() const { return none_; }
  uint64_t count() const;
  // How often something has arrived.
  uint64_t arrivals() const { return arrivals_; }
  // How many of the slots from `slot` on are there, up to `count`.
  uint64_t Present(uint64_t slot, uint64_t count) const;
  // The first run of `pages` from `page` on and before `end` that is there; `page` is moved to it.
  // Without one, `page` is moved as far as was looked: to `end`, or some way.
  std::optional<RunMap<SlotValue>::Run> FindPresent(const RunMap<SlotValue>& pages, uint64_t* page,
                                                    uint64_t end) const;
  // Somebody waits for the slots from `slot` on, up to `count` of them.
  void Want(uint64_t slot, uint64_t count);

  // All that are missing, ascending. What is waited for is told by TakeWanted() again.
  std::vector<SlotRange> All();
  // Slots that somebody waits for, each told once, since they were touched; waits for one until
  // the deadline. Empty when none was, at once after Clear() or End().
  std::vector<SlotRange> TakeWanted(Deadline deadline);
  // Their content is in the arena.
  void Arrived(std::span<const SlotRange> slots);

  void Clear();  // none is missing any more
  void End();    // nobody is served any more

 private:
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable wanted_changed_;
  RunMap<Missing> slots_;
  absl::btree_set<uint64_t> touched_;  // first slots of what was told, or is to be told
  std::vector<SlotRange> wanted_;      // to be told
  bool ended_ = false;

  std::atomic<bool> none_;
  std::atomic<uint64_t> arrivals_{0};
};

}  // namespace starling::checkpoint
