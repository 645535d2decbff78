#include "transport/roce/responder.h"

#include <algorithm>
#include <cstring>

namespace starling::transport::roce {

Responder::Responder(const Path& path, const PairTuning& tuning, const RegionTable& regions,
                     CompletionSink& completions, PairCounts& counts)
    : path_(path),
      tuning_(tuning),
      regions_(regions),
      completions_(completions),
      counts_(counts),
      builder_(path, counts),
      receives_(tuning.receive_depth),
      jobs_(4 * tuning.reads),
      remembered_(2 * tuning.reads) {}

void Responder::PostReceive(uint64_t id, const Piece& buffer) {
  receives_[receive_tail_++ % receives_.size()] = {id, buffer};
  if (failed()) Flush();
}

void Responder::Flush() {
  const auto flushed = [this](uint64_t id) {
    completions_.Complete({.id = id,
                           .received = true,
                           .error = static_cast<int>(WorkError::kFlushed),
                           .error_text = WorkErrorText(WorkError::kFlushed)});
  };
  if (message_ == Message::kSend) flushed(receive_.id);
  message_ = Message::kNone;
  while (receive_head_ != receive_tail_) flushed(receives_[receive_head_++ % receives_.size()].id);
}

// A later answer takes the place of an earlier one, since acknowledgements are cumulative; but a
// gap that was seen stays one.
void Responder::Answer(uint8_t syndrome, uint64_t psn) {
  if (answer_due_ && answer_ == kNakSequence && syndrome == kAck) return;
  answer_due_ = true;
  answer_ = syndrome;
  answer_psn_ = psn;
}

void Responder::Refuse(uint8_t syndrome) {
  ++counts_.refused;
  refusal_ = syndrome;
  Answer(syndrome, expected_);
  Flush();
}

void Responder::TakeRequest(const Packet& packet) {
  ++counts_.packets_received;
  const uint64_t psn = ExtendPsn(packet.headers.psn, expected_);
  if (failed()) {
    if (psn >= expected_) Answer(refusal_, expected_);
    return;
  }
  if (psn < expected_) return TakeDuplicate(packet);
  if (psn > expected_) {
    if (gap_reported_) return;
    gap_reported_ = true;
    ++counts_.naks_sent;
    return Answer(kNakSequence, expected_);
  }
  // What came behind the gap was dropped, so a report that has not gone out is still needed.
  gap_reported_ = answer_due_ && answer_ == kNakSequence;
  TakeInOrder(packet);
}

// FIRST and MIDDLE are full, what ends a longer message is not empty.
bool Responder::LengthFits(const Packet& packet, bool first, bool last) const {
  const size_t bytes = packet.payload.size();
  if (!last) return bytes == path_.mtu;
  return bytes <= path_.mtu && (first || bytes > 0);
}

void Responder::TakeInOrder(const Packet& packet) {
  switch (packet.headers.opcode) {
    case Opcode::kSendFirst:
      return TakeSend(packet, true, false);
    case Opcode::kSendMiddle:
      return TakeSend(packet, false, false);
    case Opcode::kSendLast:
    case Opcode::kSendLastImmediate:
      return TakeSend(packet, false, true);
    case Opcode::kSendOnly:
    case Opcode::kSendOnlyImmediate:
      return TakeSend(packet, true, true);
    case Opcode::kWriteFirst:
      return TakeWrite(packet, true, false);
    case Opcode::kWriteMiddle:
      return TakeWrite(packet, false, false);
    case Opcode::kWriteLast:
    case Opcode::kWriteLastImmediate:
      return TakeWrite(packet, false, true);
    case Opcode::kWriteOnly:
    case Opcode::kWriteOnlyImmediate:
      return TakeWrite(packet, true, true);
    case Opcode::kReadRequest:
      return TakeRead(packet);
    default:
      return Refuse(kNakInvalid);
  }
}

void Responder::Advance(uint64_t packets, bool ends_message) {
  expected_ += packets;
  if (ends_message) message_sequence_ = (message_sequence_ + 1) & kMask24;
}

bool Responder::TakeReceive(Receive& receive) {
  if (receive_head_ == receive_tail_) {
    ++counts_.rnr_naks_sent;
    // What is on its way behind it needs no report of its own.
    gap_reported_ = true;
    Answer(kRnrNak | (tuning_.min_rnr_timer & 31), expected_);
    return false;
  }
  receive = receives_[receive_head_++ % receives_.size()];
  return true;
}

void Responder::TakeSend(const Packet& packet, bool first, bool last) {
  if ((message_ == Message::kNone) != first || (!first && message_ != Message::kSend) ||
      !LengthFits(packet, first, last)) {
    return Refuse(kNakInvalid);
  }
  if (first) {
    if (!TakeReceive(receive_)) return;
    message_ = Message::kSend;
    written_ = 0;
  }
  const auto fail = [this](WorkError error) {
    message_ = Message::kNone;
    completions_.Complete({.id = receive_.id,
                           .received = true,
                           .error = static_cast<int>(error),
                           .error_text = WorkErrorText(error)});
    Refuse(error == WorkError::kLocalLength ? kNakInvalid : kNakOperation);
  };
  const size_t bytes = packet.payload.size();
  if (bytes > receive_.buffer.bytes - written_) return fail(WorkError::kLocalLength);
  if (bytes > 0) {
    std::byte* const to =
        regions_.FindLocal(receive_.buffer.local_key, receive_.buffer.address + written_, bytes);
    if (to == nullptr) return fail(WorkError::kLocalProtection);
    std::memcpy(to, packet.payload.data(), bytes);
    written_ += bytes;
  }
  Advance(1, last);
  if (last) {
    message_ = Message::kNone;
    completions_.Complete({.id = receive_.id,
                           .received = true,
                           .bytes = static_cast<uint32_t>(written_),
                           .has_immediate = HasImmediate(packet.headers.opcode),
                           .immediate = packet.headers.immediate});
  }
  if (packet.headers.ack_request) Answer(kAck, expected_ - 1);
}

void Responder::TakeWrite(const Packet& packet, bool first, bool last) {
  const Headers& h = packet.headers;
  if ((message_ == Message::kNone) != first || (!first && message_ != Message::kWrite) ||
      !LengthFits(packet, first, last)) {
    return Refuse(kNakInvalid);
  }
  const uint64_t bytes = packet.payload.size();
  const uint64_t done = first ? 0 : written_;
  const uint64_t whole = first ? h.dma_bytes : write_bytes_;
  const uint64_t start = first ? h.remote_address : write_address_;
  const uint32_t key = first ? h.remote_key : write_key_;
  if (last ? done + bytes != whole : done + bytes >= whole) return Refuse(kNakInvalid);
  // Of the first packet all that is to come is looked at, of the others whether the grant is still
  // there. Nothing is written by a write of nothing.
  std::byte* to = nullptr;
  if (whole > 0) {
    if (first && regions_.FindRemote(key, start, whole, Access::kRemoteWrite) == nullptr)
      return Refuse(kNakAccess);
    to = regions_.FindRemote(key, start + done, bytes, Access::kRemoteWrite);
    if (to == nullptr) return Refuse(kNakAccess);
  }
  Receive receive;
  const bool immediate = HasImmediate(h.opcode);
  if (immediate && !TakeReceive(receive)) return;
  if (bytes > 0) std::memcpy(to, packet.payload.data(), bytes);
  message_ = last ? Message::kNone : Message::kWrite;
  written_ = done + bytes;
  write_bytes_ = whole;
  write_address_ = start;
  write_key_ = key;
  Advance(1, last);
  if (immediate) {
    completions_.Complete(
        {.id = receive.id, .received = true, .has_immediate = true, .immediate = h.immediate});
  }
  if (h.ack_request) Answer(kAck, expected_ - 1);
}

void Responder::TakeRead(const Packet& packet) {
  const Headers& h = packet.headers;
  if (message_ != Message::kNone || !packet.payload.empty()) return Refuse(kNakInvalid);
  if (h.dma_bytes > 0 && regions_.FindRemote(h.remote_key, h.remote_address, h.dma_bytes,
                                             Access::kRemoteRead) == nullptr) {
    return Refuse(kNakAccess);
  }
  // More than was agreed on, or repetitions still under way: as if it had been lost.
  if (jobs_tail_ - jobs_head_ == jobs_.size()) return;
  const uint64_t packets = std::max<uint64_t>(1, (h.dma_bytes + path_.mtu - 1) / path_.mtu);
  const ReadJob job = {.first = expected_,
                       .from = expected_,
                       .next = expected_,
                       .end = expected_ + packets,
                       .address = h.remote_address,
                       .bytes = h.dma_bytes,
                       .key = h.remote_key};
  jobs_[jobs_tail_++ % jobs_.size()] = job;
  remembered_[remembered_tail_++ % remembered_.size()] = job;
  Advance(packets, true);
  // The response is the answer to all before it.
  if (answer_ != kNakSequence) answer_due_ = false;
}

void Responder::TakeDuplicate(const Packet& packet) {
  ++counts_.duplicates;
  const Headers& h = packet.headers;
  if (h.opcode != Opcode::kReadRequest) {
    if (!answer_due_ || answer_ == kAck) Answer(kAck, expected_ - 1);
    return;
  }
  const uint64_t psn = ExtendPsn(h.psn, expected_);
  // What is still to be answered is answered in its turn.
  if (jobs_head_ != jobs_tail_ && psn >= jobs_[jobs_head_ % jobs_.size()].next) return;
  const uint64_t oldest = remembered_tail_ - std::min(remembered_tail_, remembered_.size());
  for (uint64_t i = oldest; i < remembered_tail_; ++i) {
    const ReadJob& known = remembered_[i % remembered_.size()];
    if (psn < known.first || psn >= known.end) continue;
    const uint64_t offset = (psn - known.first) * path_.mtu;
    if (h.remote_key != known.key || h.remote_address != known.address + offset ||
        h.dma_bytes > known.bytes - offset) {
      return;
    }
    ++counts_.reads_replayed;
    // Who asks again goes on from there with all that came after it, so that this side does too:
    // otherwise the answers to what was asked before would come first, and be of no use.
    jobs_head_ = jobs_tail_ = 0;
    jobs_[jobs_tail_++] = {
        .first = known.first,
        .from = psn,
        .next = psn,
        .end = psn + std::max<uint64_t>(1, (h.dma_bytes + path_.mtu - 1) / path_.mtu),
        .address = known.address,
        .bytes = static_cast<uint32_t>(offset + h.dma_bytes),
        .key = known.key,
        // Hardware takes what it asks for again for a new READ, SoftRoCE (and we) for the rest of
        // the old one.
        .goes_on = psn != known.first && !h.migrated};
    for (++i; i < remembered_tail_; ++i) jobs_[jobs_tail_++] = remembered_[i % remembered_.size()];
    return;
  }
}

bool Responder::SendReadResponse(FrameSink& out) {
  ReadJob& job = jobs_[jobs_head_ % jobs_.size()];
  const uint64_t offset = (job.next - job.first) * path_.mtu;
  const uint64_t bytes = std::min<uint64_t>(path_.mtu, job.bytes - offset);
  std::span<const std::byte> part;
  if (bytes > 0) {
    const std::byte* from =
        regions_.FindRemote(job.key, job.address + offset, bytes, Access::kRemoteRead);
    if (from == nullptr) {
      // Taken back in the meantime.
      expected_ = job.next;
      jobs_head_ = jobs_tail_;
      Refuse(kNakAccess);
      return true;
    }
    part = {from, bytes};
  }
  const bool last = job.next + 1 == job.end;
  const bool first = job.next == job.from && !job.goes_on;
  Headers headers;
  if (first) {
    headers.opcode = last ? Opcode::kReadResponseOnly : Opcode::kReadResponseFirst;
  } else {
    headers.opcode = last ? Opcode::kReadResponseLast : Opcode::kReadResponseMiddle;
  }
  headers.psn = static_cast<uint32_t>(job.next) & kMask24;
  headers.syndrome = kAck;
  headers.message_sequence = message_sequence_;
  reported_ = false;
  builder_.Send(headers, {&part, 1}, out);
  if (++job.next == job.end) ++jobs_head_;
  return true;
}

bool Responder::SendOne(FrameSink& out) {
  // In the order of the requests: an acknowledgement that overtook a READ's response would say that
  // the response was lost.
  if (jobs_head_ != jobs_tail_) return out.HasRoom() && SendReadResponse(out);
  if (!answer_due_ || !out.HasRoom()) return false;
  if (answer_ != kNakSequence) {
    answer_due_ = false;
    reported_ = false;
    SendAnswer(answer_, answer_psn_, out);
  } else if (reported_) {
    // SoftRoCE heeds one report of a gap, and no other before something was acknowledged.
    reported_ = false;
    SendAnswer(kAck, expected_ - 1, out);
  } else {
    answer_due_ = false;
    reported_ = true;
    SendAnswer(kNakSequence, expected_, out);
  }
  return true;
}

void Responder::SendAnswer(uint8_t syndrome, uint64_t psn, FrameSink& out) {
  Headers headers;
  headers.opcode = Opcode::kAcknowledge;
  headers.psn = static_cast<uint32_t>(psn) & kMask24;
  headers.syndrome = syndrome;
  headers.message_sequence = message_sequence_;
  builder_.Send(headers, {}, out);
}

}  // namespace starling::transport::roce
