#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// One RoCEv2 packet of the reliable connection service: Ethernet, IPv4 without options, UDP to port
// 4791, base transport header (BTH), extended headers, payload padded to four bytes, invariant CRC
// (ICRC). Formats: InfiniBand Architecture Specification, volume 1, chapters 5 and 9, and its annex
// 17; docs/wire.md has them to the byte. All fields here are in host order. No I/O, no allocation.

namespace starling::transport::roce {

inline constexpr uint16_t kUdpPort = 4791;
inline constexpr uint32_t kMask24 = 0xffffff;  // queue pair numbers and packet sequence numbers
inline constexpr uint16_t kDefaultPartition = 0xffff;

inline constexpr size_t kEthernetBytes = 14;
inline constexpr size_t kIpBytes = 20;
inline constexpr size_t kUdpBytes = 8;
inline constexpr size_t kBthBytes = 12;
inline constexpr size_t kRethBytes = 16;
inline constexpr size_t kAethBytes = 4;
inline constexpr size_t kImmediateBytes = 4;
inline constexpr size_t kIcrcBytes = 4;
// Up to and with the base transport header.
inline constexpr size_t kFixedBytes = kEthernetBytes + kIpBytes + kUdpBytes + kBthBytes;
inline constexpr size_t kMaxHeaderBytes = kFixedBytes + kRethBytes + kImmediateBytes;
inline constexpr size_t kMaxTrailerBytes = 3 + kIcrcBytes;
inline constexpr size_t kMaxPathMtu = 4096;
inline constexpr size_t kMaxFrameBytes = kMaxHeaderBytes + kMaxPathMtu + kMaxTrailerBytes;

using MacAddress = std::array<uint8_t, 6>;

// "02:00:00:00:00:01" and "10.0.0.1". kInvalidArgument names the text.
absl::StatusOr<MacAddress> ParseMac(absl::string_view text);
absl::StatusOr<uint32_t> ParseIp(absl::string_view text);
std::string MacText(const MacAddress& mac);
std::string IpText(uint32_t ip);

enum class Opcode : uint8_t {
  kSendFirst = 0x00,
  kSendMiddle = 0x01,
  kSendLast = 0x02,
  kSendLastImmediate = 0x03,
  kSendOnly = 0x04,
  kSendOnlyImmediate = 0x05,
  kWriteFirst = 0x06,
  kWriteMiddle = 0x07,
  kWriteLast = 0x08,
  kWriteLastImmediate = 0x09,
  kWriteOnly = 0x0a,
  kWriteOnlyImmediate = 0x0b,
  kReadRequest = 0x0c,
  kReadResponseFirst = 0x0d,
  kReadResponseMiddle = 0x0e,
  kReadResponseLast = 0x0f,
  kReadResponseOnly = 0x10,
  kAcknowledge = 0x11,
};
inline constexpr uint8_t kLastOpcode = 0x11;

constexpr bool HasReth(Opcode o) {
  return o == Opcode::kWriteFirst || o == Opcode::kWriteOnly || o == Opcode::kWriteOnlyImmediate ||
         o == Opcode::kReadRequest;
}
constexpr bool HasAeth(Opcode o) {
  return o == Opcode::kReadResponseFirst || o == Opcode::kReadResponseLast ||
         o == Opcode::kReadResponseOnly || o == Opcode::kAcknowledge;
}
constexpr bool HasImmediate(Opcode o) {
  return o == Opcode::kSendLastImmediate || o == Opcode::kSendOnlyImmediate ||
         o == Opcode::kWriteLastImmediate || o == Opcode::kWriteOnlyImmediate;
}
constexpr bool IsReadResponse(Opcode o) {
  return o >= Opcode::kReadResponseFirst && o <= Opcode::kReadResponseOnly;
}
constexpr bool IsRequest(Opcode o) { return o <= Opcode::kReadRequest; }
constexpr size_t ExtendedBytes(Opcode o) {
  return (HasReth(o) ? kRethBytes : 0) + (HasAeth(o) ? kAethBytes : 0) +
         (HasImmediate(o) ? kImmediateBytes : 0);
}

// Syndromes of the acknowledge extended header (AETH). An ACK's low five bits count credits; all
// ones says that it does not.
inline constexpr uint8_t kAck = 0x1f;
inline constexpr uint8_t kRnrNak = 0x20;  // with the timer's code in the low five bits
inline constexpr uint8_t kNakSequence = 0x60;
inline constexpr uint8_t kNakInvalid = 0x61;
inline constexpr uint8_t kNakAccess = 0x62;
inline constexpr uint8_t kNakOperation = 0x63;
constexpr bool IsAck(uint8_t syndrome) { return (syndrome & 0xe0) == 0x00; }
constexpr bool IsRnrNak(uint8_t syndrome) { return (syndrome & 0xe0) == kRnrNak; }

// Everything of a packet but its payload. Of the fields that follow the opcode only those count
// which that opcode has.
struct Headers {
  MacAddress destination_mac{};
  MacAddress source_mac{};
  uint8_t traffic_class = 0;  // IPv4's second byte: DSCP and ECN
  uint8_t hop_limit = 64;
  uint16_t ip_id = 0;
  uint32_t source_ip = 0;
  uint32_t destination_ip = 0;
  uint16_t source_port = 0;

  Opcode opcode = Opcode::kAcknowledge;
  bool solicited = false;
  bool migrated = false;  // "MigReq": 0 from SoftRoCE, 1 from hardware
  uint16_t partition = kDefaultPartition;
  uint32_t queue_pair = 0;  // the destination's
  bool ack_request = false;
  uint32_t psn = 0;

  uint64_t remote_address = 0;  // RETH
  uint32_t remote_key = 0;
  uint32_t dma_bytes = 0;
  uint8_t syndrome = 0;  // AETH
  uint32_t message_sequence = 0;
  uint32_t immediate = 0;
};

struct Packet {
  Headers headers;
  std::span<const std::byte> payload;  // without its padding; into the frame that was decoded
};

enum class DecodeError : uint8_t {
  kNone,
  kNotRoce,    // another protocol or port: not for us at all
  kMalformed,  // lengths or fields that no RoCEv2 packet has
  kOpcode,     // a service or operation that is not one of ours
};

// Takes a frame apart. Its ICRC is not looked at, see IcrcIsRight(). Bytes behind the IP packet are
// padding of the Ethernet and ignored.
DecodeError Decode(std::span<const std::byte> frame, Packet& packet);

// Of a frame that Decode() took.
bool IcrcIsRight(std::span<const std::byte> frame);

// Writes all headers of a packet with this much payload and returns their length; `to` has room for
// kMaxHeaderBytes.
size_t EncodeHeaders(const Headers& headers, size_t payload_bytes, std::byte* to);

// The ICRC of a packet is that of its headers as EncodeHeaders() wrote them, continued over payload
// and padding. It is stored little-endian.
uint32_t StartIcrc(std::span<const std::byte> headers);
uint32_t ContinueIcrc(uint32_t crc, std::span<const std::byte> bytes);

constexpr size_t PadBytes(size_t payload_bytes) { return (4 - payload_bytes % 4) % 4; }

// Writes padding and ICRC and returns their length; `crc` covers headers and payload.
size_t EncodeTrailer(uint32_t crc, size_t payload_bytes, std::byte* to);

}  // namespace starling::transport::roce
