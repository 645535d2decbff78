#include "transport/tcp_queue_pair.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"

namespace starling::transport {
namespace {

// Pieces that one system call sends at most.
constexpr size_t kMaxVector = 128;
// Bytes of requests that one system call sends at most: enough to amortise it, little enough that
// an answer does not wait long behind them.
constexpr uint64_t kSendBytes = 2u << 20;
// Answers that may wait to be sent. Reads are the only ones that pile up, and an honest peer waits
// for each.
constexpr size_t kMaxReplies = 64;
// What a peer whose request was refused may still say before it is cut off.
constexpr size_t kMaxDiscarded = 64u << 20;

// Numbers of completions, as RDMA devices give them.
constexpr int kRemoteAccess = 10;
constexpr int kRemoteInvalid = 9;

uint64_t BytesOf(const WorkRequest& request) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < request.piece_count; ++i) bytes += request.pieces[i].bytes;
  return bytes;
}

void Advance(iovec*& pieces, size_t& count, size_t done) {
  while (count > 0 && done >= pieces->iov_len) {
    done -= pieces->iov_len;
    ++pieces;
    --count;
  }
  if (count == 0) return;
  pieces->iov_base = static_cast<char*>(pieces->iov_base) + done;
  pieces->iov_len -= done;
}

void AwaitReady(int socket, int16_t event) {
  pollfd poller = {socket, event, 0};
  (void)::poll(&poller, 1, -1);
}

}  // namespace

TcpQueuePair::TcpQueuePair(const TcpRegions& regions, uint32_t send_depth, uint32_t receives)
    : regions_(regions),
      requests_(send_depth),
      receives_(receives),
      replies_(kMaxReplies),
      completions_(send_depth + receives + 1) {}

TcpQueuePair::~TcpQueuePair() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  if (!socket_) return;
  ::shutdown(socket_.get(), SHUT_RDWR);
  to_send_.notify_all();
  taken_.notify_all();
  sender_.join();
  receiver_.join();
}

void TcpQueuePair::Start(UniqueFd socket, std::string description) {
  socket_ = std::move(socket);
  description_ = std::move(description);
  sender_ = std::thread([this] { SendLoop(); });
  receiver_ = std::thread([this] { ReceiveLoop(); });
}

absl::Status TcpQueuePair::Post(std::span<const WorkRequest> requests) {
  for (const WorkRequest& request : requests) {
    if (request.operation == Operation::kWriteImmediate)
      return absl::UnimplementedError("a write with an immediate cannot go over TCP");
  }
  {
    std::lock_guard lock(mutex_);
    if (requests_.places.size() - requests_.size() < requests.size())
      return absl::ResourceExhaustedError(absl::StrCat(description_, ": the send queue is full"));
    for (const WorkRequest& request : requests) requests_.Push(request);
  }
  to_send_.notify_one();
  return absl::OkStatus();
}

absl::Status TcpQueuePair::PostReceive(uint64_t id, const Piece& buffer) {
  {
    std::lock_guard lock(mutex_);
    if (receives_.full())
      return absl::ResourceExhaustedError(
          absl::StrCat(description_, ": the receive queue is full"));
    receives_.Push({id, buffer});
  }
  taken_.notify_one();
  return absl::OkStatus();
}

absl::StatusOr<size_t> TcpQueuePair::Poll(std::span<WorkCompletion> completions) {
  std::lock_guard lock(mutex_);
  const size_t n = std::min(completions.size(), completions_.size());
  for (size_t i = 0; i < n; ++i) completions[i] = completions_.Pop();
  return n;
}

absl::StatusOr<QueuePair::Event> TcpQueuePair::Wait(Deadline deadline) {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, Clock::now() + deadline.Left(),
                      [&] { return !completions_.empty() || peer_gone_ || woken_; });
  if (!completions_.empty()) return Event::kCompleted;
  if (std::exchange(peer_gone_, false)) return Event::kPeerGone;
  return Event::kNothing;
}

void TcpQueuePair::Wake() {
  std::lock_guard lock(mutex_);
  woken_ = true;
  changed_.notify_all();
}

void TcpQueuePair::Complete(const WorkCompletion& completion) {
  completions_.Push(completion);
  changed_.notify_one();
}

// --- what is sent ---

