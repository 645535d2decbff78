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

// Of one process.
struct LazyProcess {
  RunMap<SlotValue> pages;         // page number to slot; pages that read as zeros are not listed
  std::vector<uint64_t> mappings;  // first listed page of each mapping that has one
};

struct LazyIndex {
  absl::btree_map<uint64_t, LazyProcess> processes;  // by pid, as the component counts
  uint64_t pages() const;
};

std::string EncodeLazyIndex(const LazyIndex& index);
// Errors: kDataLoss for anything that is not one.
absl::StatusOr<LazyIndex> DecodeLazyIndex(absl::string_view bytes);

// A mapping, in page numbers.
struct LazyMapping {
  uint64_t first = 0;
  uint64_t count = 0;
};

// The mappings that CRIU registers for a restore on demand, ascending, from a process's mm image:
// private anonymous memory that is neither locked, of huge pages nor the kernel's own (CRIU's
// vma_entry_can_be_lazy), less the stack, which CRIU touches before it is served. kDataLoss for
// anything that is no such image.
absl::StatusOr<std::vector<LazyMapping>> LazyMappings(absl::string_view mm_image);

// "mm-12.img".
std::string MmFileName(uint64_t pid);

}  // namespace starling::checkpoint
