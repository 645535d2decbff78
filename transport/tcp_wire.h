#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/strings/string_view.h"
#include "transport/fabric.h"

// What the provider "tcp" says on the wire; docs/wire.md "Pages over TCP" gives it to the byte.
// Pure: bytes in, values out. Little-endian. A reader refuses what it does not know. Private to the
// room.

namespace starling::transport {

inline constexpr uint16_t kTcpVersion = 1;

// The first bytes of a connection, by the side that asked for it.
struct TcpHello {
  uint16_t messages = 0;  // ConnectionTuning::messages, which both sides must have alike
  uint16_t private_bytes = 0;
  std::array<char, kMaxPrivateData> private_data{};

  absl::string_view data() const { return {private_data.data(), private_bytes}; }
};

// And what is answered.
enum class TcpAnswer : uint16_t {
  kAccepted = 1,
  kRefused = 2,  // by the application, which saw the private data
  kUnlike = 3,   // another version, or another number of messages
};

inline constexpr size_t kTcpHelloBytes = 64;
inline constexpr size_t kTcpWelcomeBytes = 16;
inline constexpr size_t kTcpHeaderBytes = 32;

enum class TcpKind : uint8_t {
  // Requests, numbered 1, 2, 3, ... on each connection and direction.
  kMessage = 1,  // `bytes` follow
  kWrite = 2,    // `bytes` follow, for `address` under `key`
  kRead = 3,     // asks for `bytes` from `address` under `key`
  // Answers; `number` is that of a request.
  kDone = 4,     // it and all before it have been carried out
  kData = 5,     // `bytes` follow: what the read with that number asked for; stands for kDone too
  kRefused = 6,  // it was not carried out, and nothing behind it is; `key` says why
};

enum class TcpRefusal : uint32_t {
  kAccess = 1,     // memory that was not granted, or not for this
  kMalformed = 2,  // a frame that cannot be
};

struct TcpHeader {
  TcpKind kind = TcpKind::kMessage;
  bool report = false;  // of requests: answer with kDone
  uint32_t bytes = 0;
  uint32_t key = 0;
  uint64_t number = 0;
  uint64_t address = 0;
};

// The longest read; a longer one is not asked for.
inline constexpr uint32_t kMaxTcpReadBytes = 1u << 30;

using TcpHeaderBytes = std::span<std::byte, kTcpHeaderBytes>;
void EncodeTcpHeader(const TcpHeader& header, TcpHeaderBytes to);
// Null when `from` is a header that may be; otherwise what is wrong with it (static).
const char* DecodeTcpHeader(std::span<const std::byte, kTcpHeaderBytes> from, TcpHeader& header);

void EncodeTcpHello(const TcpHello& hello, std::span<std::byte, kTcpHelloBytes> to);
// As DecodeTcpHeader(). `unlike` is set when it is Starling's, but of another version.
const char* DecodeTcpHello(std::span<const std::byte, kTcpHelloBytes> from, TcpHello& hello,
                           bool& unlike);

void EncodeTcpWelcome(TcpAnswer answer, std::span<std::byte, kTcpWelcomeBytes> to);
const char* DecodeTcpWelcome(std::span<const std::byte, kTcpWelcomeBytes> from, TcpAnswer& answer);

}  // namespace starling::transport
