#include "transport/tcp_wire.h"

#include <bit>
#include <cstring>

#include "transport/queue_pair.h"

namespace starling::transport {
namespace {

static_assert(std::endian::native == std::endian::little, "the wire format is written with memcpy");

constexpr uint64_t kMagic = 0x5043544c52415453;  // "STARLTCP"
constexpr uint8_t kReport = 1;

struct WireHello {
  uint64_t magic;
  uint16_t version;
  uint16_t messages;
  uint16_t private_bytes;
  uint16_t reserved;
  char private_data[kMaxPrivateData];
};
static_assert(sizeof(WireHello) == kTcpHelloBytes);

struct WireWelcome {
  uint64_t magic;
  uint16_t version;
  uint16_t answer;
  uint32_t reserved;
};
static_assert(sizeof(WireWelcome) == kTcpWelcomeBytes);

struct WireHeader {
  uint8_t kind;
  uint8_t flags;
  uint16_t reserved;
  uint32_t bytes;
  uint64_t number;
  uint64_t address;
  uint32_t key;
  uint32_t reserved2;
};
static_assert(sizeof(WireHeader) == kTcpHeaderBytes);

}  // namespace

void EncodeTcpHeader(const TcpHeader& header, TcpHeaderBytes to) {
  const WireHeader wire = {static_cast<uint8_t>(header.kind),
                           static_cast<uint8_t>(header.report ? kReport : 0),
                           0,
                           header.bytes,
                           header.number,
                           header.address,
                           header.key,
                           0};
  std::memcpy(to.data(), &wire, sizeof(wire));
}

const char* DecodeTcpHeader(std::span<const std::byte, kTcpHeaderBytes> from, TcpHeader& header) {
  WireHeader wire;
  std::memcpy(&wire, from.data(), sizeof(wire));
  if (wire.kind < static_cast<uint8_t>(TcpKind::kMessage) ||
      wire.kind > static_cast<uint8_t>(TcpKind::kRefused)) {
    return "a frame of an unknown kind";
  }
  if (wire.reserved != 0 || wire.reserved2 != 0 || (wire.flags & ~kReport) != 0)
    return "unknown flags in a frame";
  header.kind = static_cast<TcpKind>(wire.kind);
  header.report = (wire.flags & kReport) != 0;
  header.bytes = wire.bytes;
  header.key = wire.key;
  header.number = wire.number;
  header.address = wire.address;
  if (header.number == 0) return "a frame without a number";
  const bool request = header.kind <= TcpKind::kRead;
  if (!request && header.report) return "an answer that asks for an answer";
  switch (header.kind) {
    case TcpKind::kMessage:
      return header.bytes <= kMaxMessageBytes ? nullptr : "a message that is too long";
    case TcpKind::kWrite:
      return header.bytes > 0 && header.bytes <= kMaxWriteBytes
                 ? nullptr
                 : "a write of nothing or of too much";
    case TcpKind::kRead:
    case TcpKind::kData:
      return header.bytes > 0 && header.bytes <= kMaxTcpReadBytes
                 ? nullptr
                 : "a read of nothing or of too much";
    case TcpKind::kDone:
    case TcpKind::kRefused:
      return header.bytes == 0 ? nullptr : "an answer that should have no content";
  }
  return "a frame of an unknown kind";
}

void EncodeTcpHello(const TcpHello& hello, std::span<std::byte, kTcpHelloBytes> to) {
  WireHello wire = {kMagic, kTcpVersion, hello.messages, hello.private_bytes, 0, {}};
  std::memcpy(wire.private_data, hello.private_data.data(), hello.private_bytes);
  std::memcpy(to.data(), &wire, sizeof(wire));
}

const char* DecodeTcpHello(std::span<const std::byte, kTcpHelloBytes> from, TcpHello& hello,
                           bool& unlike) {
  WireHello wire;
  std::memcpy(&wire, from.data(), sizeof(wire));
  unlike = false;
  if (wire.magic != kMagic) return "not Starling's greeting";
  if (wire.version != kTcpVersion) {
    unlike = true;
    return "a greeting of another version";
  }
  if (wire.reserved != 0 || wire.private_bytes > kMaxPrivateData)
    return "a greeting of another length than it may have";
  hello.messages = wire.messages;
  hello.private_bytes = wire.private_bytes;
  std::memcpy(hello.private_data.data(), wire.private_data, kMaxPrivateData);
  return nullptr;
}

void EncodeTcpWelcome(TcpAnswer answer, std::span<std::byte, kTcpWelcomeBytes> to) {
  const WireWelcome wire = {kMagic, kTcpVersion, static_cast<uint16_t>(answer), 0};
  std::memcpy(to.data(), &wire, sizeof(wire));
}

const char* DecodeTcpWelcome(std::span<const std::byte, kTcpWelcomeBytes> from, TcpAnswer& answer) {
  WireWelcome wire;
  std::memcpy(&wire, from.data(), sizeof(wire));
  if (wire.magic != kMagic) return "not Starling's answer";
  if (wire.answer < static_cast<uint16_t>(TcpAnswer::kAccepted) ||
      wire.answer > static_cast<uint16_t>(TcpAnswer::kUnlike) || wire.reserved != 0) {
    return "an unknown answer";
  }
  answer = static_cast<TcpAnswer>(wire.answer);
  if (wire.version != kTcpVersion && answer == TcpAnswer::kAccepted)
    return "an answer of another version";
  return nullptr;
}

}  // namespace starling::transport
