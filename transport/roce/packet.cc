#include "transport/roce/packet.h"

#include <arpa/inet.h>
#include <endian.h>
#include <isa-l/crc.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace starling::transport::roce {
namespace {

constexpr uint16_t kEtherTypeIp = 0x0800;
constexpr uint8_t kIpVersionAndLength = 0x45;
constexpr uint16_t kDontFragment = 0x4000;
constexpr uint16_t kFragmentBits = 0x3fff;  // more-fragments and offset
constexpr uint8_t kProtocolUdp = 17;

constexpr size_t kIpAt = kEthernetBytes;
constexpr size_t kUdpAt = kIpAt + kIpBytes;
constexpr size_t kBthAt = kUdpAt + kUdpBytes;
static_assert(kBthAt + kBthBytes == kFixedBytes);

// What stands before the IP header in the bytes that the ICRC covers: a local route header of ones.
constexpr size_t kPseudoBytes = 8;

template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}
uint8_t Load8(const std::byte* from) { return static_cast<uint8_t>(*from); }
uint16_t Load16(const std::byte* from) { return be16toh(Load<uint16_t>(from)); }
uint32_t Load32(const std::byte* from) { return be32toh(Load<uint32_t>(from)); }
uint64_t Load64(const std::byte* from) { return be64toh(Load<uint64_t>(from)); }

void Store8(std::byte* to, uint8_t value) { *to = static_cast<std::byte>(value); }
void Store16(std::byte* to, uint16_t value) {
  value = htobe16(value);
  std::memcpy(to, &value, sizeof(value));
}
void Store32(std::byte* to, uint32_t value) {
  value = htobe32(value);
  std::memcpy(to, &value, sizeof(value));
}
void Store64(std::byte* to, uint64_t value) {
  value = htobe64(value);
  std::memcpy(to, &value, sizeof(value));
}

// RFC 1071, over the IP header.
uint16_t IpChecksum(const std::byte* header) {
  uint32_t sum = 0;
  for (size_t i = 0; i < kIpBytes; i += 2) sum += Load16(header + i);
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

}  // namespace

absl::StatusOr<MacAddress> ParseMac(absl::string_view text) {
  MacAddress mac;
  int end = 0;
  if (std::sscanf(std::string(text).c_str(), "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0],
                  &mac[1], &mac[2], &mac[3], &mac[4], &mac[5], &end) != 6 ||
      static_cast<size_t>(end) != text.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is no MAC address; say 02:00:00:00:00:01"));
  }
  return mac;
}

absl::StatusOr<uint32_t> ParseIp(absl::string_view text) {
  in_addr address = {};
  if (::inet_pton(AF_INET, std::string(text).c_str(), &address) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is no IPv4 address; say 10.0.0.1"));
  }
  return ntohl(address.s_addr);
}

std::string MacText(const MacAddress& mac) {
  return absl::StrFormat("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
                         mac[5]);
}

std::string IpText(uint32_t ip) {
  return absl::StrFormat("%d.%d.%d.%d", ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255);
}

DecodeError Decode(std::span<const std::byte> frame, Packet& packet) {
  if (frame.size() < kFixedBytes + kIcrcBytes) return DecodeError::kNotRoce;
  const std::byte* const ip = frame.data() + kIpAt;
  const std::byte* const udp = frame.data() + kUdpAt;
  const std::byte* const bth = frame.data() + kBthAt;
  if (Load16(frame.data() + 12) != kEtherTypeIp || Load8(ip) != kIpVersionAndLength ||
      Load8(ip + 9) != kProtocolUdp || Load16(udp + 2) != kUdpPort) {
    return DecodeError::kNotRoce;
  }
  if ((Load16(ip + 6) & kFragmentBits) != 0) return DecodeError::kMalformed;
  const size_t ip_bytes = Load16(ip + 2);
  if (ip_bytes > frame.size() - kEthernetBytes ||
      ip_bytes < kIpBytes + kUdpBytes + kBthBytes + kIcrcBytes ||
      Load16(udp + 4) != ip_bytes - kIpBytes) {
    return DecodeError::kMalformed;
  }
  if (Load8(bth) > kLastOpcode) return DecodeError::kOpcode;
  const auto opcode = static_cast<Opcode>(Load8(bth));
  const uint8_t flags = Load8(bth + 1);
  if ((flags & 0x0f) != 0) return DecodeError::kMalformed;  // transport header version
  const size_t pad = flags >> 4 & 3;
  const size_t overhead =
      kIpBytes + kUdpBytes + kBthBytes + ExtendedBytes(opcode) + pad + kIcrcBytes;
  if (ip_bytes < overhead) return DecodeError::kMalformed;
  const size_t payload_bytes = ip_bytes - overhead;
  if (PadBytes(payload_bytes) != pad) return DecodeError::kMalformed;

  Headers& h = packet.headers;
  std::memcpy(h.destination_mac.data(), frame.data(), 6);
  std::memcpy(h.source_mac.data(), frame.data() + 6, 6);
  h.traffic_class = Load8(ip + 1);
  h.ip_id = Load16(ip + 4);
  h.hop_limit = Load8(ip + 8);
  h.source_ip = Load32(ip + 12);
  h.destination_ip = Load32(ip + 16);
  h.source_port = Load16(udp);
  h.opcode = opcode;
  h.solicited = (flags & 0x80) != 0;
  h.migrated = (flags & 0x40) != 0;
  h.partition = Load16(bth + 2);
  h.queue_pair = Load32(bth + 4) & kMask24;
  h.ack_request = (Load8(bth + 8) & 0x80) != 0;
  h.psn = Load32(bth + 8) & kMask24;
  const std::byte* at = bth + kBthBytes;
  if (HasReth(opcode)) {
    h.remote_address = Load64(at);
    h.remote_key = Load32(at + 8);
    h.dma_bytes = Load32(at + 12);
    at += kRethBytes;
  }
  if (HasAeth(opcode)) {
    h.syndrome = Load8(at);
    h.message_sequence = Load32(at) & kMask24;
    at += kAethBytes;
  }
  if (HasImmediate(opcode)) {
    h.immediate = Load32(at);
    at += kImmediateBytes;
  }
  packet.payload = {at, payload_bytes};
  return DecodeError::kNone;
}

