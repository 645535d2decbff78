#include "transport/queue_pair_connection.h"

#include <sched.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace starling::transport {
namespace {

// Receive buffers for messages that only return credit: two can be under way.
constexpr uint32_t kCreditSlots = 2;
// The list goes out at this size, so that the wire works while its sender still fills the next
// slab.
constexpr uint64_t kDoorbellBytes = 256 * 1024;
// The longest single operation of RDMA is 2^31 bytes.
constexpr size_t kMaxOperationBytes = 1u << 30;
// Reads under way, as many as devices commonly answer at a time.
constexpr uint64_t kReadsAtOnce = 16;
// A report is asked for after this many requests at the latest, so that the queue never fills up
// with requests that nothing gives back.
constexpr uint32_t kSignalEvery = 64;

// The first eight bytes of every message, little-endian: the count of messages taken, and in the
// highest bit whether there is nothing else to it.
constexpr size_t kHeaderBytes = sizeof(uint64_t);
constexpr uint64_t kOnlyCredit = uint64_t{1} << 63;
static_assert(std::endian::native == std::endian::little);

enum class Kind : uint64_t {
  kReceive = 1,
  kMessage = 2,
  kCredit = 3,
  kWrite = 4,
  kRead = 5,
  kBind = 6
};
constexpr uint64_t kKindShift = 56;

uint64_t WorkId(Kind kind, uint64_t slot) {
  return static_cast<uint64_t>(kind) << kKindShift | slot;
}
Kind KindOf(uint64_t id) { return static_cast<Kind>(id >> kKindShift); }
uint64_t SlotOf(uint64_t id) { return id & ((uint64_t{1} << kKindShift) - 1); }

const char* KindName(Kind kind) {
  switch (kind) {
    case Kind::kReceive:
      return "receive";
    case Kind::kMessage:
      return "message";
    case Kind::kCredit:
      return "credit message";
    case Kind::kWrite:
      return "RDMA write";
    case Kind::kRead:
      return "RDMA read";
    case Kind::kBind:
      return "binding of a memory window";
  }
  return "work request";
}

}  // namespace

QueuePairConnection::QueuePairConnection(std::unique_ptr<QueuePair> queue_pair,
                                         const ConnectionTuning& tuning)
    : tuning_(tuning),
      receive_slots_(ReceiveDepth(tuning)),
      send_slots_(tuning.messages + kCreditSlots),
      queue_pair_(std::move(queue_pair)),
      reported_(tuning.send_depth),
      arrived_(tuning.messages) {}

QueuePairConnection::~QueuePairConnection() = default;

absl::Status QueuePairConnection::CheckPrivateData(absl::string_view private_data) {
  if (private_data.size() <= kMaxPrivateData) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("private data has more than ", kMaxPrivateData, " bytes"));
}

uint32_t QueuePairConnection::ReceiveDepth(const ConnectionTuning& tuning) {
  return tuning.messages + kCreditSlots;
}

absl::StatusOr<std::unique_ptr<QueuePairConnection>> QueuePairConnection::Make(
    std::unique_ptr<QueuePair> queue_pair, Fabric& fabric, const ConnectionTuning& tuning) {
  if (tuning.messages < 2 || tuning.send_depth < 2 * kMaxList) {
    return absl::InvalidArgumentError(
        "a connection needs two messages and a send queue of two lists at least");
  }
  auto connection =
      std::unique_ptr<QueuePairConnection>(new QueuePairConnection(std::move(queue_pair), tuning));
  QueuePairConnection& self = *connection;
  self.buffers_.resize((self.receive_slots_ + self.send_slots_) * kMaxMessageBytes);
  ASSIGN_OR_RETURN(self.region_, fabric.Register(self.buffers_, Access::kLocal));
  self.free_send_slots_.reserve(self.send_slots_);
  for (uint64_t slot = self.send_slots_; slot > 0; --slot) {
    self.free_send_slots_.push_back(static_cast<uint32_t>(slot - 1));
  }
  for (uint64_t slot = 0; slot < self.receive_slots_; ++slot)
    RETURN_IF_ERROR(self.PostReceive(slot));
  return connection;
}

absl::Status QueuePairConnection::Fail(absl::Status status) {
  if (failed_.ok()) failed_ = std::move(status);
  return failed_;
}

absl::Status QueuePairConnection::PostReceive(uint64_t slot) {
  const Piece buffer = {reinterpret_cast<uint64_t>(ReceiveBuffer(slot)), kMaxMessageBytes,
                        region_->local_key()};
  const absl::Status status = queue_pair_->PostReceive(WorkId(Kind::kReceive, slot), buffer);
  return status.ok() ? status : Fail(status);
}

