#include "transport/verbs_fabric.h"

#include <poll.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "transport/address_exchange.h"
#include "transport/queue_pair_connection.h"
#include "transport/sockets.h"
#include "transport/verbs_objects.h"
#include "transport/verbs_queue_pair.h"

namespace starling::transport {
namespace {

constexpr int kBacklog = 64;
// Some devices take more, but lengths of 32 bits are then at stake on the way.
constexpr uint64_t kMaxRegionBytes = uint64_t{2} << 30;

// A queue pair and the connection that owns it, not connected yet.
struct Unconnected {
  VerbsQueuePair* queue_pair;
  std::unique_ptr<QueuePairConnection> connection;
};

VerbsTuning TuningOf(const ConnectionTuning& tuning, const VerbsOptions& options) {
  VerbsTuning verbs;
  verbs.send_depth = tuning.send_depth;
  verbs.receive_depth = QueuePairConnection::ReceiveDepth(tuning);
  verbs.partition = options.partition;
  verbs.traffic_class = options.traffic_class;
  return verbs;
}

absl::StatusOr<Unconnected> MakeConnection(std::unique_ptr<VerbsQueuePair> queue_pair,
                                           Fabric& fabric) {
  VerbsQueuePair* const raw = queue_pair.get();
  ASSIGN_OR_RETURN(std::unique_ptr<QueuePairConnection> connection,
                   QueuePairConnection::Make(std::move(queue_pair), fabric, ConnectionTuning()));
  return Unconnected{raw, std::move(connection)};
}

absl::StatusOr<Unconnected> MakeConnection(EventChannel channel, CmId id, ibv_pd* pd,
                                           VerbsEvents& events, const VerbsTuning& tuning,
                                           Fabric& fabric) {
  ASSIGN_OR_RETURN(std::unique_ptr<VerbsQueuePair> queue_pair,
                   VerbsQueuePair::Make(std::move(channel), std::move(id), pd, events, tuning));
  return MakeConnection(std::move(queue_pair), fabric);
}

absl::StatusOr<EventChannel> NewChannel() {
  EventChannel channel(rdma_create_event_channel());
  if (!channel)
    return ErrnoStatus("open the RDMA connection manager (is the module rdma_ucm loaded?)");
  RETURN_IF_ERROR(SetNonBlocking(channel->fd));
  return channel;
}

class VerbsIncoming final : public Incoming {
 public:
  VerbsIncoming(CmId id, std::string private_data, ibv_pd* pd, VerbsEvents& events,
                const VerbsTuning& tuning, Fabric& fabric)
      : id_(std::move(id)),
        private_data_(std::move(private_data)),
        pd_(pd),
        events_(events),
        tuning_(tuning),
        fabric_(fabric) {}
  ~VerbsIncoming() override {
    if (id_) rdma_reject(id_.get(), nullptr, 0);
  }

  absl::string_view private_data() const override { return private_data_; }

  absl::StatusOr<std::unique_ptr<Connection>> Accept(Deadline deadline) override {
    const std::string what =
        absl::StrCat("accept a connection from ", AddressText(rdma_get_peer_addr(id_.get())));
    ASSIGN_OR_RETURN(EventChannel channel, NewChannel());
    if (rdma_migrate_id(id_.get(), channel.get()) != 0) return ErrnoStatus(what);
    ASSIGN_OR_RETURN(Unconnected made, MakeConnection(std::move(channel), std::move(id_), pd_,
                                                      events_, tuning_, fabric_));
    RETURN_IF_ERROR(made.queue_pair->Accept(deadline, what));
    return std::unique_ptr<Connection>(std::move(made.connection));
  }

 private:
  CmId id_;
  std::string private_data_;
  ibv_pd* pd_;
  VerbsEvents& events_;
  const VerbsTuning tuning_;
  Fabric& fabric_;
};

class VerbsListener final : public Listener {
 public:
  VerbsListener(EventChannel channel, CmId id, ibv_pd* pd, VerbsEvents& events,
                const VerbsTuning& tuning, Fabric& fabric)
      : channel_(std::move(channel)),
        id_(std::move(id)),
        pd_(pd),
        events_(events),
        tuning_(tuning),
        fabric_(fabric) {}

