#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/page_stream.h"
#include "checkpoint/slot_map.h"
#include "runtime/proto/starling.pb.h"

namespace starling::migration {

// The source's view of the target's arena: which slot a page gets, and where that slot is in the
// peer's memory. Asks for more when it is full. Thread-safe.
class ArenaSlots {
 public:
  // Asks the target for `bytes` more of arena. Called by one thread at a time.
  using Grow = std::function<absl::StatusOr<std::vector<v1::ArenaChunk>>(uint64_t bytes)>;
  explicit ArenaSlots(Grow grow) : grow_(std::move(grow)) {}

  absl::Status AddChunk(const v1::ArenaChunk& chunk);

  // Has a thread of its own ask for `bytes` more, part by part: the target takes its time to clear
  // and register memory, and what it has made can be written to meanwhile. Once.
  void GrowAhead(uint64_t bytes);
  // Asks for no further part.
  void StopGrowing() { ahead_thread_.request_stop(); }

  // As SlotMap.
  absl::StatusOr<std::vector<checkpoint::SlotRun>> Assign(const checkpoint::PageRun& run);
  void Zero(const checkpoint::PageRun& run);
  void Recycle();
  // The slots that the run's pages have now, in order; zero pages and those without one are left
  // out.
  std::vector<checkpoint::SlotRun> Current(const checkpoint::PageRun& run) const;

  // Part of a run of slots that is one piece of the peer's memory.
  struct Piece {
    uint64_t address = 0;
    uint32_t rkey = 0;
    uint64_t pages = 0;
    uint32_t chunk = 0;   // which it lies in, of those granted, in their order
    uint64_t offset = 0;  // where in it, in bytes
  };
  // The first such part. kInternal for slots that were never granted.
  absl::StatusOr<Piece> Locate(uint64_t slot, uint64_t pages) const;

 private:
  struct Chunk {
    uint64_t first_slot = 0;
    uint64_t slots = 0;
    uint64_t address = 0;
    uint32_t rkey = 0;
  };
  absl::Status AddChunkLocked(const v1::ArenaChunk& chunk);
  // Gives the mutex back while it asks.
  absl::Status GrowLocked(std::unique_lock<std::mutex>& lock, uint64_t bytes);

  const Grow grow_;
  mutable std::mutex mutex_;  // guards all below
  checkpoint::SlotMap slots_;
  std::vector<Chunk> chunks_;
  bool growing_ = false;  // somebody asks
  uint64_t ahead_ = 0;    // bytes that GrowAhead() has yet to ask for
  std::condition_variable_any grown_;
  std::jthread ahead_thread_;  // the last member: it ends before the others go
};

}  // namespace starling::migration