absl::Status QueuePairConnection::CheckInside(const MemoryRegion& local, size_t offset,
                                              size_t bytes) {
  const size_t size = local.span().size();
  if (offset <= size && bytes <= size - offset && bytes > 0 && bytes <= kMaxOperationBytes)
    return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat(bytes, " bytes from ", offset,
                                            " on are not inside a region of ", size, " bytes"));
}

// Makes the bytes part of the list's last request where they go on in the peer's memory.
bool QueuePairConnection::Extend(uint64_t address, uint32_t bytes, uint32_t local_key,
                                 uint64_t remote_address, uint32_t remote_key) {
  if (list_size_ == 0) return false;
  WorkRequest& last = list_[list_size_ - 1];
  if (last.operation != Operation::kWrite || last.remote_key != remote_key) return false;
  uint64_t already = 0;
  for (uint32_t i = 0; i < last.piece_count; ++i) already += last.pieces[i].bytes;
  if (last.remote_address + already != remote_address || already + bytes > kMaxWriteBytes)
    return false;
  Piece& piece = last.pieces[last.piece_count - 1];
  if (piece.local_key == local_key && piece.address + piece.bytes == address) {
    piece.bytes += bytes;
    return true;
  }
  if (last.piece_count == kMaxPieces) return false;
  last.pieces[last.piece_count++] = {address, bytes, local_key};
  return true;
}

absl::Status QueuePairConnection::Append(Operation operation, uint64_t id, const Piece& piece,
                                         uint64_t remote_address, uint32_t remote_key,
                                         bool signalled) {
  if (list_size_ == kMaxList) RETURN_IF_ERROR(Ring());
  WorkRequest& request = list_[list_size_++];
  request.id = id;
  request.operation = operation;
  request.signalled =
      signalled || unsignalled_ + 1 >= std::min(kSignalEvery, tuning_.send_depth / 4);
  request.piece_count = 1;
  request.pieces[0] = piece;
  request.remote_address = remote_address;
  request.remote_key = remote_key;
  ++outstanding_;
  ++unsignalled_;
  if (request.signalled) {
    reported_[reported_tail_++ % reported_.size()] = {id, std::exchange(unsignalled_, 0)};
  }
  return absl::OkStatus();
}

absl::Status QueuePairConnection::Ring() {
  if (list_size_ == 0) return absl::OkStatus();
  const absl::Status status =
      queue_pair_->Post(std::span<const WorkRequest>(list_.data(), list_size_));
  list_size_ = 0;
  list_bytes_ = 0;
  return status.ok() ? status : Fail(status);
}

absl::Status QueuePairConnection::WaitForRoom(bool message, Deadline deadline) {
  if (!failed_.ok()) return failed_;
  while (outstanding_ >= tuning_.send_depth || (message && free_send_slots_.empty())) {
    RETURN_IF_ERROR(Progress(deadline));
  }
  return absl::OkStatus();
}

absl::Status QueuePairConnection::Write(const MemoryRegion& local, size_t offset, size_t bytes,
                                        uint64_t remote_address, uint32_t remote_key,
                                        Deadline deadline) {
  if (!failed_.ok()) return failed_;
  RETURN_IF_ERROR(CheckInside(local, offset, bytes));
  for (size_t done = 0; done < bytes;) {
    const auto length = static_cast<uint32_t>(std::min<size_t>(bytes - done, kMaxWriteBytes));
    const auto address = reinterpret_cast<uint64_t>(local.span().data() + offset + done);
    if (!Extend(address, length, local.local_key(), remote_address + done, remote_key)) {
      RETURN_IF_ERROR(WaitForRoom(/*message=*/false, deadline));
      RETURN_IF_ERROR(Append(Operation::kWrite, WorkId(Kind::kWrite, 0),
                             {address, length, local.local_key()}, remote_address + done,
                             remote_key, /*signalled=*/false));
    }
    done += length;
    bytes_sent_ += length;
    list_bytes_ += length;
  }
  return list_bytes_ >= kDoorbellBytes ? Ring() : absl::OkStatus();
}

