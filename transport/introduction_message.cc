#include "transport/introduction_message.h"

#include <endian.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstring>

namespace starling::transport {
namespace {

constexpr uint32_t kMagic = 0x53515031;  // "SQP1"
constexpr uint32_t kMost24Bits = 0xffffff;

// As it is on the wire: all numbers big-endian.
struct Wire {
  uint32_t magic = 0;
  uint32_t kind = 0;
  uint32_t ip = 0;
  uint32_t number = 0;
  uint32_t psn = 0;
  uint32_t mtu = 0;
  uint32_t reads = 0;
  uint32_t partition = 0;
  uint32_t private_bytes = 0;
  std::array<char, kMaxPrivateData> private_data{};
};
static_assert(sizeof(Wire) == kIntroductionBytes);

bool HasAddress(IntroductionKind kind) {
  return kind == IntroductionKind::kAsk || kind == IntroductionKind::kAccept;
}

}  // namespace

void EncodeIntroduction(const IntroductionMessage& message,
                        std::span<std::byte, kIntroductionBytes> out) {
  assert(message.private_data.size() <= kMaxPrivateData);
  Wire wire = {.magic = htobe32(kMagic), .kind = htobe32(static_cast<uint32_t>(message.kind))};
  if (HasAddress(message.kind)) {
    const QueuePairAddress& address = message.address;
    wire.ip = htobe32(address.ip);
    wire.number = htobe32(address.number);
    wire.psn = htobe32(address.psn);
    wire.mtu = htobe32(address.mtu);
    wire.reads = htobe32(address.reads);
    wire.partition = htobe32(address.partition);
  }
  wire.private_bytes = htobe32(static_cast<uint32_t>(message.private_data.size()));
  std::memcpy(wire.private_data.data(), message.private_data.data(), message.private_data.size());
  std::memcpy(out.data(), &wire, sizeof(wire));
}

const char* DecodeIntroduction(std::span<const std::byte, kIntroductionBytes> in,
                               IntroductionMessage& message) {
  Wire wire;
  std::memcpy(&wire, in.data(), sizeof(wire));
  if (be32toh(wire.magic) != kMagic) return "it does not introduce queue pairs as we do";
  const uint32_t kind = be32toh(wire.kind);
  if (kind < static_cast<uint32_t>(IntroductionKind::kAsk) ||
      kind > static_cast<uint32_t>(IntroductionKind::kReady)) {
    return "it is of an unknown kind";
  }
  message.kind = static_cast<IntroductionKind>(kind);
  const uint32_t private_bytes = be32toh(wire.private_bytes);
  if (private_bytes > (message.kind == IntroductionKind::kAsk ? kMaxPrivateData : 0))
    return "its private data is too long";
  if (std::any_of(wire.private_data.begin() + private_bytes, wire.private_data.end(),
                  [](char byte) { return byte != 0; })) {
    return "there is something behind its private data";
  }
  message.private_data.assign(wire.private_data.data(), private_bytes);
  message.address = {};
  if (!HasAddress(message.kind)) {
    const bool empty = wire.ip == 0 && wire.number == 0 && wire.psn == 0 && wire.mtu == 0 &&
                       wire.reads == 0 && wire.partition == 0;
    return empty ? nullptr : "it has an address where none belongs";
  }
  const uint32_t mtu = be32toh(wire.mtu);
  const uint32_t reads = be32toh(wire.reads);
  const uint32_t partition = be32toh(wire.partition);
  if (mtu < 256 || mtu > 4096 || !std::has_single_bit(mtu))
    return "its path MTU is not a power of two from 256 to 4096";
  if (be32toh(wire.number) > kMost24Bits || be32toh(wire.psn) > kMost24Bits)
    return "its queue pair or packet number has more than 24 bits";
  if (reads > UINT8_MAX || partition > UINT16_MAX)
    return "its count of reads or its partition is too large";
  message.address = {.ip = be32toh(wire.ip),
                     .number = be32toh(wire.number),
                     .psn = be32toh(wire.psn),
                     .mtu = mtu,
                     .reads = static_cast<uint8_t>(reads),
                     .partition = static_cast<uint16_t>(partition)};
  return nullptr;
}

}  // namespace starling::transport
