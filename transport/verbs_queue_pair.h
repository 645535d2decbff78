#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/fd.h"
#include "transport/address_exchange.h"
#include "transport/queue_pair.h"
#include "transport/verbs_objects.h"

namespace starling::transport {

class VerbsQueuePair;

// Hears a device's asynchronous events and tells the queue pairs whose they are. A queue pair that
// has failed is of no use to either side; a port that goes down ends those connections that this
// side made, which is the side that makes them again. One for each context, since an event is
// heard once. Thread-safe; outlives its queue pairs.
class VerbsEvents {
 public:
  // `context` outlives it.
  static absl::StatusOr<std::unique_ptr<VerbsEvents>> Watch(ibv_context* context);
  ~VerbsEvents();

  void Add(VerbsQueuePair* queue_pair);
  // Nothing is told to it any more when this has returned.
  void Remove(VerbsQueuePair* queue_pair);
  // Keeps what the connection manager has of a connection until a port is up again. To give it up
  // says goodbye to the peer, and SoftRoCE's queue pair for such messages may not outlive one that
  // has no route.
  void Keep(EventChannel channel, CmId id);

 private:
  explicit VerbsEvents(ibv_context* context) : context_(context) {}
  void Run();
  void Hear(const ibv_async_event& event);

  ibv_context* const context_;
  UniqueFd stop_;  // eventfd
  std::mutex mutex_;
  std::set<VerbsQueuePair*> queue_pairs_;            // guarded by mutex_
  std::vector<std::pair<EventChannel, CmId>> kept_;  // guarded by mutex_; ids go first
  std::thread thread_;
};

// Numbers of one verbs queue pair, beside those of the connection.
struct VerbsTuning {
  uint32_t send_depth = 512;   // as ConnectionTuning::send_depth
  uint32_t receive_depth = 0;  // receives that the connection posts
  uint32_t inline_bytes = 60;  // messages up to this size are copied into the work request
  uint8_t ack_timeout = 14;  // 4.096 us * 2^14 = 67 ms until an unacknowledged packet is sent again
  // The same for rxe: 1.07 s. A processor that others use too carries its packets, so that
  // acknowledgements may be late for long without being lost. With 67 ms on busy emulated guests a
  // fifth of all packets went twice, and now and then a connection, ours or perftest's, ended with
  // "remote invalid request error"; with 1.07 s neither was seen.
  uint8_t rxe_ack_timeout = 18;
  uint8_t retries = 7;         // of that; in rxe 7 stands for ever
  uint8_t rnr_retries = 7;     // 7: for ever, in rxe at least. Credits keep it from happening
  uint8_t min_rnr_timer = 12;  // 0.64 ms; the connection manager leaves 0, which stands for 655 ms
  uint8_t read_depth = 16;     // RDMA reads under way, at most what the device can
  uint16_t partition = 0;      // as VerbsOptions::partition
  uint8_t traffic_class = 0;   // as VerbsOptions::traffic_class
};

// Where the port's table has this partition key, bit of membership included. kFailedPrecondition,
// saying which keys it has, where it has not.
absl::StatusOr<uint16_t> FindPartition(ibv_context* context, uint8_t port, uint16_t partition);

// A device's port, as peers without a connection manager name it.
struct VerbsPort {
  uint8_t number = 1;
  int gid_index = 0;  // of the RoCEv2 entry of `ip`
  uint32_t ip = 0;
  uint32_t mtu = 0;  // bytes
};

// The first active port with a RoCEv2 entry of an IPv4 address. kFailedPrecondition without any.
absl::StatusOr<VerbsPort> FindVerbsPort(ibv_context* context);

absl::Status SetNonBlocking(int fd);

// Waits for `wanted` on a non-blocking channel. kUnavailable when nobody listens, kPermissionDenied
// when the peer refused, kDeadlineExceeded.
absl::Status AwaitCmEvent(rdma_event_channel* channel, rdma_cm_event_type wanted, Deadline deadline,
                          absl::string_view what);

// A queue pair whose state follows the steps of the connection manager, but with our own numbers:
// the manager is asked for the attributes of each step, and they are corrected before they are set.
// Where the peer has no connection manager, all attributes are made of what it said of itself.
class VerbsQueuePair final : public QueuePair {
 public:
  // `id` has been resolved or has come with a request; the queue pair is ready for receives to be
  // posted.
  // `events` are its context's.
  static absl::StatusOr<std::unique_ptr<VerbsQueuePair>> Make(EventChannel channel, CmId id,
                                                              ibv_pd* pd, VerbsEvents& events,
                                                              const VerbsTuning& tuning);
  // Without a connection manager.
  static absl::StatusOr<std::unique_ptr<VerbsQueuePair>> Make(ibv_context* context,
                                                              const VerbsPort& port, ibv_pd* pd,
                                                              VerbsEvents& events,
                                                              const VerbsTuning& tuning);
  ~VerbsQueuePair() override;

