#pragma once

// The datagram that starling-heartbeat sends and starling-witness counts: 16 bytes, little-endian,
// no padding. Plain C types only, because the sender is built without the C++ library.

#include <stdint.h>

namespace starling {

struct Beat {
  uint32_t magic;  // kBeatMagic
  uint32_t
      sender;  // drawn once per start, so that a restarted program is not taken for a moved one
  uint64_t number;  // 1, 2, 3, ... ; a number that arrives twice means that two copies run
};
static_assert(sizeof(Beat) == 16);

inline constexpr uint32_t kBeatMagic = 0x31544253;  // "SBT1"

}  // namespace starling
