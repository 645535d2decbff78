#include <array>
#include <cstring>

#include "tests/fuzz/fuzz.h"
#include "transport/queue_pair.h"
#include "transport/tcp_wire.h"

// Frames of the transport over TCP: what is taken for right is within its limits, and is the same
// bytes when it is written again.

using starling::fuzz::Require;
using namespace starling::transport;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  for (size_t at = 0; at + kTcpHeaderBytes <= size; at += kTcpHeaderBytes) {
    TcpHeader header;
    if (DecodeTcpHeader(std::span<const std::byte, kTcpHeaderBytes>(bytes + at, kTcpHeaderBytes),
                        header) != nullptr) {
      continue;
    }
    Require(header.number > 0);
    Require(header.kind != TcpKind::kMessage || header.bytes <= kMaxMessageBytes);
    Require(header.kind != TcpKind::kWrite || header.bytes <= kMaxWriteBytes);
    Require(header.bytes <= kMaxTcpReadBytes);
    std::array<std::byte, kTcpHeaderBytes> again;
    EncodeTcpHeader(header, again);
    Require(std::memcmp(again.data(), bytes + at, kTcpHeaderBytes) == 0);
  }
  if (size >= kTcpHelloBytes) {
    TcpHello hello;
    bool unlike = false;
    if (DecodeTcpHello(std::span<const std::byte, kTcpHelloBytes>(bytes, kTcpHelloBytes), hello,
                       unlike) == nullptr) {
      Require(hello.data().size() <= kMaxPrivateData);
    }
  }
  if (size >= kTcpWelcomeBytes) {
    TcpAnswer answer{};
    if (DecodeTcpWelcome(std::span<const std::byte, kTcpWelcomeBytes>(bytes, kTcpWelcomeBytes),
                         answer) == nullptr) {
      Require(answer >= TcpAnswer::kAccepted && answer <= TcpAnswer::kUnlike);
    }
  }
  return 0;
}
