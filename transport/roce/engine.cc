#include "transport/roce/engine.h"

#include <algorithm>

namespace starling::transport::roce {
namespace {

// Frames of one pair before it is the next one's turn.
constexpr size_t kTurn = 16;
// The low fifteen bits are the partition, the highest says whether its holder is a full member.
constexpr uint16_t kPartitionMask = 0x7fff;
constexpr uint16_t kFullMember = 0x8000;

bool SamePartition(uint16_t a, uint16_t b) {
  return (a & kPartitionMask) == (b & kPartitionMask) && ((a | b) & kFullMember) != 0;
}

}  // namespace

void EnginePair::EndTogether() {
  if (!failed()) return;
  if (!requester_.failed()) requester_.Flush();
  responder_.Flush();
}

EnginePair* Engine::MakePair(const PairTuning& tuning, CompletionSink& completions) {
  auto free = std::find(pairs_.begin(), pairs_.end(), nullptr);
  if (free == pairs_.end()) {
    if (pairs_.size() == size_t{1} << kSlotBits) return nullptr;
    free = pairs_.emplace(pairs_.end());
  }
  const auto slot = static_cast<uint32_t>(free - pairs_.begin());
  // Numbers 0 and 1 belong to management, and chance keeps late packets of an earlier pair out.
  const auto high = 1 + static_cast<uint32_t>(random_() % ((1u << (24 - kSlotBits)) - 1));
  *free = std::make_unique<EnginePair>(high << kSlotBits | slot, tuning, regions_, completions);
  ++used_;
  return free->get();
}

void Engine::Connect(EnginePair& pair, Path path) {
  path.own_mac = mac_;
  path.own_ip = ip_;
  path.own_queue_pair = pair.number_;
  pair.path_ = path;
  pair.connected_ = true;
  pair.requester_.Connect();
  pair.responder_.Connect();
}

void Engine::DestroyPair(EnginePair* pair) {
  for (auto& slot : pairs_) {
    if (slot.get() != pair) continue;
    slot.reset();
    --used_;
  }
}

EnginePair* Engine::Find(uint32_t number) const {
  const uint32_t slot = number & ((1u << kSlotBits) - 1);
  if (slot >= pairs_.size() || pairs_[slot] == nullptr) return nullptr;
  EnginePair* const pair = pairs_[slot].get();
  return pair->number_ == number && pair->connected_ ? pair : nullptr;
}

void Engine::Receive(std::span<const std::byte> frame, TimePoint now) {
  ++counts_.frames;
  Packet packet;
  const DecodeError error = Decode(frame, packet);
  const Headers& h = packet.headers;
  if (error == DecodeError::kNotRoce ||
      (error == DecodeError::kNone && (h.destination_ip != ip_ || h.destination_mac != mac_))) {
    ++counts_.not_ours;
    return;
  }
  if (error != DecodeError::kNone) {
    ++counts_.malformed;
    return;
  }
  EnginePair* const pair = Find(h.queue_pair);
  if (pair == nullptr || h.source_ip != pair->path_.peer_ip ||
      !SamePartition(h.partition, pair->path_.partition)) {
    ++counts_.unknown;
    return;
  }
  if (!IcrcIsRight(frame)) {
    ++counts_.bad_icrc;
    return;
  }
  if (h.opcode == Opcode::kAcknowledge) {
    pair->requester_.TakeAcknowledge(packet, now);
  } else if (IsReadResponse(h.opcode)) {
    pair->requester_.TakeReadResponse(packet, now);
  } else if (!pair->requester_.failed() || pair->responder_.failed()) {
    pair->responder_.TakeRequest(packet);
  }
  pair->EndTogether();
}

size_t Engine::Transmit(FrameSink& out, TimePoint now, size_t budget) {
  size_t sent = 0;
  ++turn_;
  for (size_t i = 0; i < pairs_.size() && sent < budget; ++i) {
    const size_t turn = (turn_ + i) % pairs_.size();
    EnginePair* const pair = pairs_[turn].get();
    if (pair == nullptr || !pair->connected_) continue;
    pair->requester_.CheckTimer(now);
    const size_t until = std::min(budget, sent + kTurn);
    while (sent < until && pair->responder_.SendOne(out)) ++sent;
    while (sent < until && pair->requester_.SendOne(out, now)) ++sent;
    pair->EndTogether();
  }
  return sent;
}

TimePoint Engine::NextTimer() const {
  TimePoint next = TimePoint::max();
  for (const auto& pair : pairs_) {
    if (pair != nullptr && pair->connected_) next = std::min(next, pair->requester_.timer());
  }
  return next;
}

}  // namespace starling::transport::roce
