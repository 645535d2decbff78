#include "transport/roce/requester.h"

#include <cstring>

namespace starling::transport::roce {
namespace {

Opcode DataOpcode(Operation operation, bool first, bool last) {
  switch (operation) {
    case Operation::kMessage:
      if (first) return last ? Opcode::kSendOnly : Opcode::kSendFirst;
      return last ? Opcode::kSendLast : Opcode::kSendMiddle;
    case Operation::kWriteImmediate:
      if (last) return first ? Opcode::kWriteOnlyImmediate : Opcode::kWriteLastImmediate;
      return first ? Opcode::kWriteFirst : Opcode::kWriteMiddle;
    case Operation::kWrite:
    case Operation::kRead:
    case Operation::kBind:  // not made here
      break;
  }
  if (first) return last ? Opcode::kWriteOnly : Opcode::kWriteFirst;
  return last ? Opcode::kWriteLast : Opcode::kWriteMiddle;
}

WorkError ErrorOf(uint8_t syndrome) {
  if (syndrome == kNakAccess) return WorkError::kRemoteAccess;
  if (syndrome == kNakOperation) return WorkError::kRemoteOperation;
  return WorkError::kRemoteInvalid;
}

}  // namespace

Requester::Requester(const Path& path, const PairTuning& tuning, const RegionTable& regions,
                     CompletionSink& completions, PairCounts& counts)
    : path_(path),
      tuning_(tuning),
      regions_(regions),
      completions_(completions),
      counts_(counts),
      builder_(path, counts),
      requests_(tuning.send_depth),
      reads_(tuning.reads),
      window_(tuning.window),
      timeout_(tuning.first_timeout) {}

void Requester::Connect() {
  connected_ = true;
  unacknowledged_ = next_ = sent_end_ = posted_end_ = kPsnOrigin + path_.own_psn;
}

void Requester::Post(const WorkRequest& request) {
  Posted& posted = At(tail_++);
  posted.request = request;
  posted.bytes = 0;
  for (uint32_t i = 0; i < request.piece_count; ++i) posted.bytes += request.pieces[i].bytes;
  posted.first = posted_end_;
  posted.end = posted.first + std::max<uint64_t>(1, (posted.bytes + path_.mtu - 1) / path_.mtu);
  posted_end_ = posted.end;
  if (failed_) Flush();
}

bool Requester::Gather(const Posted& posted, uint64_t offset, uint64_t bytes,
                       std::array<std::span<const std::byte>, kMaxPieces>& parts,
                       size_t& count) const {
  count = 0;
  for (uint32_t i = 0; i < posted.request.piece_count && bytes > 0; ++i) {
    const Piece& piece = posted.request.pieces[i];
    if (offset >= piece.bytes) {
      offset -= piece.bytes;
      continue;
    }
    const uint64_t here = std::min<uint64_t>(bytes, piece.bytes - offset);
    const std::byte* memory = regions_.FindLocal(piece.local_key, piece.address + offset, here);
    if (memory == nullptr) return false;
    parts[count++] = {memory, here};
    bytes -= here;
    offset = 0;
  }
  return bytes == 0;
}

bool Requester::Scatter(const Posted& posted, uint64_t offset, std::span<const std::byte> payload) {
  std::array<std::span<const std::byte>, kMaxPieces> parts;
  size_t count = 0;
  if (!Gather(posted, offset, payload.size(), parts, count)) return false;
  for (size_t i = 0; i < count; ++i) {
    std::memcpy(const_cast<std::byte*>(parts[i].data()), payload.data(), parts[i].size());
    payload = payload.subspan(parts[i].size());
  }
  return true;
}

bool Requester::SendOne(FrameSink& out, TimePoint now) {
  if (waiting_ && now < wait_until_) return false;
  waiting_ = false;
  if (!connected_ || failed_ || next_ == posted_end_ || !out.HasRoom()) return false;
  const bool nothing_under_way = next_ == unacknowledged_;
  const uint64_t first = next_;
  Posted& posted = At(cursor_);
  if (!(posted.request.operation == Operation::kRead ? SendRead(posted, out)
                                                     : SendData(posted, out))) {
    return false;
  }
  if (next_ == posted.end) ++cursor_;
  if (first < sent_end_) {
    ++counts_.packets_sent_again;
  } else {
    if (timed_psn_ == 0) {
      timed_psn_ = next_ - 1;
      timed_at_ = now;
    }
  }
  sent_end_ = std::max(sent_end_, next_);
  if (nothing_under_way && backoff_ == 0) progress_at_ = now;
  if (timer_ == TimePoint::max()) timer_ = now + Timeout();
  return true;
}

bool Requester::SendData(Posted& posted, FrameSink& out) {
  const uint64_t under_way = next_ - unacknowledged_;
  if (under_way >= window_) return false;
  const uint64_t offset = (next_ - posted.first) * path_.mtu;
  const uint64_t bytes = std::min<uint64_t>(path_.mtu, posted.bytes - offset);
  std::array<std::span<const std::byte>, kMaxPieces> parts;
  size_t count = 0;
  if (!Gather(posted, offset, bytes, parts, count)) {
    // What was posted before it may still be carried out; simply ending all is allowed too.
    Fail(WorkError::kLocalProtection);
    return false;
  }
  const bool last = next_ + 1 == posted.end;
  Headers headers;
  headers.opcode = DataOpcode(posted.request.operation, next_ == posted.first, last);
  headers.psn = static_cast<uint32_t>(next_) & kMask24;
  // Asked for where a message ends, now and then in a long one, where the window closes, and at
  // once when something is sent again.
  headers.ack_request = last || next_ % tuning_.ack_every == 0 || under_way + 1 >= window_ ||
                        (under_way == 0 && next_ < sent_end_);
  headers.remote_address = posted.request.remote_address;
  headers.remote_key = posted.request.remote_key;
  headers.dma_bytes = static_cast<uint32_t>(posted.bytes);
  headers.immediate = posted.request.immediate;
  builder_.Send(headers, {parts.data(), count}, out);
  ++next_;
  return true;
}

bool Requester::SendRead(Posted& posted, FrameSink& out) {
  if (reads_tail_ - reads_head_ == reads_.size()) return false;
  // Cut at the same places when asked for again: what a responder repeats must lie within what it
  // was asked for before.
  const uint64_t done = next_ - posted.first;
  const uint64_t cut = posted.first + (done / tuning_.read_packets + 1) * tuning_.read_packets;
  const uint64_t packets = std::min(posted.end, cut) - next_;
  const uint64_t under_way = next_ - unacknowledged_;
  if (under_way > 0 && under_way + packets > window_) return false;
  const uint64_t offset = done * path_.mtu;
  Headers headers;
  headers.opcode = Opcode::kReadRequest;
  headers.psn = static_cast<uint32_t>(next_) & kMask24;
  headers.ack_request = true;
  headers.remote_address = posted.request.remote_address + offset;
  headers.remote_key = posted.request.remote_key;
  headers.dma_bytes =
      static_cast<uint32_t>(std::min<uint64_t>(packets * path_.mtu, posted.bytes - offset));
  builder_.Send(headers, {}, out);
  next_ += packets;
  reads_[reads_tail_++ % reads_.size()] = next_;
  return true;
}

void Requester::FinishHead(WorkError error) {
  const Posted& posted = At(head_++);
  if (!posted.request.signalled && error == WorkError::kNone) return;
  completions_.Complete({.id = posted.request.id,
                         .error = static_cast<int>(error),
                         .error_text = WorkErrorText(error)});
}

void Requester::Fail(WorkError error) {
  failed_ = true;
  waiting_ = false;
  timer_ = TimePoint::max();
  while (head_ != tail_) {
    FinishHead(error);
    error = WorkError::kFlushed;
  }
  cursor_ = head_;
  next_ = unacknowledged_ = posted_end_;
}

void Requester::Measure(Duration round_trip) {
  // RFC 6298.
  if (smoothed_ == Duration::zero()) {
    smoothed_ = round_trip;
    variation_ = round_trip / 2;
  } else {
    const Duration difference =
        round_trip > smoothed_ ? round_trip - smoothed_ : smoothed_ - round_trip;
    variation_ += (difference - variation_) / 4;
    smoothed_ += (round_trip - smoothed_) / 8;
  }
  timeout_ = std::clamp(smoothed_ + 4 * variation_, tuning_.min_timeout, tuning_.max_timeout);
}

Duration Requester::Timeout() const {
  Duration timeout = timeout_;
  for (unsigned i = 0; i < backoff_ && timeout < tuning_.max_timeout; ++i) timeout *= 2;
  return std::min(timeout, tuning_.max_timeout);
}

// `until` is beyond unacknowledged_ and not beyond what the oldest request takes.
void Requester::Progress(uint64_t until, TimePoint now) {
  const auto packets = static_cast<uint32_t>(until - unacknowledged_);
  unacknowledged_ = until;
  while (reads_head_ != reads_tail_ && reads_[reads_head_ % reads_.size()] <= until) ++reads_head_;
  progress_at_ = now;
  backoff_ = 0;
  if (timed_psn_ != 0 && until > timed_psn_) {
    Measure(now - timed_at_);
    timed_psn_ = 0;
  }
  acknowledged_in_window_ += packets;
  if (acknowledged_in_window_ >= window_) {
    acknowledged_in_window_ = 0;
    window_ = std::min(tuning_.window, window_ + std::max<uint32_t>(4, window_ / 8));
  }
  if (unacknowledged_ == At(head_).end) FinishHead(WorkError::kNone);
  // Acknowledged although we had gone back behind it.
  if (next_ < unacknowledged_) {
    next_ = unacknowledged_;
    cursor_ = head_;
  }
  timer_ = next_ == unacknowledged_ ? TimePoint::max() : now + Timeout();
}

bool Requester::AcknowledgeUntil(uint64_t psn, TimePoint now) {
  while (unacknowledged_ < psn) {
    const Posted& oldest = At(head_);
    if (oldest.request.operation == Operation::kRead) return false;
    Progress(std::min(psn, oldest.end), now);
  }
  return true;
}

void Requester::GoBack() {
  next_ = unacknowledged_;
  cursor_ = head_;
  reads_head_ = reads_tail_;
  timed_psn_ = 0;
}

// Fewer packets under way where they get lost.
void Requester::TakeLoss() {
  if (unacknowledged_ < loss_counted_until_) return;
  loss_counted_until_ = sent_end_;
  window_ = std::max(tuning_.min_window, window_ / 2);
}

// Once for each lost response, since all that comes behind it says the same.
void Requester::ImpliedNak() {
  if (implied_nak_at_ == unacknowledged_) return;
  implied_nak_at_ = unacknowledged_;
  ++counts_.implied_naks;
  TakeLoss();
  GoBack();
}

void Requester::TakeAcknowledge(const Packet& packet, TimePoint now) {
  if (failed_ || !connected_) return;
  const uint64_t psn = ExtendPsn(packet.headers.psn, unacknowledged_);
  const uint8_t syndrome = packet.headers.syndrome;
  if (psn >= sent_end_) return;
  if (IsAck(syndrome)) {
    if (psn >= unacknowledged_ && !AcknowledgeUntil(psn + 1, now)) ImpliedNak();
    return;
  }
  // Old news, or for what has been carried out.
  if (psn < unacknowledged_) return;
  if (IsRnrNak(syndrome)) {
    ++counts_.rnr_naks_received;
    if (!AcknowledgeUntil(psn, now)) return ImpliedNak();
    GoBack();
    progress_at_ = now;  // it is there, and says so
    waiting_ = true;
    wait_until_ = now + RnrTime(syndrome & 31);
    timer_ = TimePoint::max();
    return;
  }
  ++counts_.naks_received;
  if (!AcknowledgeUntil(psn, now)) return ImpliedNak();
  if (syndrome == kNakSequence) {
    TakeLoss();
    GoBack();
    return;
  }
  Fail(ErrorOf(syndrome));
}

void Requester::TakeReadResponse(const Packet& packet, TimePoint now) {
  if (failed_ || !connected_) return;
  const uint64_t psn = ExtendPsn(packet.headers.psn, unacknowledged_);
  if (psn < unacknowledged_ || psn >= sent_end_) return;
  if (!AcknowledgeUntil(psn, now)) return ImpliedNak();
  const Posted& oldest = At(head_);
  if (oldest.request.operation != Operation::kRead || psn >= oldest.end) return;
  const uint64_t offset = (psn - oldest.first) * path_.mtu;
  // A response of another length is none of ours; the timer will ask again.
  if (packet.payload.size() != std::min<uint64_t>(path_.mtu, oldest.bytes - offset)) return;
  if (!Scatter(oldest, offset, packet.payload)) return Fail(WorkError::kLocalProtection);
  Progress(psn + 1, now);
}

void Requester::CheckTimer(TimePoint now) {
  if (now < timer_ || failed_) return;
  if (now - progress_at_ >= tuning_.give_up) return Fail(WorkError::kRetriesExceeded);
  ++counts_.timeouts;
  ++backoff_;
  implied_nak_at_ = 0;
  loss_counted_until_ = 0;
  TakeLoss();
  GoBack();
  timer_ = now + Timeout();
}

}  // namespace starling::transport::roce