  absl::StatusOr<std::unique_ptr<Incoming>> Next(Deadline deadline) override {
    while (true) {
      rdma_cm_event* event = nullptr;
      if (rdma_get_cm_event(channel_.get(), &event) == 0) {
        std::unique_ptr<Incoming> incoming;
        if (event->event == RDMA_CM_EVENT_CONNECT_REQUEST) {
          std::string data(static_cast<const char*>(event->param.conn.private_data),
                           event->param.conn.private_data_len);
          incoming = std::make_unique<VerbsIncoming>(CmId(event->id), std::move(data), pd_, events_,
                                                     tuning_, fabric_);
        }
        rdma_ack_cm_event(event);
        if (incoming) return incoming;
        continue;
      }
      if (errno != EAGAIN && errno != EINTR) return ErrnoStatus("wait for connections");
      pollfd poller = {channel_->fd, POLLIN, 0};
      if (::poll(&poller, 1, static_cast<int>(deadline.Left().count())) < 0 && errno != EINTR)
        return ErrnoStatus("poll");
      if (poller.revents == 0 && deadline.Passed())
        return absl::DeadlineExceededError("no connection was asked for");
    }
  }

 private:
  EventChannel channel_;
  CmId id_;
  ibv_pd* pd_;
  VerbsEvents& events_;
  const VerbsTuning tuning_;
  Fabric& fabric_;
};

// Connects queue pairs that were introduced to each other over TCP.
class VerbsIntroducer {
 public:
  VerbsIntroducer(ibv_context* context, const VerbsPort& port, ibv_pd* pd, VerbsEvents& events,
                  const VerbsTuning& tuning, Fabric& fabric)
      : context_(context),
        port_(port),
        pd_(pd),
        events_(events),
        tuning_(tuning),
        fabric_(fabric) {}

  absl::StatusOr<std::unique_ptr<Connection>> Connect(const std::string& address, uint16_t port,
                                                      absl::string_view private_data,
                                                      Deadline deadline) {
    ASSIGN_OR_RETURN(Introduction introduction, Introduction::Connect(address, port, deadline));
    ASSIGN_OR_RETURN(Unconnected made, MakePair());
    ASSIGN_OR_RETURN(const QueuePairAddress peer,
                     introduction.Ask(made.queue_pair->OwnAddress(port_), private_data, deadline));
    RETURN_IF_ERROR(
        made.queue_pair->ConnectTo(port_, peer, Describe(introduction, *made.queue_pair)));
    RETURN_IF_ERROR(introduction.SayReady(deadline));
    made.queue_pair->SetMade();
    made.queue_pair->WatchPeer(introduction.Release());
    return std::unique_ptr<Connection>(std::move(made.connection));
  }

  absl::StatusOr<std::unique_ptr<Connection>> Accept(Introduction introduction,
                                                     const QueuePairAddress& peer,
                                                     Deadline deadline) {
    ASSIGN_OR_RETURN(Unconnected made, MakePair());
    RETURN_IF_ERROR(
        made.queue_pair->ConnectTo(port_, peer, Describe(introduction, *made.queue_pair)));
    RETURN_IF_ERROR(introduction.Accept(made.queue_pair->OwnAddress(port_), deadline));
    made.queue_pair->WatchPeer(introduction.Release());
    return std::unique_ptr<Connection>(std::move(made.connection));
  }

 private:
  absl::StatusOr<Unconnected> MakePair() {
    ASSIGN_OR_RETURN(std::unique_ptr<VerbsQueuePair> queue_pair,
                     VerbsQueuePair::Make(context_, port_, pd_, events_, tuning_));
    return MakeConnection(std::move(queue_pair), fabric_);
  }
  std::string Describe(const Introduction& introduction, const VerbsQueuePair& queue_pair) const {
    return absl::StrCat(introduction.description(), " (", fabric_.device(), ", queue pair ",
                        queue_pair.number(), ")");
  }

  ibv_context* context_;
  const VerbsPort port_;
  ibv_pd* pd_;
  VerbsEvents& events_;
  const VerbsTuning tuning_;
  Fabric& fabric_;
};

// Of type 2: bound to a queue pair by a work request.
bool HasWindows(ibv_context* context, ibv_pd* pd) {
  constexpr unsigned kTypeTwo = IBV_DEVICE_MEM_WINDOW_TYPE_2A | IBV_DEVICE_MEM_WINDOW_TYPE_2B;
  ibv_device_attr device = {};
  if (ibv_query_device(context, &device) != 0 || (device.device_cap_flags & kTypeTwo) == 0)
    return false;
  // Some say so and have none.
  return MemoryWindow(ibv_alloc_mw(pd, IBV_MW_TYPE_2)) != nullptr;
}

class VerbsFabric final : public Fabric {
 public:
  // With a port, queue pairs are introduced over TCP.
  VerbsFabric(DeviceList devices, DeviceContext own, ibv_context* context,
              uint64_t max_region_bytes, ProtectionDomain pd, std::unique_ptr<VerbsEvents> events,
              const VerbsOptions& options, const std::optional<VerbsPort>& port)
      : tuning_(TuningOf(ConnectionTuning(), options)),
        devices_(std::move(devices)),
        own_(std::move(own)),
        context_(context),
        max_region_bytes_(max_region_bytes),
        pd_(std::move(pd)),
        events_(std::move(events)),
        device_(ibv_get_device_name(context->device)) {
    windows_ = options.windows && HasWindows(context_, pd_.get());
    if (port) introducer_.emplace(context_, *port, pd_.get(), *events_, tuning_, *this);
  }