absl::Status QueuePairConnection::Read(const MemoryRegion& local, size_t offset, size_t bytes,
                                       uint64_t remote_address, uint32_t remote_key,
                                       Deadline deadline) {
  if (!failed_.ok()) return failed_;
  RETURN_IF_ERROR(CheckInside(local, offset, bytes));
  for (size_t done = 0; done < bytes;) {
    while (reads_posted_ - reads_done_ >= kReadsAtOnce) RETURN_IF_ERROR(Progress(deadline));
    RETURN_IF_ERROR(WaitForRoom(/*message=*/false, deadline));
    const auto length = static_cast<uint32_t>(std::min<size_t>(bytes - done, kMaxReadBytes));
    const Piece piece = {reinterpret_cast<uint64_t>(local.span().data() + offset + done), length,
                         local.local_key()};
    RETURN_IF_ERROR(Append(Operation::kRead, WorkId(Kind::kRead, 0), piece, remote_address + done,
                           remote_key, /*signalled=*/true));
    ++reads_posted_;
    done += length;
  }
  while (reads_done_ < reads_posted_) RETURN_IF_ERROR(Progress(deadline));
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> QueuePairConnection::Grant(const MemoryRegion& region, Access access,
                                                    Deadline deadline) {
  if (!failed_.ok()) return failed_;
  ASSIGN_OR_RETURN(const QueuePair::Window window, queue_pair_->MakeWindow(region, access));
  RETURN_IF_ERROR(WaitForRoom(/*message=*/false, deadline));
  RETURN_IF_ERROR(Append(Operation::kBind, WorkId(Kind::kBind, 0), {}, 0, window.remote_key,
                         /*signalled=*/true));
  list_[list_size_ - 1].piece_count = 0;
  list_[list_size_ - 1].window = window.number;
  ++binds_posted_;
  while (binds_done_ < binds_posted_) RETURN_IF_ERROR(Progress(deadline));
  return window.remote_key;
}

absl::StatusOr<uint64_t> QueuePairConnection::Send(absl::string_view message, Deadline deadline) {
  if (message.size() > kMaxMessageBytes - kHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a message of ", message.size(),
                                                   " bytes is larger than ",
                                                   kMaxMessageBytes - kHeaderBytes));
  }
  if (!failed_.ok()) return failed_;
  while (sent_ - peer_took_ >= tuning_.messages) RETURN_IF_ERROR(Progress(deadline));
  RETURN_IF_ERROR(WaitForRoom(/*message=*/true, deadline));
  RETURN_IF_ERROR(PostMessage(message, /*only_credit=*/false));
  return sent_;
}

// Needs room, see WaitForRoom().
absl::Status QueuePairConnection::PostMessage(absl::string_view content, bool only_credit) {
  const uint64_t slot = free_send_slots_.back();
  free_send_slots_.pop_back();
  std::byte* buffer = SendBuffer(slot);
  const uint64_t header = arrived_head_ | (only_credit ? kOnlyCredit : 0);
  std::memcpy(buffer, &header, kHeaderBytes);
  if (!content.empty()) std::memcpy(buffer + kHeaderBytes, content.data(), content.size());
  const Piece piece = {reinterpret_cast<uint64_t>(buffer),
                       static_cast<uint32_t>(kHeaderBytes + content.size()), region_->local_key()};
  RETURN_IF_ERROR(Append(Operation::kMessage,
                         WorkId(only_credit ? Kind::kCredit : Kind::kMessage, slot), piece, 0, 0,
                         /*signalled=*/true));
  if (!only_credit) ++sent_;
  told_ = arrived_head_;
  bytes_sent_ += piece.bytes;
  return Ring();
}

absl::Status QueuePairConnection::ReturnCredit() {
  if (arrived_head_ - told_ < (tuning_.messages + 1) / 2) return absl::OkStatus();
  // Without room it is tried again when something has completed.
  if (outstanding_ >= tuning_.send_depth || free_send_slots_.empty()) return absl::OkStatus();
  return PostMessage("", /*only_credit=*/true);
}

absl::Status QueuePairConnection::WaitCompleted(uint64_t number, Deadline deadline) {
  while (completed_ < number) RETURN_IF_ERROR(Progress(deadline));
  return absl::OkStatus();
}

absl::StatusOr<std::string> QueuePairConnection::Receive(Deadline deadline) {
  while (arrived_head_ == arrived_tail_) {
    // What arrived before a failure is still given out; the failure is the next call's answer.
    const absl::Status status = Progress(deadline);
    if (!status.ok() && arrived_head_ == arrived_tail_) return status;
  }
  const Arrived& arrived = arrived_[arrived_head_ % arrived_.size()];
  std::string message(reinterpret_cast<const char*>(ReceiveBuffer(arrived.slot)) + kHeaderBytes,
                      arrived.bytes - kHeaderBytes);
  ++arrived_head_;
  if (failed_.ok() && PostReceive(arrived.slot).ok()) (void)ReturnCredit();
  return message;
}

void QueuePairConnection::Shutdown() {
  shut_down_ = true;
  queue_pair_->Wake();
}