  // Without a connection manager: what to tell the peer, and what it told.
  QueuePairAddress OwnAddress(const VerbsPort& port) const;
  absl::Status ConnectTo(const VerbsPort& port, const QueuePairAddress& peer,
                         const std::string& description);
  // `peer` becomes readable when the peer has gone.
  void WatchPeer(UniqueFd peer) { peer_ = std::move(peer); }

  // This side made the connection, and makes another one when its port goes down.
  void SetMade() { made_ = true; }
  bool made() const { return made_; }
  uint32_t number() const { return queues_->qp_num; }
  uint8_t port() const { return port_; }
  // From the thread of events: the device says that it is of no use any more, why (static).
  void Fail(const char* why);

  // The active side: asks, and returns when both sides are ready.
  absl::Status Connect(absl::string_view private_data, Deadline deadline, absl::string_view what);
  // The passive side's answer to a request.
  absl::Status Accept(Deadline deadline, absl::string_view what);

  absl::Status Post(std::span<const WorkRequest> requests) override;
  absl::Status PostReceive(uint64_t id, const Piece& buffer) override;
  absl::StatusOr<Window> MakeWindow(const MemoryRegion& region, Access access) override;
  absl::StatusOr<size_t> Poll(std::span<WorkCompletion> completions) override;
  bool may_spin() const override { return true; }
  absl::Status Arm() override;
  absl::StatusOr<Event> Wait(Deadline deadline) override;
  void Wake() override;
  const std::string& description() const override { return description_; }

 private:
  VerbsQueuePair(EventChannel channel, CmId id, ibv_context* context, VerbsEvents& events,
                 const VerbsTuning& tuning);
  absl::Status MakeQueues(ibv_pd* pd);
  absl::Status Advance(ibv_qp_state state, absl::string_view what);
  rdma_conn_param Parameters() const;
  // Has the device forget all windows, so that nothing that is under way lands any more.
  void InvalidateWindows();
  void Describe();
  void LogAttributes() const;

  const VerbsTuning tuning_;
  // Destroyed in the reverse order.
  EventChannel channel_;
  CmId id_;
  ibv_context* const context_;
  VerbsEvents& device_events_;
  std::atomic<bool> made_{false};
  std::atomic<uint8_t> port_{0};  // 0: not known yet
  std::atomic<const char*> event_{nullptr};
  UniqueFd peer_;  // without a connection manager
  UniqueFd wake_;  // eventfd
  CompletionChannel events_;
  CompletionQueue completions_;
  Queues queues_;
  struct BoundWindow {
    MemoryWindow window;
    uint32_t remote_key;
    const VerbsRegion* region;
    unsigned int access;  // IBV_ACCESS_...
  };
  std::vector<BoundWindow> windows_;
  std::string description_;
  unsigned events_unacknowledged_ = 0;
  uint32_t psn_ = 0;        // without a connection manager
  uint16_t partition_ = 0;  // without a connection manager
  bool active_ = false;     // connecting or connected: the peer is to be told of the end
  std::array<ibv_send_wr, kMaxList> requests_;
  std::array<std::array<ibv_sge, kMaxPieces>, kMaxList> pieces_;
};

}  // namespace starling::transport
