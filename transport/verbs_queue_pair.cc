#include "transport/verbs_queue_pair.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "transport/sockets.h"

namespace starling::transport {
namespace {

// What rxe calls its vendor.
constexpr uint32_t kRxeVendor = 0xffffff;

// A reject with this reason (IB specification, table "REJ reason codes") means that nobody listens;
// ours is 28.
constexpr int kInvalidServiceId = 8;
constexpr int kConsumerReject = 28;

// Of a partition key; the bit above says whether its holder is a full member.
constexpr uint16_t kPartitionBits = 0x7fff;

// How long the destructor waits for the device to have forgotten windows, which it does at once
// unless it stands behind operations that wait for the peer.
constexpr auto kForget = std::chrono::milliseconds(100);
constexpr uint64_t kForgetId = ~uint64_t{0};

// Completion events are acknowledged in bunches, since each acknowledgement takes a mutex.
constexpr unsigned kAcknowledgeEvery = 1024;

bool IsRxe(ibv_context* context) {
  ibv_device_attr device = {};
  return ibv_query_device(context, &device) == 0 && device.vendor_id == kRxeVendor;
}

uint32_t MtuBytes(ibv_mtu mtu) { return 128u << mtu; }

ibv_wr_opcode Opcode(Operation operation) {
  switch (operation) {
    case Operation::kWrite:
      return IBV_WR_RDMA_WRITE;
    case Operation::kRead:
      return IBV_WR_RDMA_READ;
    case Operation::kMessage:
      return IBV_WR_SEND;
    case Operation::kWriteImmediate:
      return IBV_WR_RDMA_WRITE_WITH_IMM;
    case Operation::kBind:
      return IBV_WR_BIND_MW;
  }
  return IBV_WR_SEND;
}

}  // namespace

absl::Status AwaitCmEvent(rdma_event_channel* channel, rdma_cm_event_type wanted, Deadline deadline,
                          absl::string_view what) {
  while (true) {
    rdma_cm_event* event = nullptr;
    if (rdma_get_cm_event(channel, &event) == 0) {
      const rdma_cm_event_type type = event->event;
      const int status = event->status;
      rdma_ack_cm_event(event);
      if (type == wanted) return absl::OkStatus();
      if (type == RDMA_CM_EVENT_REJECTED && status == kInvalidServiceId) {
        return absl::UnavailableError(absl::StrCat(what, ": nobody listens there"));
      }
      if (type == RDMA_CM_EVENT_REJECTED && status == kConsumerReject) {
        return absl::PermissionDeniedError(absl::StrCat(what, ": the peer refused"));
      }
      return absl::UnavailableError(
          absl::StrCat(what, ": ", rdma_event_str(type), " (", status, ")"));
    }
    if (errno != EAGAIN && errno != EINTR) return ErrnoStatus(what);
    pollfd poller = {channel->fd, POLLIN, 0};
    const int ready = ::poll(&poller, 1, static_cast<int>(deadline.Left().count()));
    if (ready < 0 && errno != EINTR) return ErrnoStatus(what);
    if (ready <= 0 && deadline.Passed()) {
      return absl::DeadlineExceededError(absl::StrCat(what, ": no answer in time"));
    }
  }
}

absl::Status SetNonBlocking(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
    return ErrnoStatus("make a descriptor non-blocking");
  }
  return absl::OkStatus();
}

