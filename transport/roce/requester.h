#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "transport/roce/queue_pair_parts.h"
#include "transport/roce/regions.h"

namespace starling::transport::roce {

// The sending half of a queue pair: takes work requests, sends their packets, and sends them again
// from the oldest one that is not acknowledged ("go-back-N") when the peer reports a gap, when an
// acknowledgement comes that passes over an unfinished READ (whose response was lost), or when
// nothing comes for too long. One thread.
class Requester {
 public:
  Requester(const Path& path, const PairTuning& tuning, const RegionTable& regions,
            CompletionSink& completions, PairCounts& counts);

  // The path is complete.
  void Connect();

  bool HasRoom() const { return tail_ - head_ < requests_.size(); }
  // Only while there is room.
  void Post(const WorkRequest& request);

  // Sends one packet; false when none may be sent now.
  bool SendOne(FrameSink& out, TimePoint now);
  void TakeAcknowledge(const Packet& packet, TimePoint now);
  void TakeReadResponse(const Packet& packet, TimePoint now);
  // When CheckTimer() or SendOne() has something to do without anything having come.
  TimePoint timer() const { return waiting_ ? std::min(timer_, wait_until_) : timer_; }
  void CheckTimer(TimePoint now);

  // Ends everything that is posted with kFlushed.
  void Flush() { Fail(WorkError::kFlushed); }
  bool failed() const { return failed_; }
  // Whether all that was posted has been carried out.
  bool idle() const { return head_ == tail_; }

 private:
  // A posted request with the packets, that is sequence numbers, which it takes. A READ takes one
  // for each packet of its response.
  struct Posted {
    WorkRequest request;
    uint64_t bytes = 0;
    uint64_t first = 0;
    uint64_t end = 0;
  };

  Posted& At(uint64_t index) { return requests_[index % requests_.size()]; }
  // Parts of the request's memory, from `offset` on. False when it is not registered.
  bool Gather(const Posted& posted, uint64_t offset, uint64_t bytes,
              std::array<std::span<const std::byte>, kMaxPieces>& parts, size_t& count) const;
  bool Scatter(const Posted& posted, uint64_t offset, std::span<const std::byte> payload);
  bool SendData(Posted& posted, FrameSink& out);
  bool SendRead(Posted& posted, FrameSink& out);
  // Everything before `psn` has been carried out by the peer. False when a READ stands in between.
  bool AcknowledgeUntil(uint64_t psn, TimePoint now);
  void Progress(uint64_t until, TimePoint now);
  void FinishHead(WorkError error);
  void GoBack();
  void TakeLoss();
  void ImpliedNak();
  void Measure(Duration round_trip);
  Duration Timeout() const;
  void Fail(WorkError error);

  const Path& path_;
  const PairTuning tuning_;
  const RegionTable& regions_;
  CompletionSink& completions_;
  PairCounts& counts_;
  FrameBuilder builder_;
  bool connected_ = false;
  bool failed_ = false;

  // Requests from head_ (oldest not carried out) to tail_; cursor_ is the one of next_.
  std::vector<Posted> requests_;
  uint64_t head_ = 0;
  uint64_t tail_ = 0;
  uint64_t cursor_ = 0;
  // Sequence numbers: oldest unacknowledged, next to send, end of what was ever sent, end of all
  // that is posted.
  uint64_t unacknowledged_ = kPsnOrigin;
  uint64_t next_ = kPsnOrigin;
  uint64_t sent_end_ = kPsnOrigin;
  uint64_t posted_end_ = kPsnOrigin;
  // Ends of the READ requests under way, oldest first.
  std::vector<uint64_t> reads_;
  uint64_t reads_head_ = 0;
  uint64_t reads_tail_ = 0;

  uint32_t window_;
  uint32_t acknowledged_in_window_ = 0;
  uint64_t loss_counted_until_ = 0;  // a window shrinks once for all losses in it
  uint64_t implied_nak_at_ = 0;

  TimePoint timer_ = TimePoint::max();
  bool waiting_ = false;  // after an RNR NAK
  TimePoint wait_until_{};
  TimePoint progress_at_{};
  Duration timeout_;     // by what was measured
  Duration smoothed_{};  // round trip; 0: not measured
  Duration variation_{};
  unsigned backoff_ = 0;  // timeouts since the last progress; each doubles the next
  // One packet at a time is timed, and none that was sent twice.
  uint64_t timed_psn_ = 0;
  TimePoint timed_at_{};
};

}  // namespace starling::transport::roce
