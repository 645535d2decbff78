#pragma once

#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "checkpoint/frozen_memory.h"
#include "checkpoint/page_stream.h"
#include "checkpoint/run_map.h"

namespace starling::checkpoint {

// Which pages a sink was given, as bytes or as zeros. Not thread-safe.
class SentPages {
 public:
  struct Piece {
    PageRun run;
    bool sent = false;
  };

  void Add(const PageRun& run);
  void Remove(const PageRun& run);
  void Drop(const AddressSpace& space) { spaces_.erase(space); }
  void Clear() { spaces_.clear(); }

  // The run cut into pieces that were sent and pieces that were not, in order.
  std::vector<Piece> Cut(const PageRun& run) const;
  // All that was sent of a space, in order.
  std::vector<PageRun> Of(const AddressSpace& space) const;
  std::vector<AddressSpace> Spaces() const;

 private:
  struct Sent {
    Sent Plus(uint64_t) const { return {}; }
    friend bool operator==(const Sent&, const Sent&) = default;
  };
  absl::btree_map<AddressSpace, RunMap<Sent>> spaces_;
};

// Reads the run from the frozen component and sends it; `report` counts it.
absl::Status SendFrozen(const FrozenMemory& memory, const PageRun& run, PageSink& sink,
                        RoundReport& report);

// Holds CRIU's list of a final dump against what was sent: every page that it takes for unchanged
// has to be in the sink. One that was never sent is read from the frozen component and sent now,
// and one that reads as zeros since it was sent is put as zeros (see FrozenMemory). `report`
// counts both. Returns the list with those entries split.
// Errors: kFailedPrecondition for an unsent page where there is no opener; the sink's; kDataLoss
// or kNotFound for an unsent page that cannot be read.
absl::StatusOr<FinalList> SettleHoles(const FinalList& list, const SentPages& sent,
                                      LateFrozenMemory& frozen, PageSink& sink,
                                      RoundReport& report);

}  // namespace starling::checkpoint