  // Introduced over TCP, its queue pairs are connected to those of the provider "roce".
  const char* name() const override { return introducer_ ? "roce" : "verbs"; }
  const std::string& device() const override { return device_; }
  uint64_t max_region_bytes() const override { return max_region_bytes_; }
  bool windows() const override { return windows_; }

  absl::StatusOr<std::unique_ptr<MemoryRegion>> Register(std::span<std::byte> memory,
                                                         Access access) override {
    if (memory.empty() || memory.size() > max_region_bytes_) {
      return absl::OutOfRangeError(absl::StrCat("a region of ", memory.size(),
                                                " bytes cannot be registered with ", device_,
                                                ": at most ", max_region_bytes_));
    }
    int flags = IBV_ACCESS_LOCAL_WRITE;
    if (access == Access::kRemoteWrite) flags |= IBV_ACCESS_REMOTE_WRITE;
    if (access == Access::kRemoteRead) flags |= IBV_ACCESS_REMOTE_READ;
    if (access == Access::kWindow) flags |= IBV_ACCESS_MW_BIND;
    Region region(ibv_reg_mr(pd_.get(), memory.data(), memory.size(), flags));
    if (!region) {
      return ErrnoStatus(
          absl::StrCat("register ", memory.size(), " bytes with ", device_,
                       " (is there memory, and is the limit of locked memory high enough?)"));
    }
    return std::make_unique<VerbsRegion>(memory, std::move(region));
  }

  absl::StatusOr<std::unique_ptr<Listener>> Listen(const std::string& address,
                                                   uint16_t port) override {
    if (introducer_) return ListenForIntroductions(address, port, *introducer_);
    ASSIGN_OR_RETURN(EventChannel channel, NewChannel());
    ASSIGN_OR_RETURN(CmId id, NewId(channel.get()));
    ASSIGN_OR_RETURN(sockaddr_in local, Resolve(address, port));
    const std::string where = absl::StrCat(address, ":", port);
    if (rdma_bind_addr(id.get(), reinterpret_cast<sockaddr*>(&local)) != 0)
      return ErrnoStatus(absl::StrCat("bind ", where));
    RETURN_IF_ERROR(CheckDevice(id.get(), where));
    if (rdma_listen(id.get(), kBacklog) != 0) return ErrnoStatus(absl::StrCat("listen on ", where));
    return std::make_unique<VerbsListener>(std::move(channel), std::move(id), pd_.get(), *events_,
                                           tuning_, *this);
  }

  absl::StatusOr<std::unique_ptr<Connection>> Connect(const std::string& address, uint16_t port,
                                                      absl::string_view private_data,
                                                      Deadline deadline) override {
    RETURN_IF_ERROR(QueuePairConnection::CheckPrivateData(private_data));
    if (introducer_) return introducer_->Connect(address, port, private_data, deadline);
    const std::string what = absl::StrCat("connect to ", address, ":", port, " over ", device_);
    ASSIGN_OR_RETURN(EventChannel channel, NewChannel());
    ASSIGN_OR_RETURN(CmId id, NewId(channel.get()));
    ASSIGN_OR_RETURN(sockaddr_in remote, Resolve(address, port));
    const int timeout = static_cast<int>(deadline.Left().count());
    if (rdma_resolve_addr(id.get(), nullptr, reinterpret_cast<sockaddr*>(&remote), timeout) != 0)
      return ErrnoStatus(what);
    RETURN_IF_ERROR(AwaitCmEvent(channel.get(), RDMA_CM_EVENT_ADDR_RESOLVED, deadline, what));
    RETURN_IF_ERROR(CheckDevice(id.get(), what));
    if (rdma_resolve_route(id.get(), timeout) != 0) return ErrnoStatus(what);
    RETURN_IF_ERROR(AwaitCmEvent(channel.get(), RDMA_CM_EVENT_ROUTE_RESOLVED, deadline, what));
    ASSIGN_OR_RETURN(Unconnected made, MakeConnection(std::move(channel), std::move(id), pd_.get(),
                                                      *events_, tuning_, *this));
    RETURN_IF_ERROR(made.queue_pair->Connect(private_data, deadline, what));
    return std::unique_ptr<Connection>(std::move(made.connection));
  }

