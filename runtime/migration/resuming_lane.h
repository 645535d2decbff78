#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "checkpoint/page_stream.h"
#include "runtime/migration/lane_writer.h"

namespace starling::migration {

// A lane that outlives its connection. When that is lost (kUnavailable: retries used up, the queue
// pair failed, its port went down, the peer's end has gone) the lane makes another one and goes on.
// What the target had not answered for counts as refused: the next flush returns it, so that it is
// sent again. Nothing that was answered for is repeated.
//
// One thread at a time; bytes_sent() and Shutdown() from any.
class ResumingLane final : public checkpoint::PageLane {
 public:
  // Makes the lane's `attempt`th connection, 0 being the first, with a writer of its own. Each
  // number is tried once.
  using Open = std::function<absl::StatusOr<std::unique_ptr<LaneWriter>>(uint32_t attempt,
                                                                         Deadline deadline)>;

  // `patience`: for how long a lost connection is replaced; zero: not at all.
  static absl::StatusOr<std::unique_ptr<ResumingLane>> Create(Open open, Duration patience,
                                                              Deadline deadline);

  absl::StatusOr<std::span<std::byte>> Acquire(size_t pages) override;
  absl::Status Put(const checkpoint::PageRun& run) override { return PutAll({&run, 1}); }
  absl::Status PutAll(std::span<const checkpoint::PageRun> runs) override;
  void Discard() override {}
  absl::Status PutZero(const checkpoint::PageRun& run) override;

  // As LaneWriter's.
  bool Full() const { return writer_ != nullptr && writer_->Full(); }
  absl::Status SendBatch();
  absl::Status AskForAnswer();
  absl::Status WaitForAnswer(Deadline deadline, std::vector<checkpoint::PageRun>& refused);
  void DamageNextPage();

  LaneCounts counts() const;  // of all its connections
  uint64_t bytes_sent() const;
  uint64_t resumed() const { return resumed_; }
  void Shutdown();

 private:
  ResumingLane(Open open, Duration patience) : open_(std::move(open)), patience_(patience) {}
  // Does `operation` with the writer; when the connection is lost on the way, `put` is to be sent
  // again with all the rest.
  template <typename Operation>
  absl::Status Do(Operation operation, std::span<const checkpoint::PageRun> put);
  absl::Status Resume(const absl::Status& why, std::span<const checkpoint::PageRun> put);
  absl::StatusOr<std::unique_ptr<LaneWriter>> Reopen(const absl::Status& why);

  const Open open_;
  const Duration patience_;
  uint32_t attempt_ = 0;
  absl::Status failed_;                       // for good
  std::vector<checkpoint::PageRun> refused_;  // what lost connections left unanswered
  LaneCounts before_;                         // of them
  std::atomic<uint64_t> resumed_{0};
  mutable std::mutex mutex_;  // guards the three below against those who come from other threads
  std::condition_variable ended_;
  bool shut_down_ = false;
  uint64_t bytes_before_ = 0;
  std::unique_ptr<LaneWriter> writer_;  // changed by the lane's own thread, under mutex_
};

// Overlapping and adjacent runs made one; in order.
std::vector<checkpoint::PageRun> Merge(std::vector<checkpoint::PageRun> runs);

}  // namespace starling::migration
