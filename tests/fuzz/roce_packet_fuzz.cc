#include <array>
#include <cstring>
#include <vector>

#include "tests/fuzz/fuzz.h"
#include "transport/roce/arp.h"
#include "transport/roce/packet.h"

// RoCEv2 frames: what is taken lies within the frame, and its headers come back when they are
// written again.

using starling::fuzz::Require;
using namespace starling::transport::roce;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> frame(reinterpret_cast<const std::byte*>(data), size);
  ArpTable arp({2, 0, 0, 0, 0, 1}, 0x0a000001);
  (void)arp.Take(frame);
  Packet packet;
  if (Decode(frame, packet) != DecodeError::kNone) return 0;
  (void)IcrcIsRight(frame);
  Require(packet.payload.data() >= frame.data());
  Require(packet.payload.data() + packet.payload.size() + kIcrcBytes <=
          frame.data() + frame.size());
  std::array<std::byte, kMaxHeaderBytes> headers;
  const size_t bytes = EncodeHeaders(packet.headers, packet.payload.size(), headers.data());
  Require(frame.data() + bytes == packet.payload.data());
  Packet again;
  std::vector<std::byte> whole(headers.begin(), headers.begin() + static_cast<ptrdiff_t>(bytes));
  whole.insert(whole.end(), packet.payload.begin(), packet.payload.end());
  whole.resize(whole.size() + kMaxTrailerBytes);
  whole.resize(bytes + packet.payload.size() +
               EncodeTrailer(ContinueIcrc(StartIcrc({headers.data(), bytes}), packet.payload),
                             packet.payload.size(), &whole[bytes + packet.payload.size()]));
  Require(Decode(whole, again) == DecodeError::kNone && IcrcIsRight(whole));
  Require(again.headers.opcode == packet.headers.opcode);
  Require(again.headers.psn == packet.headers.psn);
  Require(again.payload.size() == packet.payload.size());
  return 0;
}
