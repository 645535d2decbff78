#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/run_map.h"
#include "checkpoint/slot_map.h"

// Which pages of a component wait in the arena until it touches them, instead of being restored by
// CRIU.

namespace starling::checkpoint {

// A mapping, or a part of one, in page numbers.
struct LazyMapping {
  uint64_t first = 0;
  uint64_t count = 0;
  friend bool operator==(const LazyMapping&, const LazyMapping&) = default;
};

// Of one process.
struct LazyProcess {
  RunMap<SlotValue> pages;  // page number to slot; pages that read as zeros are not listed
  // Of each mapping that has a listed page: the first that is not missing.
  std::vector<uint64_t> mappings;
  // What was written last, the most recently written first: a hint for the order of things.
  std::vector<LazyMapping> recent;
};

// Adjacent slots of an arena.
struct SlotRange {
  uint64_t first = 0;
  uint64_t count = 0;
  friend bool operator==(const SlotRange&, const SlotRange&) = default;
};

// Slots whose content has not arrived yet.
struct Missing {
  Missing Plus(uint64_t) const { return {}; }
  friend bool operator==(const Missing&, const Missing&) = default;
};

struct LazyIndex {
  absl::btree_map<uint64_t, LazyProcess> processes;  // by pid, as the component counts
  RunMap<Missing> missing;                           // slots that come later
  uint64_t pages() const;
};

std::string EncodeLazyIndex(const LazyIndex& index);
// Errors: kDataLoss for anything that is not one.
absl::StatusOr<LazyIndex> DecodeLazyIndex(absl::string_view bytes);

// The mappings that CRIU registers for a restore on demand, ascending, from a process's mm image:
// private anonymous memory that is neither locked, of huge pages nor the kernel's own (CRIU's
// vma_entry_can_be_lazy), less the stack, which CRIU touches before it is served. kDataLoss for
// anything that is no such image.
absl::StatusOr<std::vector<LazyMapping>> LazyMappings(absl::string_view mm_image);

// "mm-12.img".
std::string MmFileName(uint64_t pid);

}  // namespace starling::checkpoint