absl::StatusOr<VerbsPort> FindVerbsPort(ibv_context* context) {
  ibv_device_attr device = {};
  if (const int error = ibv_query_device(context, &device); error != 0)
    return ErrnoStatus(error, "query the device");
  for (uint8_t number = 1; number <= device.phys_port_cnt; ++number) {
    ibv_port_attr port = {};
    if (ibv_query_port(context, number, &port) != 0 || port.state != IBV_PORT_ACTIVE) continue;
    for (int i = 0; i < port.gid_tbl_len; ++i) {
      ibv_gid_entry gid = {};
      if (ibv_query_gid_ex(context, number, static_cast<uint32_t>(i), &gid, 0) != 0 ||
          gid.gid_type != IBV_GID_TYPE_ROCE_V2 ||
          !IN6_IS_ADDR_V4MAPPED(reinterpret_cast<const in6_addr*>(gid.gid.raw))) {
        continue;
      }
      uint32_t ip = 0;
      std::memcpy(&ip, gid.gid.raw + 12, sizeof(ip));
      return VerbsPort{.number = number,
                       .gid_index = i,
                       .ip = ntohl(ip),
                       .mtu = 128u << static_cast<unsigned>(port.active_mtu)};
    }
  }
  return absl::FailedPreconditionError(
      absl::StrCat(ibv_get_device_name(context->device),
                   " has no active port with RoCEv2 and an IPv4 address, without which queue pairs "
                   "cannot be introduced over TCP"));
}

absl::StatusOr<uint16_t> FindPartition(ibv_context* context, uint8_t number, uint16_t partition) {
  ibv_port_attr port = {};
  if (const int error = ibv_query_port(context, number, &port); error != 0)
    return ErrnoStatus(error, absl::StrCat("query port ", number));
  std::string known;
  for (int i = 0; i < port.pkey_tbl_len; ++i) {
    __be16 key = 0;
    if (ibv_query_pkey(context, number, i, &key) != 0 || key == 0) continue;
    if (ntohs(key) == partition) return static_cast<uint16_t>(i);
    absl::StrAppend(&known, known.empty() ? "" : ", ", ntohs(key));
  }
  return absl::FailedPreconditionError(absl::StrCat(
      ibv_get_device_name(context->device), ", port ", number, ", is not in partition ", partition,
      " (it is in: ", known.empty() ? "none" : known,
      "): name one of these, or have the subnet manager put it there"));
}

VerbsQueuePair::VerbsQueuePair(EventChannel channel, CmId id, ibv_context* context,
                               VerbsEvents& events, const VerbsTuning& tuning)
    : tuning_(tuning),
      channel_(std::move(channel)),
      id_(std::move(id)),
      context_(context),
      device_events_(events) {}

absl::StatusOr<std::unique_ptr<VerbsQueuePair>> VerbsQueuePair::Make(EventChannel channel, CmId id,
                                                                     ibv_pd* pd,
                                                                     VerbsEvents& events,
                                                                     const VerbsTuning& tuning) {
  ibv_context* const context = id->verbs;
  auto made = std::unique_ptr<VerbsQueuePair>(
      new VerbsQueuePair(std::move(channel), std::move(id), context, events, tuning));
  RETURN_IF_ERROR(made->MakeQueues(pd));
  made->Describe();
  RETURN_IF_ERROR(made->Advance(IBV_QPS_INIT, "prepare"));
  return made;
}

