#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/page_stream.h"
#include "checkpoint/run_map.h"

namespace starling::checkpoint {

// Where a page is in an arena: a number of pages from its start, or kZeroSlot for a page that reads
// as zeros and takes no room.
inline constexpr uint64_t kZeroSlot = ~uint64_t{0};

struct SlotValue {
  uint64_t slot = kZeroSlot;
  SlotValue Plus(uint64_t n) const { return {slot == kZeroSlot ? kZeroSlot : slot + n}; }
  friend bool operator==(const SlotValue&, const SlotValue&) = default;
};

// `pages` pages from `address` on are (to be) in the slots from `slot` on.
struct SlotRun {
  uint64_t address = 0;
  uint64_t pages = 0;
  uint64_t slot = 0;
  friend bool operator==(const SlotRun&, const SlotRun&) = default;
};

// The source's side of a target's arena: decides which slot each page has, so that the target can
// be written to without asking. A page keeps its slot for as long as it is not zero. The same calls
// give the same slots. Not thread-safe.
class SlotMap {
 public:
  // Slots that the target has granted so far; grows only.
  void SetCapacity(uint64_t slots) { capacity_ = std::max(capacity_, slots); }
  uint64_t capacity() const { return capacity_; }

  // Slots used so far, the highest plus one.
  uint64_t high_water() const { return top_; }

  // How many new slots Assign() of this run would need beyond the capacity; 0: it fits.
  uint64_t Shortage(const PageRun& run) const;

  // The slots of the run's pages, in order of address; pages without one get one. Adjacent pages
  // get adjacent slots where there is room. Errors: kResourceExhausted naming the shortage; nothing
  // is changed then.
  absl::StatusOr<std::vector<SlotRun>> Assign(const PageRun& run);

  // The run reads as zeros now. Its slots may be given to others after the next Recycle().
  void Zero(const PageRun& run);

  // Forgets a space (its process has ended); its slots may be given to others after Recycle().
  void Drop(const AddressSpace& space);

  // To be called when nothing that was written to a slot is under way any more (after a flush):
  // what was given up so far can be used again.
  void Recycle();

  // The slots that the run's pages have, in order; zero pages and those without one are left out.
  std::vector<SlotRun> Current(const PageRun& run) const;

  // Slot of one page, or nothing.
  std::optional<SlotValue> Find(const AddressSpace& space, uint64_t address) const;

 private:
  struct Free {
    Free Plus(uint64_t) const { return {}; }
    friend bool operator==(const Free&, const Free&) = default;
  };

  uint64_t NewPages(const PageRun& run) const;
  // Takes up to `want` adjacent slots: a gap that is large enough, else new ones, else the first
  // gap.
  RunMap<Free>::Run Take(uint64_t want);

  absl::btree_map<AddressSpace, RunMap<SlotValue>> spaces_;
  RunMap<Free> free_;
  RunMap<Free> given_up_;
  uint64_t top_ = 0;
  uint64_t capacity_ = 0;
};

}  // namespace starling::checkpoint
