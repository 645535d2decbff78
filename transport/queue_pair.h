#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "transport/fabric.h"

// What a provider has to bring for one connection: a send queue, a receive queue, and a way to
// wait. Private to the room; queue_pair_connection.h makes a Connection of it, the same for every
// provider, so that credits, lists and deadlines are tested once and without a device.

namespace starling::transport {

// Local memory of a work request, inside one registered region.
struct Piece {
  uint64_t address = 0;
  uint32_t bytes = 0;
  uint32_t local_key = 0;
};

// Pieces that one work request gathers at most. Longer lists make every slot of the send queue
// larger.
inline constexpr size_t kMaxPieces = 8;
// Longer writes are cut into several requests of this size: longer ones gain nothing, and what has
// to be sent again after a loss grows with them.
inline constexpr uint32_t kMaxWriteBytes = 1u << 20;
// Longer reads too. A lost part of a response is asked for again when the response to the next read
// shows that it is missing; SoftRoCE waits for its timer of a second where there is no next one.
inline constexpr uint32_t kMaxReadBytes = 256u << 10;
// Work requests that are handed over with one doorbell at most.
inline constexpr size_t kMaxList = 16;

// kWriteImmediate writes and then takes one of the peer's receives, whose completion carries the
// request's `immediate`; nothing is put into its buffer. Not every provider has it: kUnimplemented.
// kBind opens a window of MakeWindow(); it has no pieces.
enum class Operation : uint8_t { kWrite, kRead, kMessage, kWriteImmediate, kBind };

struct WorkRequest {
  uint64_t id = 0;  // comes back in the completion
  Operation operation = Operation::kWrite;
  bool signalled = false;  // ask for a completion; it stands for every request posted before it too
  uint32_t piece_count = 0;
  std::array<Piece, kMaxPieces> pieces;
  uint64_t remote_address = 0;  // of writes and reads
  uint32_t remote_key = 0;
  uint32_t immediate = 0;  // of kWriteImmediate
  uint32_t window = 0;     // of kBind
};

// The error of what was under way, or waited, when its queue pair failed for another reason; as
// IBV_WC_WR_FLUSH_ERR.
inline constexpr int kFlushed = 5;

struct WorkCompletion {
  uint64_t id = 0;
  bool received = false;       // of a receive, otherwise of a work request
  uint32_t bytes = 0;          // length of a received message; 0 with an immediate
  bool has_immediate = false;  // of a receive
  uint32_t immediate = 0;
  int error = 0;                // 0: carried out; otherwise the provider's number
  const char* error_text = "";  // static
};

// One thread at a time, but Wake() from any. Requests are carried out in order and their
// completions come in order; nothing is said about the order of receives against requests. The
// destructor ends the connection; after it nothing touches registered memory for this queue pair's
// sake.
class QueuePair {
 public:
  enum class Event : uint8_t {
    kNothing,    // the deadline passed, or somebody woke us
    kCompleted,  // there may be something to poll
    kPeerGone,   // told once; what had arrived before can still be polled
  };

  virtual ~QueuePair() = default;

  // Hands over all of `requests` (at most kMaxList) with one doorbell. The caller keeps count of
  // the room. After an error the queue pair is of no use any more.
  virtual absl::Status Post(std::span<const WorkRequest> requests) = 0;
  virtual absl::Status PostReceive(uint64_t id, const Piece& buffer) = 0;

  // A memory window to the whole of `region`, for the peer of this queue pair to write through
  // (kRemoteWrite) or to read through (kRemoteRead): its number for kBind, and the key that it has
  // once that has completed. It ends with the queue pair.
  struct Window {
    uint32_t number = 0;
    uint32_t remote_key = 0;
  };
  virtual absl::StatusOr<Window> MakeWindow(const MemoryRegion& region, Access access) {
    (void)region;
    (void)access;
    return absl::UnimplementedError(
        absl::StrCat(description(), ": this transport has no memory windows"));
  }

  // Takes up to completions.size() completions; 0 when there are none.
  virtual absl::StatusOr<size_t> Poll(std::span<WorkCompletion> completions) = 0;

  // Whether polling on takes nothing from who brings the completions: a device, not threads of
  // ours.
  virtual bool may_spin() const { return false; }

  // After Arm() the next completion ends Wait(). What completed before it does not, so poll once
  // between the two.
  virtual absl::Status Arm() = 0;
  virtual absl::StatusOr<Event> Wait(Deadline deadline) = 0;
  virtual void Wake() = 0;

  // "10.77.0.1:40100 -> 10.77.0.2:7401 (rxe0, queue pair 17)"
  virtual const std::string& description() const = 0;
};

}  // namespace starling::transport