void TcpQueuePair::SendLoop() {
  std::unique_lock lock(mutex_);
  while (true) {
    to_send_.wait(
        lock, [&] { return stop_ || !replies_.empty() || (sent_ < requests_.tail && !refused_); });
    if (stop_) break;
    bool through = true;
    if (!replies_.empty()) {
      Reply reply = replies_.Pop();
      const bool last = refused_ && replies_.empty();
      lock.unlock();
      through = SendReply(reply);
      if (last) ::shutdown(socket_.get(), SHUT_WR);
      lock.lock();
    } else {
      // The places stay as they are until the peer has answered for them.
      const uint64_t from = sent_;
      uint64_t to = from;
      uint64_t bytes = 0;
      for (size_t pieces = 0; to < requests_.tail; ++to) {
        const WorkRequest& next = requests_.at(to);
        pieces += 1 + next.piece_count;
        bytes += BytesOf(next);
        if (to > from && (pieces > kMaxVector || bytes > kSendBytes)) break;
      }
      lock.unlock();
      through = SendRequests(from, to);
      lock.lock();
      if (through) sent_ = to;
      taken_.notify_one();
    }
    if (!through) {
      // What has arrived is still to be read; then the receiving thread sees the end.
      ::shutdown(socket_.get(), SHUT_RDWR);
      break;
    }
  }
  sending_ = false;
  taken_.notify_one();
}

bool TcpQueuePair::SendRequests(uint64_t from, uint64_t to) {
  std::array<iovec, kMaxVector + kMaxPieces> pieces;
  std::array<std::array<std::byte, kTcpHeaderBytes>, kMaxVector> headers;
  size_t count = 0;
  for (uint64_t position = from; position < to; ++position) {
    const WorkRequest& request = requests_.at(position);
    TcpHeader header;
    header.report = request.signalled;
    header.number = position + 1;
    header.bytes = static_cast<uint32_t>(BytesOf(request));
    switch (request.operation) {
      case Operation::kMessage:
        header.kind = TcpKind::kMessage;
        break;
      case Operation::kWrite:
        header.kind = TcpKind::kWrite;
        break;
      case Operation::kRead:
        header.kind = TcpKind::kRead;
        break;
      case Operation::kWriteImmediate:  // refused by Post()
      case Operation::kBind:            // windows are not made here
        break;
    }
    if (request.operation != Operation::kMessage) {
      header.address = request.remote_address;
      header.key = request.remote_key;
    }
    auto& encoded = headers[position - from];
    EncodeTcpHeader(header, encoded);
    pieces[count++] = {encoded.data(), encoded.size()};
    if (request.operation == Operation::kRead) continue;
    for (uint32_t i = 0; i < request.piece_count; ++i) {
      pieces[count++] = {reinterpret_cast<void*>(request.pieces[i].address),
                         request.pieces[i].bytes};
    }
  }
  return SendAll(pieces.data(), count);
}

