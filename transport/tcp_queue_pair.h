#pragma once

#include <sys/uio.h>

#include <array>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "transport/queue_pair.h"
#include "transport/tcp_regions.h"
#include "transport/tcp_wire.h"

namespace starling::transport {

// A queue pair over one TCP connection. Two threads of its own do what a network card would: one
// sends requests and answers, one takes what the peer sends and places it, straight from the socket
// into the memory that the peer named. So a peer's writes and reads are carried out whatever this
// side's caller does. Private to the room.
class TcpQueuePair final : public QueuePair {
 public:
  // `receives`: as many PostReceive() calls as can be pending. `regions` outlives the queue pair.
  TcpQueuePair(const TcpRegions& regions, uint32_t send_depth, uint32_t receives);
  ~TcpQueuePair() override;

  // Begins: `socket` is connected, and the greetings are over.
  void Start(UniqueFd socket, std::string description);

  absl::Status Post(std::span<const WorkRequest> requests) override;
  absl::Status PostReceive(uint64_t id, const Piece& buffer) override;
  absl::StatusOr<size_t> Poll(std::span<WorkCompletion> completions) override;
  absl::Status Arm() override { return absl::OkStatus(); }
  absl::StatusOr<Event> Wait(Deadline deadline) override;
  void Wake() override;
  const std::string& description() const override { return description_; }

 private:
  // Elements in a fixed number of places; counts only grow.
  template <typename T>
  struct Ring {
    explicit Ring(size_t places) : places(places) {}
    bool empty() const { return head == tail; }
    size_t size() const { return tail - head; }
    bool full() const { return size() == places.size(); }
    T& front() { return places[head % places.size()]; }
    T& back() { return places[(tail - 1) % places.size()]; }
    T& at(uint64_t position) { return places[position % places.size()]; }
    void Push(T value) { places[tail++ % places.size()] = std::move(value); }
    T Pop() { return std::move(places[head++ % places.size()]); }

    std::vector<T> places;
    uint64_t head = 0;
    uint64_t tail = 0;
  };

  struct Receive {
    uint64_t id = 0;
    Piece buffer;
  };
  // What the sending thread owes the peer.
  struct Reply {
    TcpHeader header;
    std::shared_ptr<TcpGrant> grant;  // of kData
    const std::byte* from = nullptr;
  };
  // Where content from the peer goes; a plain buffer of ours has no grant.
  struct Place {
    std::byte* at = nullptr;
    size_t bytes = 0;
    TcpGrant* grant = nullptr;
  };
  // Why the receiving thread does not go on.
  enum class End : uint8_t { kNone, kGone, kStopped, kRefused };

  void SendLoop();
  bool SendReply(Reply& reply);
  bool SendRequests(uint64_t from, uint64_t to);
  bool SendAll(iovec* pieces, size_t count);

  void ReceiveLoop();
  End ReceiveFrame();
  End TakeMessage(const TcpHeader& header);
  End TakeWrite(const TcpHeader& header);
  End TakeRead(const TcpHeader& header);
  End TakeDone(const TcpHeader& header);
  End TakeData(const TcpHeader& header);
  End TakeRefused(const TcpHeader& header);
  // Fills `place` from the socket; with `last`, what follows is the next header.
  End Fill(Place place, bool last = true);
  End Refuse(const TcpHeader& header, TcpRefusal why, const char* what);
  void Discard();
  // With mutex_ held.
  void Complete(const WorkCompletion& completion);
  void QueueReply(Reply reply);
  End CompleteUpTo(uint64_t number, std::unique_lock<std::mutex>& lock);

  const TcpRegions& regions_;
  UniqueFd socket_;
  std::string description_ = "not connected (tcp)";

  std::mutex mutex_;  // guards all below
  std::condition_variable to_send_;
  std::condition_variable changed_;  // for whoever waits in Wait()
  std::condition_variable taken_;    // for the receiving thread
  bool stop_ = false;
  bool woken_ = false;
  bool peer_gone_ = false;  // and not told yet
  bool refused_ = false;    // by us: after this answer nothing more is said
  Ring<WorkRequest> requests_;
  uint64_t sent_ = 0;  // requests that are in the socket whole; requests_.head are carried out
  bool sending_ = true;
  Ring<Receive> receives_;
  Ring<Reply> replies_;
  Ring<WorkCompletion> completions_;

  // The receiving thread's alone.
  uint64_t expected_ = 0;  // number of the last request taken
  std::array<std::byte, kTcpHeaderBytes> header_;
  size_t header_bytes_ = 0;  // of it that are there

  std::thread sender_;
  std::thread receiver_;
};

}  // namespace starling::transport