absl::StatusOr<std::unique_ptr<VerbsQueuePair>> VerbsQueuePair::Make(ibv_context* context,
                                                                     const VerbsPort& port,
                                                                     ibv_pd* pd,
                                                                     VerbsEvents& events,
                                                                     const VerbsTuning& tuning) {
  auto made = std::unique_ptr<VerbsQueuePair>(
      new VerbsQueuePair(nullptr, nullptr, context, events, tuning));
  VerbsQueuePair& self = *made;
  RETURN_IF_ERROR(self.MakeQueues(pd));
  self.description_ =
      absl::StrCat(ibv_get_device_name(context->device), ", queue pair ", self.queues_->qp_num);
  self.port_ = port.number;
  self.psn_ = std::random_device()() & 0xffffff;
  ibv_qp_attr attributes = {};
  attributes.qp_state = IBV_QPS_INIT;
  attributes.pkey_index = 0;
  if (tuning.partition != 0) {
    ASSIGN_OR_RETURN(attributes.pkey_index, FindPartition(context, port.number, tuning.partition));
  }
  __be16 key = 0;
  if (ibv_query_pkey(context, port.number, attributes.pkey_index, &key) != 0)
    return ErrnoStatus(absl::StrCat(self.description_, ": query the partition key"));
  self.partition_ = ntohs(key);
  attributes.port_num = port.number;
  attributes.qp_access_flags =
      IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
  if (const int error =
          ibv_modify_qp(self.queues_.get(), &attributes,
                        IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
      error != 0) {
    return ErrnoStatus(error, absl::StrCat(self.description_, ": prepare the queue pair"));
  }
  return made;
}

absl::Status VerbsQueuePair::MakeQueues(ibv_pd* pd) {
  wake_.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) return ErrnoStatus("eventfd");
  events_.reset(ibv_create_comp_channel(context_));
  if (!events_) return ErrnoStatus("create a completion channel");
  RETURN_IF_ERROR(SetNonBlocking(events_->fd));
  const int entries = static_cast<int>(tuning_.send_depth + tuning_.receive_depth);
  completions_.reset(ibv_create_cq(context_, entries, nullptr, events_.get(), 0));
  if (!completions_)
    return ErrnoStatus(absl::StrCat("create a completion queue of ", entries, " entries"));

  ibv_qp_init_attr attributes = {};
  attributes.send_cq = completions_.get();
  attributes.recv_cq = completions_.get();
  attributes.qp_type = IBV_QPT_RC;
  attributes.cap.max_send_wr = tuning_.send_depth;
  attributes.cap.max_recv_wr = tuning_.receive_depth;
  attributes.cap.max_send_sge = kMaxPieces;
  attributes.cap.max_recv_sge = 1;
  attributes.cap.max_inline_data = tuning_.inline_bytes;
  queues_.reset(ibv_create_qp(pd, &attributes));
  if (!queues_) {
    return ErrnoStatus(absl::StrCat("create a queue pair of ", tuning_.send_depth, " sends with ",
                                    kMaxPieces, " pieces and ", tuning_.receive_depth,
                                    " receives"));
  }
  device_events_.Add(this);
  return absl::OkStatus();
}

QueuePairAddress VerbsQueuePair::OwnAddress(const VerbsPort& port) const {
  return {.ip = port.ip,
          .number = queues_->qp_num,
          .psn = psn_,
          .mtu = port.mtu,
          .reads = Parameters().responder_resources,
          .partition = partition_};
}

