#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/page_stream.h"
#include "runtime/config.h"
#include "runtime/migration/arena_slots.h"
#include "runtime/migration/lane_writer.h"
#include "runtime/migration/resuming_lane.h"
#include "runtime/names.h"
#include "runtime/proto/starling.pb.h"
#include "transport/fabric.h"

namespace starling::migration {

struct LaneOptions {
  int queue_pairs = 2;               // connections that slabs are dealt to in turn
  uint64_t slab_bytes = 512 * 1024;  // one slab is one batch
  int slabs = 16;                    // registered once, dealt out to the connections
  bool compress = true;              // where it pays and the target has a ring
  // For how long a connection that was lost is made again; zero: not at all.
  Duration patience{};
  // Further devices, rail 1 and up; null for one that is not there. Used where the target has them
  // too.
  std::vector<transport::Fabric*> rails;
};
LaneOptions LaneOptionsFrom(const Config::Data& data);

// What a target is asked for beside the arena, so that batches may be packed or sealed.
inline constexpr uint32_t kRingSlotsPerLane = 4;
// Keys of the data connections in their order; none: the stream is plain.
using StreamKeys = std::vector<ChannelKeys>;

// Where a source's pages go: over several connections, each with a writer of its own, and made
// again when it is lost. As a lane it gives each batch to the next of them. bytes_sent() and
// Shutdown() from any thread.
class LaneSink final : public checkpoint::PageSink {
 public:
  static absl::StatusOr<std::shared_ptr<LaneSink>> Connect(
      transport::Fabric& fabric, const LaneOptions& options, const v1::ReserveResponse& granted,
      ArenaSlots::Grow grow, const StreamKeys& keys, Deadline deadline);
  ~LaneSink() override;

  absl::StatusOr<std::span<std::byte>> Acquire(size_t pages) override;
  absl::Status Put(const checkpoint::PageRun& run) override { return PutAll({&run, 1}); }
  absl::Status PutAll(std::span<const checkpoint::PageRun> runs) override;
  void Discard() override {}
  absl::Status PutZero(const checkpoint::PageRun& run) override;

  std::span<checkpoint::PageLane* const> lanes() override { return lanes_; }
  absl::StatusOr<std::vector<checkpoint::PageRun>> Flush(Deadline deadline) override;

  // Called now and then with bytes_sent(), on one of the threads that put.
  void SetProgress(std::function<void(uint64_t)> progress);
  void DamageNextPage() { writers_.front()->DamageNextPage(); }
  bool sealed() const { return sealed_; }
  // Devices that the connections are spread over.
  size_t rails() const { return rails_.size(); }
  ArenaSlots& slots() { return slots_; }
  LaneCounts counts() const;  // while nobody puts
  // Connections that were made again.
  uint64_t resumed() const;
  uint64_t bytes_sent() const;
  void Shutdown();

 private:
  explicit LaneSink(ArenaSlots::Grow grow) : slots_(std::move(grow)) {}
  ResumingLane& Current() { return *writers_[turn_]; }
  absl::Status NextIfFull();
  void Tell();

  ArenaSlots slots_;
  // A device of ours and the target's address that it reaches.
  struct Rail {
    transport::Fabric* fabric;
    Endpoint peer;
    size_t number;  // 0: the first
  };
  // Connection `lane` over the rail that is its turn at this attempt; the first attempt goes
  // through all of them.
  absl::StatusOr<std::pair<std::unique_ptr<transport::Connection>, transport::Fabric*>> Reach(
      uint32_t lane, uint32_t attempt, const std::string& shown, Deadline deadline);

  bool sealed_ = false;
  std::vector<Rail> rails_;
  std::vector<std::unique_ptr<ResumingLane>> writers_;
  std::vector<checkpoint::PageLane*> lanes_;
  size_t turn_ = 0;
  std::mutex mutex_;  // guards the two below
  std::function<void(uint64_t)> progress_;
  TimePoint told_{};
};

}  // namespace starling::migration
