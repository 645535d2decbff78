#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <string>

#include "transport/queue_pair.h"
#include "transport/roce_thread.h"
#include "transport/single_ring.h"

namespace starling::transport {

// A queue pair of an engine that runs on a thread of its own: what is posted and what completes
// passes through rings.
class RoceQueuePair final : public QueuePair, private roce::CompletionSink, private RoceClient {
 public:
  // Not connected yet. `thread` outlives it. kResourceExhausted when the engine has no more.
  static absl::StatusOr<std::unique_ptr<RoceQueuePair>> Make(RoceThread& thread,
                                                             const roce::PairTuning& tuning);
  ~RoceQueuePair() override;

  uint32_t number() const { return pair_->number(); }
  // `path` says where to; the own addresses are the engine's.
  void Connect(const roce::Path& path, std::string description);
  // `peer` becomes readable when the peer has gone.
  void WatchPeer(UniqueFd peer) { peer_ = std::move(peer); }

  absl::Status Post(std::span<const WorkRequest> requests) override;
  absl::Status PostReceive(uint64_t id, const Piece& buffer) override;
  absl::StatusOr<size_t> Poll(std::span<WorkCompletion> completions) override;
  absl::Status Arm() override;
  absl::StatusOr<Event> Wait(Deadline deadline) override;
  void Wake() override;
  const std::string& description() const override { return description_; }

 private:
  struct Receive {
    uint64_t id = 0;
    Piece buffer;
  };

  RoceQueuePair(RoceThread& thread, const roce::PairTuning& tuning);

  // On the thread.
  void Complete(const WorkCompletion& completion) override;
  bool Feed() override;

  RoceThread& thread_;
  roce::EnginePair* pair_ = nullptr;
  std::string description_;
  SingleRing<WorkRequest> posted_;
  SingleRing<Receive> receives_;
  SingleRing<WorkCompletion> completions_;
  std::deque<WorkCompletion> overflow_;  // of somebody who does not look; the thread's
  std::atomic<bool> armed_{false};
  UniqueFd completed_;  // eventfd
  UniqueFd wake_;       // eventfd
  UniqueFd peer_;
  bool peer_gone_told_ = false;
};

}  // namespace starling::transport