bool IcrcIsRight(std::span<const std::byte> frame) {
  const size_t end = kEthernetBytes + Load16(frame.data() + kIpAt + 2);
  uint32_t crc = StartIcrc(frame.first(kFixedBytes));
  crc = ContinueIcrc(crc, frame.subspan(kFixedBytes, end - kIcrcBytes - kFixedBytes));
  return le32toh(Load<uint32_t>(frame.data() + end - kIcrcBytes)) == crc;
}

size_t EncodeHeaders(const Headers& headers, size_t payload_bytes, std::byte* to) {
  const Headers& h = headers;
  const size_t pad = PadBytes(payload_bytes);
  const size_t udp_bytes =
      kUdpBytes + kBthBytes + ExtendedBytes(h.opcode) + payload_bytes + pad + kIcrcBytes;
  std::memcpy(to, h.destination_mac.data(), 6);
  std::memcpy(to + 6, h.source_mac.data(), 6);
  Store16(to + 12, kEtherTypeIp);

  std::byte* const ip = to + kIpAt;
  Store8(ip, kIpVersionAndLength);
  Store8(ip + 1, h.traffic_class);
  Store16(ip + 2, static_cast<uint16_t>(kIpBytes + udp_bytes));
  Store16(ip + 4, h.ip_id);
  Store16(ip + 6, kDontFragment);
  Store8(ip + 8, h.hop_limit);
  Store8(ip + 9, kProtocolUdp);
  Store16(ip + 10, 0);
  Store32(ip + 12, h.source_ip);
  Store32(ip + 16, h.destination_ip);
  Store16(ip + 10, IpChecksum(ip));

  std::byte* const udp = to + kUdpAt;
  Store16(udp, h.source_port);
  Store16(udp + 2, kUdpPort);
  Store16(udp + 4, static_cast<uint16_t>(udp_bytes));
  Store16(udp + 6, 0);

  std::byte* const bth = to + kBthAt;
  Store8(bth, static_cast<uint8_t>(h.opcode));
  Store8(bth + 1,
         static_cast<uint8_t>((h.solicited ? 0x80 : 0) | (h.migrated ? 0x40 : 0) | pad << 4));
  Store16(bth + 2, h.partition);
  Store32(bth + 4, h.queue_pair & kMask24);
  Store32(bth + 8, (h.psn & kMask24) | (h.ack_request ? 0x80000000u : 0));
  std::byte* at = bth + kBthBytes;
  if (HasReth(h.opcode)) {
    Store64(at, h.remote_address);
    Store32(at + 8, h.remote_key);
    Store32(at + 12, h.dma_bytes);
    at += kRethBytes;
  }
  if (HasAeth(h.opcode)) {
    Store32(at, uint32_t{h.syndrome} << 24 | (h.message_sequence & kMask24));
    at += kAethBytes;
  }
  if (HasImmediate(h.opcode)) {
    Store32(at, h.immediate);
    at += kImmediateBytes;
  }
  return static_cast<size_t>(at - to);
}

uint32_t StartIcrc(std::span<const std::byte> headers) {
  // What routers may change counts as ones.
  std::array<std::byte, kPseudoBytes + kMaxHeaderBytes - kEthernetBytes> masked;
  std::fill_n(masked.begin(), kPseudoBytes, std::byte{0xff});
  std::byte* const ip = masked.data() + kPseudoBytes;
  const size_t bytes = headers.size() - kEthernetBytes;
  std::memcpy(ip, headers.data() + kEthernetBytes, bytes);
  Store8(ip + 1, 0xff);                         // traffic class
  Store8(ip + 8, 0xff);                         // time to live
  Store16(ip + 10, 0xffff);                     // IP checksum
  Store16(ip + kIpBytes + 6, 0xffff);           // UDP checksum
  Store8(ip + kIpBytes + kUdpBytes + 4, 0xff);  // congestion bits of the BTH
  return ContinueIcrc(0, std::span<const std::byte>(masked).first(kPseudoBytes + bytes));
}

uint32_t ContinueIcrc(uint32_t crc, std::span<const std::byte> bytes) {
  // The library's pointer is not const for want of care; it only reads.
  auto* data = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(bytes.data()));
  return crc32_gzip_refl(crc, data, bytes.size());
}

size_t EncodeTrailer(uint32_t crc, size_t payload_bytes, std::byte* to) {
  const size_t pad = PadBytes(payload_bytes);
  std::fill_n(to, pad, std::byte{0});
  crc = htole32(ContinueIcrc(crc, {to, pad}));
  std::memcpy(to + pad, &crc, sizeof(crc));
  return pad + kIcrcBytes;
}

}  // namespace starling::transport::roce
