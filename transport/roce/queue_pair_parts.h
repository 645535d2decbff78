#pragma once

#include <cstdint>
#include <span>

#include "base/clock.h"
#include "transport/queue_pair.h"
#include "transport/roce/packet.h"

// What both halves of a queue pair, the requester and the responder, are made of. Private to the
// engine.

namespace starling::transport::roce {

// Numbers of one queue pair.
struct PairTuning {
  uint32_t send_depth = 512;    // work requests posted and not yet carried out
  uint32_t receive_depth = 64;  // receives posted
  // Packets on their way at most. rxe stops at 128 as a sender; a receiver's ring of 512 frames
  // must not run over.
  uint32_t window = 128;
  uint32_t min_window = 16;    // after losses
  uint32_t ack_every = 16;     // packets, beside the last one of each message
  uint32_t read_packets = 64;  // of one READ request; longer reads become several
  uint32_t reads = 16;         // READ requests under way, here and granted to the peer
  // Until an unacknowledged packet is sent again: measured round trips decide, between these. A
  // peer that shares its processors is late by 10 ms now and then.
  Duration first_timeout = std::chrono::milliseconds(500);  // before anything was measured
  Duration min_timeout = std::chrono::milliseconds(40);
  Duration max_timeout = std::chrono::seconds(2);
  // Without any sign of progress for so long the peer counts as gone.
  Duration give_up = std::chrono::seconds(12);
  // Code of the least time that a peer waits when it found no receive posted: 12 is 0.64 ms.
  uint8_t min_rnr_timer = 12;
};

// The waiting time that a code of an RNR NAK stands for (specification, table "Encoding for RNR NAK
// timer field").
Duration RnrTime(uint8_t code);

// Where a queue pair's packets go, and with what on them.
struct Path {
  MacAddress own_mac{};
  MacAddress peer_mac{};
  uint32_t own_ip = 0;
  uint32_t peer_ip = 0;
  uint32_t own_queue_pair = 0;
  uint32_t peer_queue_pair = 0;
  uint32_t own_psn = 0;   // of the first packet that we send
  uint32_t peer_psn = 0;  // of the first packet that the peer sends
  uint32_t mtu = 1024;    // path MTU: payload bytes of a packet
  uint16_t partition = kDefaultPartition;
  uint8_t traffic_class = 0;
};

// A frame to be sent, in parts that lie in several places. Valid during the call.
struct OutgoingFrame {
  std::span<const std::byte> headers;
  std::span<const std::span<const std::byte>> payload;
  std::span<const std::byte> trailer;
  size_t bytes = 0;  // of all together
};

// Where frames go.
class FrameSink {
 public:
  virtual ~FrameSink() = default;
  // Whether another frame of full size can be taken now.
  virtual bool HasRoom() = 0;
  // Takes or copies the frame; only while there is room.
  virtual void Send(const OutgoingFrame& frame) = 0;
};

// Where a queue pair's completions go.
class CompletionSink {
 public:
  virtual ~CompletionSink() = default;
  virtual void Complete(const WorkCompletion& completion) = 0;
};

// Completion errors, numbered as ibv_wc_status.
enum class WorkError : int {
  kNone = 0,
  kLocalLength = 1,
  kLocalProtection = 4,
  kFlushed = 5,
  kRemoteInvalid = 9,
  kRemoteAccess = 10,
  kRemoteOperation = 11,
  kRetriesExceeded = 12,
};
const char* WorkErrorText(WorkError error);

// What happened, for reports and tests.
struct PairCounts {
  uint64_t packets_sent = 0;        // with those sent again
  uint64_t packets_sent_again = 0;  // by the requester
  uint64_t packets_received = 0;
  uint64_t timeouts = 0;
  uint64_t naks_sent = 0;
  uint64_t naks_received = 0;
  uint64_t implied_naks = 0;
  uint64_t rnr_naks_sent = 0;
  uint64_t rnr_naks_received = 0;
  uint64_t duplicates = 0;  // request packets that had been carried out already
  uint64_t reads_replayed = 0;
  uint64_t refused = 0;  // requests refused for ever: access, length, operation
};

// A packet sequence number of 24 bits made one of 64 that does not wrap, the one closest to `near`.
constexpr uint64_t ExtendPsn(uint32_t psn, uint64_t near) {
  const auto distance = static_cast<int32_t>((psn - static_cast<uint32_t>(near)) << 8) >> 8;
  return near + static_cast<uint64_t>(static_cast<int64_t>(distance));
}
// So that what is a little older than the first one is not below zero.
inline constexpr uint64_t kPsnOrigin = uint64_t{1} << 32;

// Builds the frames of one queue pair.
class FrameBuilder {
 public:
  FrameBuilder(const Path& path, PairCounts& counts) : path_(path), counts_(counts) {}

  // The path's fields of the headers are filled in.
  void Send(Headers headers, std::span<const std::span<const std::byte>> payload, FrameSink& out);

 private:
  const Path& path_;
  PairCounts& counts_;
};

}  // namespace starling::transport::roce