bool TcpQueuePair::SendReply(Reply& reply) {
  std::array<std::byte, kTcpHeaderBytes> header;
  EncodeTcpHeader(reply.header, header);
  iovec piece = {header.data(), header.size()};
  if (!SendAll(&piece, 1)) return false;
  // The memory may be given back at any time, so it is held only for as long as one call takes.
  for (size_t done = 0; reply.grant != nullptr && done < reply.header.bytes;) {
    ssize_t n = -1;
    {
      const TcpPin pin(reply.grant.get());
      if (!pin) return false;
      n = ::send(socket_.get(), reply.from + done, reply.header.bytes - done,
                 MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    if (n > 0) {
      done += static_cast<size_t>(n);
    } else if (n < 0 && errno == EAGAIN) {
      AwaitReady(socket_.get(), POLLOUT);
    } else if (n < 0 && errno != EINTR) {
      return false;
    }
  }
  return true;
}

bool TcpQueuePair::SendAll(iovec* pieces, size_t count) {
  while (count > 0) {
    msghdr message = {};
    message.msg_iov = pieces;
    message.msg_iovlen = count;
    const ssize_t n = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
    if (n >= 0) {
      Advance(pieces, count, static_cast<size_t>(n));
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

void TcpQueuePair::QueueReply(Reply reply) {
  // Done counts: the last one says it all.
  if (reply.header.kind == TcpKind::kDone && !replies_.empty() &&
      replies_.back().header.kind == TcpKind::kDone) {
    replies_.back().header.number = reply.header.number;
    return;
  }
  replies_.Push(std::move(reply));
  to_send_.notify_one();
}

// --- what arrives ---

void TcpQueuePair::ReceiveLoop() {
  End end = End::kNone;
  while (end == End::kNone) end = ReceiveFrame();
  std::unique_lock lock(mutex_);
  if (end == End::kRefused) {
    // Nothing more is expected of the peer, and our own caller is told.
    while (!receives_.empty()) {
      const Receive receive = receives_.Pop();
      Complete({.id = receive.id,
                .received = true,
                .error = kFlushed,
                .error_text = "the peer asked for what it was not granted"});
    }
    lock.unlock();
    Discard();
    lock.lock();
  }
  if (end != End::kGone) return;
  peer_gone_ = true;
  changed_.notify_one();
}

TcpQueuePair::End TcpQueuePair::Fill(Place place, bool last) {
  while (place.bytes > 0) {
    iovec pieces[2] = {{place.at, place.bytes}, {header_.data(), header_.size()}};
    msghdr message = {};
    message.msg_iov = pieces;
    message.msg_iovlen = last ? 2 : 1;
    ssize_t n = -1;
    {
      const TcpPin pin(place.grant);
      if (place.grant != nullptr && !pin) return End::kRefused;
      n = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    }
    if (n == 0) return End::kGone;
    if (n < 0) {
      if (errno == EAGAIN)
        AwaitReady(socket_.get(), POLLIN);
      else if (errno != EINTR)
        return End::kGone;
      continue;
    }
    const size_t mine = std::min(static_cast<size_t>(n), place.bytes);
    place.at += mine;
    place.bytes -= mine;
    header_bytes_ = static_cast<size_t>(n) - mine;
  }
  return End::kNone;
}

TcpQueuePair::End TcpQueuePair::ReceiveFrame() {
  while (header_bytes_ < header_.size()) {
    const ssize_t n =
        ::recv(socket_.get(), header_.data() + header_bytes_, header_.size() - header_bytes_, 0);
    if (n > 0)
      header_bytes_ += static_cast<size_t>(n);
    else if (n == 0 || errno != EINTR)
      return End::kGone;
  }
  header_bytes_ = 0;
  TcpHeader header;
  if (const char* wrong = DecodeTcpHeader(header_, header))
    return Refuse(header, TcpRefusal::kMalformed, wrong);
  if (header.kind <= TcpKind::kRead && header.number != ++expected_)
    return Refuse(header, TcpRefusal::kMalformed, "a request out of its turn");
  switch (header.kind) {
    case TcpKind::kMessage:
      return TakeMessage(header);
    case TcpKind::kWrite:
      return TakeWrite(header);
    case TcpKind::kRead:
      return TakeRead(header);
    case TcpKind::kDone:
      return TakeDone(header);
    case TcpKind::kData:
      return TakeData(header);
    case TcpKind::kRefused:
      return TakeRefused(header);
  }
  return End::kGone;
}

TcpQueuePair::End TcpQueuePair::TakeMessage(const TcpHeader& header) {
  Receive receive;
  {
    // A message finds a buffer, or waits for one, and what is behind it waits too.
    std::unique_lock lock(mutex_);
    taken_.wait(lock, [&] { return stop_ || !receives_.empty(); });
    if (stop_) return End::kStopped;
    receive = receives_.Pop();
  }
  if (header.bytes > receive.buffer.bytes)
    return Refuse(header, TcpRefusal::kMalformed, "a message longer than the receive buffer");
  const End end =
      Fill({reinterpret_cast<std::byte*>(receive.buffer.address), header.bytes, nullptr});
  if (end != End::kNone) return end;
  std::lock_guard lock(mutex_);
  Complete({.id = receive.id, .received = true, .bytes = header.bytes});
  if (header.report) QueueReply({{.kind = TcpKind::kDone, .number = header.number}, nullptr});
  return End::kNone;
}

TcpQueuePair::End TcpQueuePair::TakeWrite(const TcpHeader& header) {
  const std::shared_ptr<TcpGrant> grant = regions_.Find(header.key);
  std::byte* const at =
      grant ? grant->Remote(header.address, header.bytes, Access::kRemoteWrite) : nullptr;
  if (at == nullptr)
    return Refuse(header, TcpRefusal::kAccess, "a write to memory that was not granted");
  const End end = Fill({at, header.bytes, grant.get()});
  if (end == End::kRefused)
    return Refuse(header, TcpRefusal::kAccess, "a write to memory that was given back");
  if (end != End::kNone || !header.report) return end;
  std::lock_guard lock(mutex_);
  QueueReply({{.kind = TcpKind::kDone, .number = header.number}, nullptr});
  return End::kNone;
}

TcpQueuePair::End TcpQueuePair::TakeRead(const TcpHeader& header) {
  std::shared_ptr<TcpGrant> grant = regions_.Find(header.key);
  const std::byte* const from =
      grant ? grant->Remote(header.address, header.bytes, Access::kRemoteRead) : nullptr;
  if (from == nullptr)
    return Refuse(header, TcpRefusal::kAccess, "a read of memory that was not granted");
  std::unique_lock lock(mutex_);
  // One place is kept for a refusal.
  if (replies_.size() + 1 >= replies_.places.size()) {
    lock.unlock();
    return Refuse(header, TcpRefusal::kMalformed, "too many reads at once");
  }
  QueueReply({{.kind = TcpKind::kData, .bytes = header.bytes, .number = header.number},
              std::move(grant),
              from});
  return End::kNone;
}

// The requests up to `number` are done, if they were sent: a peer that answers for a request while
// it is still being read from our memory waits until it has been.
TcpQueuePair::End TcpQueuePair::CompleteUpTo(uint64_t number, std::unique_lock<std::mutex>& lock) {
  taken_.wait(lock, [&] { return stop_ || !sending_ || sent_ >= number; });
  if (stop_) return End::kStopped;
  if (sent_ < number) return End::kGone;
  while (requests_.head < number) {
    const WorkRequest& request = requests_.front();
    if (request.signalled) Complete({.id = request.id});
    ++requests_.head;
  }
  return End::kNone;
}

TcpQueuePair::End TcpQueuePair::TakeDone(const TcpHeader& header) {
  std::unique_lock lock(mutex_);
  bool right = header.number > requests_.head && header.number <= requests_.tail;
  for (uint64_t position = requests_.head; right && position < header.number; ++position)
    right = requests_.at(position).operation != Operation::kRead;
  if (right) return CompleteUpTo(header.number, lock);
  lock.unlock();
  return Refuse(header, TcpRefusal::kMalformed, "an answer to what was not asked");
}

TcpQueuePair::End TcpQueuePair::TakeData(const TcpHeader& header) {
  WorkRequest read;
  {
    std::unique_lock lock(mutex_);
    bool right = header.number > requests_.head && header.number <= requests_.tail;
    for (uint64_t position = requests_.head; right && position + 1 < header.number; ++position)
      right = requests_.at(position).operation != Operation::kRead;
    if (right) {
      read = requests_.at(header.number - 1);
      right = read.operation == Operation::kRead && BytesOf(read) == header.bytes;
    }
    if (!right) {
      lock.unlock();
      return Refuse(header, TcpRefusal::kMalformed, "content that was not asked for");
    }
  }
  for (uint32_t i = 0; i < read.piece_count; ++i) {
    const Piece& piece = read.pieces[i];
    // Whoever asked may have given up and taken its memory away.
    const std::shared_ptr<TcpGrant> grant = regions_.Find(piece.local_key);
    if (!grant) return End::kGone;
    const End end = Fill({reinterpret_cast<std::byte*>(piece.address), piece.bytes, grant.get()},
                         /*last=*/i + 1 == read.piece_count);
    if (end != End::kNone) return end == End::kRefused ? End::kGone : end;
  }
  std::unique_lock lock(mutex_);
  return CompleteUpTo(header.number, lock);
}

TcpQueuePair::End TcpQueuePair::TakeRefused(const TcpHeader& header) {
  std::unique_lock lock(mutex_);
  const bool access = header.key == static_cast<uint32_t>(TcpRefusal::kAccess);
  uint64_t id = 0;
  if (header.number > requests_.head && header.number <= requests_.tail)
    id = requests_.at(header.number - 1).id;
  Complete({.id = id,
            .error = access ? kRemoteAccess : kRemoteInvalid,
            .error_text = access ? "remote access error" : "remote invalid request"});
  lock.unlock();
  Discard();
  return End::kStopped;
}

TcpQueuePair::End TcpQueuePair::Refuse(const TcpHeader& header, TcpRefusal why, const char* what) {
  spdlog::warn("{}: refused: {} ({} bytes, address {:#x}, request {})", description_, what,
               header.bytes, header.address, header.number);
  std::lock_guard lock(mutex_);
  refused_ = true;
  TcpHeader answer = {.kind = TcpKind::kRefused,
                      .key = static_cast<uint32_t>(why),
                      .number = std::max<uint64_t>(header.number, 1)};
  if (replies_.full()) replies_.Pop();
  QueueReply({answer, nullptr});
  return End::kRefused;
}

// Takes what is still on its way off the wire, so that our last answer is not lost by a reset.
void TcpQueuePair::Discard() {
  std::array<std::byte, 16 * 1024> nowhere;
  for (size_t done = 0; done < kMaxDiscarded;) {
    const ssize_t n = ::recv(socket_.get(), nowhere.data(), nowhere.size(), 0);
    if (n > 0)
      done += static_cast<size_t>(n);
    else if (n == 0 || errno != EINTR)
      return;
  }
  ::shutdown(socket_.get(), SHUT_RDWR);
}

}  // namespace starling::transport