absl::Status VerbsQueuePair::ConnectTo(const VerbsPort& port, const QueuePairAddress& peer,
                                       const std::string& description) {
  description_ = description;
  // Packets of another partition are dropped without a word.
  if ((peer.partition & kPartitionBits) != (partition_ & kPartitionBits)) {
    return absl::FailedPreconditionError(absl::StrCat(description_, ": the peer is in partition ",
                                                      peer.partition, ", this side in ",
                                                      partition_));
  }
  const auto reads = std::min(Parameters().initiator_depth, peer.reads);
  ibv_qp_attr attributes = {};
  attributes.qp_state = IBV_QPS_RTR;
  attributes.path_mtu = static_cast<ibv_mtu>(std::countr_zero(std::min(port.mtu, peer.mtu)) - 7);
  attributes.dest_qp_num = peer.number;
  attributes.rq_psn = peer.psn;
  attributes.max_dest_rd_atomic = Parameters().responder_resources;
  attributes.min_rnr_timer = tuning_.min_rnr_timer;
  attributes.ah_attr.is_global = 1;
  attributes.ah_attr.port_num = port.number;
  attributes.ah_attr.grh.sgid_index = static_cast<uint8_t>(port.gid_index);
  attributes.ah_attr.grh.hop_limit = 64;
  attributes.ah_attr.grh.traffic_class = tuning_.traffic_class;
  uint8_t* const gid = attributes.ah_attr.grh.dgid.raw;
  gid[10] = gid[11] = 0xff;
  const uint32_t ip = htonl(peer.ip);
  std::memcpy(gid + 12, &ip, sizeof(ip));
  // Here the kernel asks for the peer's hardware address.
  if (const int error =
          ibv_modify_qp(queues_.get(), &attributes,
                        IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                            IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
      error != 0) {
    return ErrnoStatus(error, absl::StrCat(description_, ": make the queue pair ready to receive"));
  }
  attributes = {};
  attributes.qp_state = IBV_QPS_RTS;
  attributes.timeout = IsRxe(context_) ? tuning_.rxe_ack_timeout : tuning_.ack_timeout;
  attributes.retry_cnt = tuning_.retries;
  attributes.rnr_retry = tuning_.rnr_retries;
  attributes.sq_psn = psn_;
  attributes.max_rd_atomic = std::max<uint8_t>(1, reads);
  if (const int error =
          ibv_modify_qp(queues_.get(), &attributes,
                        IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                            IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
      error != 0) {
    return ErrnoStatus(error, absl::StrCat(description_, ": make the queue pair ready to send"));
  }
  LogAttributes();
  return absl::OkStatus();
}

VerbsQueuePair::~VerbsQueuePair() {
  // First the queue pair, so that nothing is sent any more that the peer could take for part of the
  // conversation.
  if (queues_ != nullptr) {
    device_events_.Remove(this);
    InvalidateWindows();
    ibv_qp_attr attributes = {};
    attributes.qp_state = IBV_QPS_ERR;
    (void)ibv_modify_qp(queues_.get(), &attributes, IBV_QP_STATE);
  }
  ibv_port_attr port = {};
  if (active_ && ibv_query_port(context_, port_, &port) == 0 && port.state != IBV_PORT_ACTIVE) {
    device_events_.Keep(std::move(channel_), std::move(id_));
  } else if (active_) {
    (void)rdma_disconnect(id_.get());
  }
  if (events_unacknowledged_ > 0) ibv_ack_cq_events(completions_.get(), events_unacknowledged_);
}

void VerbsQueuePair::Describe() {
  description_ =
      absl::StrCat(AddressText(rdma_get_local_addr(id_.get())), " -> ",
                   AddressText(rdma_get_peer_addr(id_.get())), " (",
                   ibv_get_device_name(id_->verbs->device), ", queue pair ", queues_->qp_num, ")");
}

// For a person who wonders which of the numbers the device has taken.
void VerbsQueuePair::LogAttributes() const {
  ibv_qp_attr attributes = {};
  ibv_qp_init_attr initial = {};
  const int mask = IBV_QP_PATH_MTU | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                   IBV_QP_MIN_RNR_TIMER | IBV_QP_AV | IBV_QP_CAP | IBV_QP_PKEY_INDEX | IBV_QP_PORT;
  __be16 key = 0;
  if (ibv_query_qp(queues_.get(), &attributes, mask, &initial) != 0 ||
      ibv_query_pkey(context_, attributes.port_num, attributes.pkey_index, &key) != 0) {
    return;
  }
  spdlog::debug(
      "{}: peer's queue pair {}, path MTU {}, GID {}, timeout {}, retries {}, RNR retries {}, min "
      "RNR timer {}, partition {}, traffic class {}",
      description_, attributes.dest_qp_num, MtuBytes(attributes.path_mtu),
      attributes.ah_attr.grh.sgid_index, attributes.timeout, attributes.retry_cnt,
      attributes.rnr_retry, attributes.min_rnr_timer, ntohs(key),
      attributes.ah_attr.grh.traffic_class);
}

absl::Status VerbsQueuePair::Advance(ibv_qp_state state, absl::string_view what) {
  ibv_qp_attr attributes = {};
  attributes.qp_state = state;
  int mask = 0;
  if (rdma_init_qp_attr(id_.get(), &attributes, &mask) != 0) {
    return ErrnoStatus(absl::StrCat(what, ": ", description_, ": ask for queue pair attributes"));
  }
  if (state == IBV_QPS_INIT) {
    attributes.qp_access_flags =
        IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
    mask |= IBV_QP_ACCESS_FLAGS;
    if (tuning_.partition != 0) {
      ASSIGN_OR_RETURN(attributes.pkey_index,
                       FindPartition(context_, attributes.port_num, tuning_.partition));
    }
  }
  if (state == IBV_QPS_RTR) {
    port_ = id_->port_num;
    // The side that was asked would otherwise send with what the request says, as if both wanted
    // it.
    if (tuning_.traffic_class != 0) attributes.ah_attr.grh.traffic_class = tuning_.traffic_class;
    ibv_port_attr port = {};
    if (ibv_query_port(id_->verbs, id_->port_num, &port) != 0) {
      return ErrnoStatus(absl::StrCat(what, ": query port ", id_->port_num));
    }
    attributes.path_mtu = std::min(attributes.path_mtu, port.active_mtu);
    attributes.min_rnr_timer = tuning_.min_rnr_timer;
    mask |= IBV_QP_MIN_RNR_TIMER;
    ibv_gid_entry gid = {};
    if (port.link_layer == IBV_LINK_LAYER_ETHERNET &&
        ibv_query_gid_ex(id_->verbs, id_->port_num, attributes.ah_attr.grh.sgid_index, &gid, 0) ==
            0 &&
        gid.gid_type != IBV_GID_TYPE_ROCE_V2) {
      return absl::FailedPreconditionError(
          absl::StrCat(what, ": ", description_, ": GID ", attributes.ah_attr.grh.sgid_index,
                       " of the address is not a RoCEv2 one; set default_roce_mode of the RDMA "
                       "connection manager to "
                       "\"RoCE v2\""));
    }
  }
  if (state == IBV_QPS_RTS) {
    attributes.timeout = IsRxe(id_->verbs) ? tuning_.rxe_ack_timeout : tuning_.ack_timeout;
    attributes.retry_cnt = tuning_.retries;
    attributes.rnr_retry = tuning_.rnr_retries;
    mask |= IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY;
  }
  if (const int error = ibv_modify_qp(queues_.get(), &attributes, mask); error != 0) {
    return ErrnoStatus(
        error, absl::StrCat(what, ": ", description_, ": bring the queue pair to state ", state));
  }
  return absl::OkStatus();
}

rdma_conn_param VerbsQueuePair::Parameters() const {
  ibv_device_attr device = {};
  uint8_t reads = 1;
  if (ibv_query_device(context_, &device) == 0) {
    reads = static_cast<uint8_t>(std::clamp<int>(
        std::min(device.max_qp_rd_atom, device.max_qp_init_rd_atom), 1, tuning_.read_depth));
  }
  rdma_conn_param parameters = {};
  parameters.responder_resources = reads;
  parameters.initiator_depth = reads;
  parameters.retry_count = tuning_.retries;
  parameters.rnr_retry_count = tuning_.rnr_retries;
  parameters.qp_num = queues_->qp_num;
  return parameters;
}

absl::Status VerbsQueuePair::Connect(absl::string_view private_data, Deadline deadline,
                                     absl::string_view what) {
  rdma_conn_param parameters = Parameters();
  parameters.private_data = private_data.data();
  parameters.private_data_len = static_cast<uint8_t>(private_data.size());
  if (rdma_connect(id_.get(), &parameters) != 0) return ErrnoStatus(what);
  active_ = true;
  made_ = true;
  // The manager leaves the last step to us, since it does not know our queue pair.
  RETURN_IF_ERROR(AwaitCmEvent(channel_.get(), RDMA_CM_EVENT_CONNECT_RESPONSE, deadline, what));
  RETURN_IF_ERROR(Advance(IBV_QPS_RTR, what));
  RETURN_IF_ERROR(Advance(IBV_QPS_RTS, what));
  if (rdma_establish(id_.get()) != 0) return ErrnoStatus(what);
  Describe();
  LogAttributes();
  return absl::OkStatus();
}

absl::Status VerbsQueuePair::Accept(Deadline deadline, absl::string_view what) {
  RETURN_IF_ERROR(Advance(IBV_QPS_RTR, what));
  RETURN_IF_ERROR(Advance(IBV_QPS_RTS, what));
  rdma_conn_param parameters = Parameters();
  if (rdma_accept(id_.get(), &parameters) != 0) return ErrnoStatus(what);
  active_ = true;
  RETURN_IF_ERROR(AwaitCmEvent(channel_.get(), RDMA_CM_EVENT_ESTABLISHED, deadline, what));
  LogAttributes();
  return absl::OkStatus();
}

absl::Status VerbsQueuePair::Post(std::span<const WorkRequest> requests) {
  for (size_t i = 0; i < requests.size(); ++i) {
    const WorkRequest& request = requests[i];
    ibv_send_wr& wr = requests_[i];
    std::memset(&wr, 0, sizeof(wr));
    uint64_t bytes = 0;
    for (uint32_t p = 0; p < request.piece_count; ++p) {
      pieces_[i][p] = {request.pieces[p].address, request.pieces[p].bytes,
                       request.pieces[p].local_key};
      bytes += request.pieces[p].bytes;
    }
    wr.wr_id = request.id;
    wr.sg_list = pieces_[i].data();
    wr.num_sge = static_cast<int>(request.piece_count);
    wr.opcode = Opcode(request.operation);
    wr.send_flags = request.signalled ? IBV_SEND_SIGNALED : 0;
    if (request.operation == Operation::kBind) {
      const BoundWindow& bound = windows_[request.window];
      wr.sg_list = nullptr;
      wr.bind_mw.mw = bound.window.get();
      wr.bind_mw.rkey = bound.remote_key;
      wr.bind_mw.bind_info = {bound.region->handle(), bound.region->remote_address(),
                              bound.region->span().size(), bound.access};
    } else if (request.operation == Operation::kMessage) {
      if (bytes <= tuning_.inline_bytes) wr.send_flags |= IBV_SEND_INLINE;
    } else {
      wr.wr.rdma.remote_addr = request.remote_address;
      wr.wr.rdma.rkey = request.remote_key;
    }
    wr.imm_data = htonl(request.immediate);
    wr.next = i + 1 < requests.size() ? &requests_[i + 1] : nullptr;
  }
  ibv_send_wr* bad = nullptr;
  if (const int error = ibv_post_send(queues_.get(), requests_.data(), &bad); error != 0) {
    return ErrnoStatus(error, absl::StrCat(description_, ": post work requests"));
  }
  return absl::OkStatus();
}

absl::StatusOr<QueuePair::Window> VerbsQueuePair::MakeWindow(const MemoryRegion& region,
                                                             Access access) {
  // Of the same fabric, and so of this kind.
  const auto& own = static_cast<const VerbsRegion&>(region);
  MemoryWindow window(ibv_alloc_mw(queues_->pd, IBV_MW_TYPE_2));
  if (!window)
    return ErrnoStatus(absl::StrCat(description_, ": allocate memory window ", windows_.size()));
  const uint32_t key = ibv_inc_rkey(window->rkey);
  windows_.push_back(
      {std::move(window), key, &own,
       static_cast<unsigned int>(access == Access::kRemoteRead ? IBV_ACCESS_REMOTE_READ
                                                               : IBV_ACCESS_REMOTE_WRITE)});
  return Window{static_cast<uint32_t>(windows_.size() - 1), key};
}

void VerbsQueuePair::InvalidateWindows() {
  if (windows_.empty()) return;
  const TimePoint until = Clock::now() + kForget;
  for (size_t i = 0; i < windows_.size(); ++i) {
    ibv_send_wr request = {};
    request.opcode = IBV_WR_LOCAL_INV;
    request.invalidate_rkey = windows_[i].remote_key;
    // One at a time: the send queue may have little room.
    request.wr_id = kForgetId;
    request.send_flags = IBV_SEND_SIGNALED;
    ibv_send_wr* bad = nullptr;
    // What fails here ends when the window is given back.
    if (ibv_post_send(queues_.get(), &request, &bad) != 0) return;
    ibv_wc done = {};
    do {
      if (ibv_poll_cq(completions_.get(), 1, &done) <= 0 && Clock::now() > until) return;
    } while (done.wr_id != kForgetId);
    if (done.status != IBV_WC_SUCCESS) return;
  }
}

absl::Status VerbsQueuePair::PostReceive(uint64_t id, const Piece& buffer) {
  ibv_sge piece = {buffer.address, buffer.bytes, buffer.local_key};
  ibv_recv_wr request = {};
  request.wr_id = id;
  request.sg_list = &piece;
  request.num_sge = 1;
  ibv_recv_wr* bad = nullptr;
  if (const int error = ibv_post_recv(queues_.get(), &request, &bad); error != 0) {
    return ErrnoStatus(error, absl::StrCat(description_, ": post a receive"));
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> VerbsQueuePair::Poll(std::span<WorkCompletion> completions) {
  std::array<ibv_wc, 32> polled;
  const int n =
      ibv_poll_cq(completions_.get(), static_cast<int>(std::min(polled.size(), completions.size())),
                  polled.data());
  if (n < 0)
    return absl::InternalError(absl::StrCat(description_, ": the completion queue failed"));
  // What completed before is told first.
  if (const char* const why = event_; n == 0 && why != nullptr)
    return absl::UnavailableError(absl::StrCat(description_, ": ", why));
  for (int i = 0; i < n; ++i) {
    const ibv_wc& wc = polled[static_cast<size_t>(i)];
    WorkCompletion& completion = completions[static_cast<size_t>(i)];
    completion.id = wc.wr_id;
    completion.error = wc.status;
    // Of a failed one only its number and status are filled in.
    completion.received = wc.status == IBV_WC_SUCCESS && (wc.opcode & IBV_WC_RECV) != 0;
    completion.bytes = wc.status == IBV_WC_SUCCESS ? wc.byte_len : 0;
    completion.has_immediate = completion.received && (wc.wc_flags & IBV_WC_WITH_IMM) != 0;
    completion.immediate = completion.has_immediate ? ntohl(wc.imm_data) : 0;
    // A device counts the bytes that were written; they are not in the receive's buffer.
    if (completion.received && wc.opcode == IBV_WC_RECV_RDMA_WITH_IMM) completion.bytes = 0;
    completion.error_text = ibv_wc_status_str(wc.status);
  }
  return static_cast<size_t>(n);
}

absl::Status VerbsQueuePair::Arm() {
  if (const int error = ibv_req_notify_cq(completions_.get(), 0); error != 0) {
    return ErrnoStatus(error, absl::StrCat(description_, ": arm the completion queue"));
  }
  return absl::OkStatus();
}

absl::StatusOr<QueuePair::Event> VerbsQueuePair::Wait(Deadline deadline) {
  pollfd pollers[] = {{events_->fd, POLLIN, 0},
                      {channel_ != nullptr ? channel_->fd : peer_.get(), POLLIN, 0},
                      {wake_.get(), POLLIN, 0}};
  const int ready = ::poll(pollers, std::size(pollers), static_cast<int>(deadline.Left().count()));
  if (ready < 0) {
    if (errno == EINTR) return Event::kCompleted;
    return ErrnoStatus(absl::StrCat(description_, ": poll"));
  }
  if (pollers[0].revents != 0) {
    ibv_cq* queue = nullptr;
    void* context = nullptr;
    if (ibv_get_cq_event(events_.get(), &queue, &context) == 0 &&
        ++events_unacknowledged_ >= kAcknowledgeEvery) {
      ibv_ack_cq_events(completions_.get(), std::exchange(events_unacknowledged_, 0));
    }
    return Event::kCompleted;
  }
  if (pollers[1].revents != 0 && channel_ == nullptr) {
    peer_.Reset();
    return Event::kPeerGone;
  }
  if (pollers[1].revents != 0) {
    rdma_cm_event* event = nullptr;
    if (rdma_get_cm_event(channel_.get(), &event) == 0) {
      const rdma_cm_event_type type = event->event;
      rdma_ack_cm_event(event);
      if (type == RDMA_CM_EVENT_DISCONNECTED || type == RDMA_CM_EVENT_DEVICE_REMOVAL)
        return Event::kPeerGone;
    }
    return Event::kCompleted;
  }
  return Event::kNothing;
}

void VerbsQueuePair::Fail(const char* why) {
  event_ = why;
  Wake();
}

void VerbsQueuePair::Wake() { (void)::eventfd_write(wake_.get(), 1); }

}  // namespace starling::transport