absl::Status QueuePairConnection::TakeMessage(const WorkCompletion& completion) {
  const uint64_t slot = SlotOf(completion.id);
  if (slot >= receive_slots_ || completion.bytes < kHeaderBytes ||
      completion.bytes > kMaxMessageBytes) {
    return Fail(absl::DataLossError(absl::StrCat(
        description(), ": a message of an impossible size arrived: ", completion.bytes, " bytes")));
  }
  uint64_t header = 0;
  std::memcpy(&header, ReceiveBuffer(slot), kHeaderBytes);
  const uint64_t took = header & ~kOnlyCredit;
  if (took > sent_ || took < peer_took_) {
    return Fail(absl::DataLossError(absl::StrCat(description(), ": the peer says it took ", took,
                                                 " of ", sent_, " messages, after ", peer_took_)));
  }
  peer_took_ = took;
  if ((header & kOnlyCredit) != 0) return PostReceive(slot);
  if (arrived_tail_ - arrived_head_ >= tuning_.messages) {
    return Fail(absl::DataLossError(
        absl::StrCat(description(), ": the peer sent more messages than it had credit for")));
  }
  arrived_[arrived_tail_++ % arrived_.size()] = {static_cast<uint32_t>(slot), completion.bytes};
  return absl::OkStatus();
}

absl::Status QueuePairConnection::Take(const WorkCompletion& completion) {
  const Kind kind = completion.received ? Kind::kReceive : KindOf(completion.id);
  if (completion.error != 0) {
    // Nothing of ours failed before it: then it was a request of the peer's.
    refused_peer_ = failed_.ok() && completion.error == kFlushed;
    return Fail(absl::UnavailableError(
        absl::StrCat(description(), ": ", KindName(kind), " failed: ", completion.error_text,
                     " (completion status ", completion.error, ")")));
  }
  if (completion.received) return TakeMessage(completion);
  if (reported_head_ == reported_tail_ ||
      reported_[reported_head_ % reported_.size()].id != completion.id) {
    return Fail(
        absl::InternalError(absl::StrCat(description(), ": completions came out of order")));
  }
  outstanding_ -= reported_[reported_head_++ % reported_.size()].requests;
  if (kind == Kind::kMessage || kind == Kind::kCredit) {
    free_send_slots_.push_back(static_cast<uint32_t>(SlotOf(completion.id)));
  }
  if (kind == Kind::kMessage) ++completed_;
  if (kind == Kind::kRead) ++reads_done_;
  if (kind == Kind::kBind) ++binds_done_;
  return absl::OkStatus();
}

absl::StatusOr<bool> QueuePairConnection::Reap() {
  if (!failed_.ok()) return failed_;
  if (shut_down_) return Fail(absl::CancelledError(absl::StrCat(description(), ": shut down")));
  const absl::StatusOr<size_t> polled = queue_pair_->Poll(completions_);
  if (!polled.ok()) return Fail(polled.status());
  for (size_t i = 0; i < *polled; ++i) RETURN_IF_ERROR(Take(completions_[i]));
  if (*polled > 0) RETURN_IF_ERROR(ReturnCredit());
  return *polled > 0;
}

absl::Status QueuePairConnection::Progress(Deadline deadline) {
  if (!failed_.ok()) return failed_;
  RETURN_IF_ERROR(Ring());
  ASSIGN_OR_RETURN(const bool at_once, Reap());
  if (at_once) return absl::OkStatus();
  const TimePoint began = Clock::now();
  const TimePoint spin_until =
      std::min(began + (queue_pair_->may_spin() ? spin_.Next() : SpinTime::kLeast), deadline.at());
  for (TimePoint now = began; now < spin_until; now = Clock::now()) {
    // Where a core is shared, a spinning waiter would keep its own peer from running.
    ::sched_yield();
    ASSIGN_OR_RETURN(const bool some, Reap());
    if (!some) continue;
    spin_.Waited(Clock::now() - began);
    return absl::OkStatus();
  }
  if (const absl::Status armed = queue_pair_->Arm(); !armed.ok()) return Fail(armed);
  // What completed between the last look and the arming raises no event.
  ASSIGN_OR_RETURN(const bool some, Reap());
  if (some) {
    spin_.Waited(Clock::now() - began);
    return absl::OkStatus();
  }
  const absl::StatusOr<QueuePair::Event> event = queue_pair_->Wait(deadline);
  if (!event.ok()) return Fail(event.status());
  if (*event == QueuePair::Event::kPeerGone) {
    // What had arrived before is still to be had.
    for (absl::StatusOr<bool> more = Reap(); more.ok() && *more; more = Reap()) {
    }
    return Fail(absl::UnavailableError(absl::StrCat(description(), ": the peer has gone")));
  }
  ASSIGN_OR_RETURN(const bool now, Reap());
  spin_.Waited(Clock::now() - began);
  if (!now && *event == QueuePair::Event::kNothing && deadline.Passed()) {
    return absl::DeadlineExceededError(absl::StrCat(description(), ": nothing completed in time"));
  }
  return absl::OkStatus();
}

}  // namespace starling::transport
