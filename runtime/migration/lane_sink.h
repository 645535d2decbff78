#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/page_stream.h"
#include "checkpoint/slot_map.h"
#include "runtime/config.h"
#include "runtime/migration/batch.h"
#include "runtime/proto/starling.pb.h"
#include "transport/fabric.h"

namespace starling::migration {

struct LaneOptions {
  int queue_pairs = 2;               // connections that slabs are dealt to in turn
  uint64_t slab_bytes = 512 * 1024;  // one slab is one batch
  int slabs = 16;                    // registered once, shared by all connections
};
LaneOptions LaneOptionsFrom(const Config::Data& data);

// Where a source's pages go: slabs of registered memory, written by RDMA into the slots of the
// target's arena, each followed by a batch message that says what they are. One thread at a time,
// but Shutdown() and bytes_sent() from any.
class LaneSink final : public checkpoint::PageSink {
 public:
  // Asks the target for `bytes` more of arena.
  using Grow = std::function<absl::StatusOr<std::vector<v1::ArenaChunk>>(uint64_t bytes)>;

  static absl::StatusOr<std::shared_ptr<LaneSink>> Connect(transport::Fabric& fabric,
                                                           const LaneOptions& options,
                                                           const v1::ReserveResponse& granted,
                                                           Grow grow, Deadline deadline);
  ~LaneSink() override;

  absl::StatusOr<std::span<std::byte>> Acquire(size_t pages) override;
  absl::Status Put(const checkpoint::PageRun& run) override;
  absl::Status PutAll(std::span<const checkpoint::PageRun> runs) override;
  void Discard() override;
  absl::Status PutZero(const checkpoint::PageRun& run) override;
  absl::Status Flush(Deadline deadline) override;

  // Called now and then with bytes_sent(), on the thread that puts.
  void SetProgress(std::function<void(uint64_t)> progress) { progress_ = std::move(progress); }
  uint64_t bytes_sent() const;
  void Shutdown();

 private:
  struct Lane {
    std::unique_ptr<transport::Connection> connection;
    uint64_t sequence = 0;
  };
  struct Slab {
    std::span<std::byte> memory;
    std::unique_ptr<transport::MemoryRegion> region;
    // The message behind its last batch: it may be written to again once that has completed.
    size_t lane = 0;
    uint64_t message = 0;
  };
  struct Chunk {
    uint64_t first_slot = 0;
    uint64_t slots = 0;
    uint64_t address = 0;
    uint32_t rkey = 0;
  };

  LaneSink(const LaneOptions& options, Grow grow) : options_(options), grow_(std::move(grow)) {}

  absl::Status AddChunk(const v1::ArenaChunk& chunk);
  absl::Status WriteSlots(uint64_t slot, uint64_t pages, size_t slab_offset);
  absl::Status SendBatch(bool flush);
  // Sends a batch that is full of runs; the rest of its slab stays in use.
  absl::Status SendBatchWithinSlab();
  Slab& CurrentSlab() { return slabs_[current_]; }

  const LaneOptions options_;
  Grow grow_;
  std::function<void(uint64_t)> progress_;
  std::byte* pool_ = nullptr;
  size_t pool_bytes_ = 0;
  std::vector<Slab> slabs_;
  std::vector<Lane> lanes_;
  std::vector<Chunk> chunks_;
  checkpoint::SlotMap slots_;
  size_t current_ = 0;         // slab being filled
  bool current_free_ = false;  // it has been waited for
  size_t used_ = 0;            // bytes of it that are in the batch
  size_t lane_ = 0;            // the connection of the batch being made
  Batch batch_;
  TimePoint told_{};
};

}  // namespace starling::migration