 private:
  absl::StatusOr<CmId> NewId(rdma_event_channel* channel) const {
    rdma_cm_id* id = nullptr;
    if (rdma_create_id(channel, &id, nullptr, RDMA_PS_TCP) != 0)
      return ErrnoStatus("make a connection id");
    CmId made(id);
    // Of the manager's own packets too; and the service level is made of it.
    uint8_t traffic_class = tuning_.traffic_class;
    if (traffic_class != 0 && rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_TOS,
                                              &traffic_class, sizeof(traffic_class)) != 0) {
      return ErrnoStatus(absl::StrCat("set traffic class ", traffic_class));
    }
    return made;
  }

  // librdmacm chooses the device by the address.
  absl::Status CheckDevice(const rdma_cm_id* id, const std::string& what) const {
    if (id->verbs == context_) return absl::OkStatus();
    const char* other =
        id->verbs != nullptr ? ibv_get_device_name(id->verbs->device) : "no RDMA device";
    return absl::FailedPreconditionError(absl::StrCat(what, ": the address belongs to ", other,
                                                      ", not to ", device_,
                                                      ": mend data.device or data.listen"));
  }

  const VerbsTuning tuning_;
  DeviceList devices_;    // librdmacm's
  DeviceContext own_;     // without a connection manager
  ibv_context* context_;  // one of the two above
  uint64_t max_region_bytes_;
  ProtectionDomain pd_;
  std::unique_ptr<VerbsEvents> events_;
  std::string device_;
  bool windows_ = false;
  std::optional<VerbsIntroducer> introducer_;
};

std::vector<uint8_t> ActivePorts(ibv_context* context) {
  std::vector<uint8_t> active;
  ibv_device_attr device = {};
  if (ibv_query_device(context, &device) != 0) return active;
  for (uint8_t port = 1; port <= device.phys_port_cnt; ++port) {
    ibv_port_attr attributes = {};
    if (ibv_query_port(context, port, &attributes) == 0 && attributes.state == IBV_PORT_ACTIVE)
      active.push_back(port);
  }
  return active;
}

// That one of the ports has it. The connection manager chooses the port only later.
absl::Status CheckPartition(ibv_context* context, uint16_t partition) {
  absl::Status without;
  for (const uint8_t port : ActivePorts(context)) {
    without = FindPartition(context, port, partition).status();
    if (without.ok()) break;
  }
  return without;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Fabric>> OpenVerbs(const VerbsOptions& options) {
  const std::string& device = options.device;
  int count = 0;
  DeviceList contexts(rdma_get_devices(&count));
  ibv_context* chosen = nullptr;
  std::string known;
  for (int i = 0; contexts != nullptr && i < count; ++i) {
    const std::string name = ibv_get_device_name(contexts[i]->device);
    absl::StrAppend(&known, known.empty() ? "" : ", ", name);
    if (chosen == nullptr && (device.empty() ? !ActivePorts(contexts[i]).empty() : name == device))
      chosen = contexts[i];
  }
  if (chosen == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(
        "no RDMA device", device.empty() ? " with an active port" : absl::StrCat(" named ", device),
        " (devices: ", known.empty() ? "none" : known,
        "): name one of `ibv_devices` as data.device, or make a SoftRoCE one: rdma link add rxe0 "
        "type rxe netdev DEVICE"));
  }
  if (options.partition != 0) RETURN_IF_ERROR(CheckPartition(chosen, options.partition));
  // librdmacm's context is one for the whole process, and an event is heard by one reader only:
  // without the connection manager the device is opened once more.
  DeviceContext own;
  if (options.connect == VerbsConnect::kIntroduction) {
    own.reset(ibv_open_device(chosen->device));
    if (!own) return ErrnoStatus(absl::StrCat("open ", ibv_get_device_name(chosen->device)));
    chosen = own.get();
  }
  ASSIGN_OR_RETURN(std::unique_ptr<VerbsEvents> events, VerbsEvents::Watch(chosen));
  ProtectionDomain pd(ibv_alloc_pd(chosen));
  if (!pd) return ErrnoStatus("allocate a protection domain");
  ibv_device_attr attributes = {};
  if (const int error = ibv_query_device(chosen, &attributes); error != 0) {
    return ErrnoStatus(error, absl::StrCat("query ", ibv_get_device_name(chosen->device)));
  }
  const uint64_t max_region_bytes = std::min<uint64_t>(attributes.max_mr_size, kMaxRegionBytes);
  std::optional<VerbsPort> port;
  if (options.connect == VerbsConnect::kIntroduction) {
    ASSIGN_OR_RETURN(port, FindVerbsPort(chosen));
  }
  return std::make_unique<VerbsFabric>(std::move(contexts), std::move(own), chosen,
                                       max_region_bytes, std::move(pd), std::move(events), options,
                                       port);
}

}  // namespace starling::transport
