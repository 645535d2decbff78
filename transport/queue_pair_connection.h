#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "transport/fabric.h"
#include "transport/queue_pair.h"
#include "transport/spin_time.h"

namespace starling::transport {

// Numbers of one connection. Both ends must use the same `messages`.
struct ConnectionTuning {
  uint32_t send_depth = 512;  // work requests posted and not yet known to be done
  uint32_t messages = 64;     // messages under way, each way
};

// A Connection over any provider's queue pair. See fabric.h for what the calls mean.
//
// Credit: every message begins with the count of messages that its sender has taken out of its own
// receive buffers so far. Counts only grow, so it does not matter which of them is seen last. A
// message is sent only while fewer than `messages` are under way, so that it never meets an empty
// receive queue. A count that no message carries back within half of `messages` (rounded up)
// travels in a message of its own. Of these at most two can be under way: after the last count that
// the peer has seen it sends at most `messages` more, and each half of them sends one count back.
// Buffers are set aside for them.
//
// Doorbells: writes are gathered into a list that goes out when it is full, when it has grown to
// some size, before any wait, or with the message that follows. A write that goes on where the last
// one of the list ended, in the peer's memory, becomes part of it.
class QueuePairConnection final : public Connection {
 public:
  // Takes a queue pair that is not connected yet and posts its receives. `fabric` registers the
  // message buffers and must outlive the connection.
  static absl::StatusOr<std::unique_ptr<QueuePairConnection>> Make(
      std::unique_ptr<QueuePair> queue_pair, Fabric& fabric, const ConnectionTuning& tuning);
  ~QueuePairConnection() override;

  // Receives that Make() posts, for which the queue pair must have room.
  static uint32_t ReceiveDepth(const ConnectionTuning& tuning);

  // kInvalidArgument for more than a connection request can show.
  static absl::Status CheckPrivateData(absl::string_view private_data);

  absl::Status Write(const MemoryRegion& local, size_t offset, size_t bytes,
                     uint64_t remote_address, uint32_t remote_key, Deadline deadline) override;
  absl::Status Read(const MemoryRegion& local, size_t offset, size_t bytes, uint64_t remote_address,
                    uint32_t remote_key, Deadline deadline) override;
  absl::StatusOr<uint32_t> Grant(const MemoryRegion& region, Access access,
                                 Deadline deadline) override;
  absl::StatusOr<uint64_t> Send(absl::string_view message, Deadline deadline) override;
  uint64_t completed() const override { return completed_; }
  absl::Status WaitCompleted(uint64_t number, Deadline deadline) override;
  absl::StatusOr<std::string> Receive(Deadline deadline) override;
  bool refused_peer() const override { return refused_peer_; }
  void Shutdown() override;
  uint64_t bytes_sent() const override { return bytes_sent_; }
  const std::string& description() const override { return queue_pair_->description(); }

 private:
  // A work request whose completion will be reported.
  struct Reported {
    uint64_t id = 0;
    uint32_t requests = 0;  // places of the send queue that its completion gives back
  };
  struct Arrived {
    uint32_t slot = 0;
    uint32_t bytes = 0;  // with the header
  };

  QueuePairConnection(std::unique_ptr<QueuePair> queue_pair, const ConnectionTuning& tuning);

  std::byte* ReceiveBuffer(uint64_t slot) { return buffers_.data() + slot * kMaxMessageBytes; }
  std::byte* SendBuffer(uint64_t slot) { return ReceiveBuffer(receive_slots_ + slot); }
  absl::Status PostReceive(uint64_t slot);
  static absl::Status CheckInside(const MemoryRegion& local, size_t offset, size_t bytes);
  bool Extend(uint64_t address, uint32_t bytes, uint32_t local_key, uint64_t remote_address,
              uint32_t remote_key);
  absl::Status Append(Operation operation, uint64_t id, const Piece& piece, uint64_t remote_address,
                      uint32_t remote_key, bool signalled);
  absl::Status Ring();
  absl::Status WaitForRoom(bool message, Deadline deadline);
  absl::Status PostMessage(absl::string_view content, bool only_credit);
  absl::Status ReturnCredit();
  // Handles what has completed; waits for something to when nothing has. kDeadlineExceeded does not
  // end the connection.
  absl::Status Progress(Deadline deadline);
  absl::StatusOr<bool> Reap();
  absl::Status Take(const WorkCompletion& completion);
  absl::Status TakeMessage(const WorkCompletion& completion);
  absl::Status Fail(absl::Status status);

  const ConnectionTuning tuning_;
  const uint64_t receive_slots_;
  const uint64_t send_slots_;
  // Destroyed in the reverse order: first the queue pair, after which nobody writes into the
  // buffers.
  std::vector<std::byte> buffers_;
  std::unique_ptr<MemoryRegion> region_;
  std::unique_ptr<QueuePair> queue_pair_;
  std::atomic<bool> shut_down_{false};
  absl::Status failed_;
  bool refused_peer_ = false;

  std::array<WorkRequest, kMaxList> list_;  // appended, not yet handed over
  size_t list_size_ = 0;
  uint64_t list_bytes_ = 0;
  uint32_t outstanding_ = 0;  // places taken of the send queue, the list's included
  uint32_t unsignalled_ = 0;  // of them, since the last one that will be reported
  // Rings; `head` and `tail` only grow.
  std::vector<Reported> reported_;
  uint64_t reported_head_ = 0;
  uint64_t reported_tail_ = 0;
  std::vector<Arrived> arrived_;
  uint64_t arrived_head_ = 0;  // = messages taken
  uint64_t arrived_tail_ = 0;  // = messages received
  std::vector<uint32_t> free_send_slots_;

  std::array<WorkCompletion, 32> completions_;  // of one look at the queue

  uint64_t sent_ = 0;       // messages with content
  uint64_t completed_ = 0;  // of them
  uint64_t reads_posted_ = 0;
  uint64_t reads_done_ = 0;
  uint64_t binds_posted_ = 0;
  uint64_t binds_done_ = 0;
  uint64_t peer_took_ = 0;  // of sent_, as the peer last said
  uint64_t told_ = 0;       // of arrived_head_, as the peer was last told
  SpinTime spin_;
  std::atomic<uint64_t> bytes_sent_{0};
};

}  // namespace starling::transport
