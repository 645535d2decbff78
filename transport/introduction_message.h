#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/strings/string_view.h"
#include "transport/fabric.h"

// The messages by which queue pairs are introduced to each other over TCP, to the byte
// (docs/wire.md, "Introduction"). Pure; private to the room.

namespace starling::transport {

// What one side's queue pair is called.
struct QueuePairAddress {
  uint32_t ip = 0;  // of the RDMA port, in host order; its GID is ::ffff:IP
  uint32_t number = 0;
  uint32_t psn = 0;             // of the first packet it sends
  uint32_t mtu = 0;             // largest path MTU, in bytes: a power of two from 256 to 4096
  uint8_t reads = 0;            // RDMA reads it answers at a time
  uint16_t partition = 0xffff;  // key of it, with the bit of membership
};

enum class IntroductionKind : uint32_t { kAsk = 1, kAccept = 2, kRefuse = 3, kReady = 4 };

struct IntroductionMessage {
  IntroductionKind kind = IntroductionKind::kAsk;
  QueuePairAddress address;  // of ask and accept; the others have none
  std::string private_data;  // of ask, at most kMaxPrivateData bytes
};

inline constexpr size_t kIntroductionBytes = 84;

void EncodeIntroduction(const IntroductionMessage& message,
                        std::span<std::byte, kIntroductionBytes> out);

// What is wrong with the bytes (static), or null: then encoding the message gives them again.
const char* DecodeIntroduction(std::span<const std::byte, kIntroductionBytes> in,
                               IntroductionMessage& message);

}  // namespace starling::transport
