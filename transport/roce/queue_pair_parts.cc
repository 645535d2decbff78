#include "transport/roce/queue_pair_parts.h"

#include <array>

namespace starling::transport::roce {
namespace {

// In units of 10 us.
constexpr std::array<uint32_t, 32> kRnrTimes = {
    65536, 1,    2,    3,    4,    6,     8,     12,    16,    24,   32,
    48,    64,   96,   128,  192,  256,   384,   512,   768,   1024, 1536,
    2048,  3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152};

// The UDP source port spreads queue pairs over paths; the range is that of ephemeral ports.
uint16_t SourcePort(uint32_t queue_pair) {
  return static_cast<uint16_t>(0xc000 | ((queue_pair * 0x9e3779b1u) >> 18));
}

}  // namespace

Duration RnrTime(uint8_t code) { return std::chrono::microseconds(10) * kRnrTimes[code & 31]; }

const char* WorkErrorText(WorkError error) {
  switch (error) {
    case WorkError::kNone:
      return "success";
    case WorkError::kLocalLength:
      return "local length error";
    case WorkError::kLocalProtection:
      return "local protection error";
    case WorkError::kFlushed:
      return "work request flushed";
    case WorkError::kRemoteInvalid:
      return "remote invalid request error";
    case WorkError::kRemoteAccess:
      return "remote access error";
    case WorkError::kRemoteOperation:
      return "remote operation error";
    case WorkError::kRetriesExceeded:
      return "the peer acknowledges nothing any more";
  }
  return "unknown error";
}

void FrameBuilder::Send(Headers headers, std::span<const std::span<const std::byte>> payload,
                        FrameSink& out) {
  headers.destination_mac = path_.peer_mac;
  headers.source_mac = path_.own_mac;
  headers.traffic_class = path_.traffic_class;
  headers.source_ip = path_.own_ip;
  headers.destination_ip = path_.peer_ip;
  headers.source_port = SourcePort(path_.own_queue_pair);
  headers.partition = path_.partition;
  headers.queue_pair = path_.peer_queue_pair;

  size_t payload_bytes = 0;
  for (const auto& part : payload) payload_bytes += part.size();
  std::array<std::byte, kMaxHeaderBytes> head;
  std::array<std::byte, kMaxTrailerBytes> tail;
  const size_t head_bytes = EncodeHeaders(headers, payload_bytes, head.data());
  uint32_t crc = StartIcrc({head.data(), head_bytes});
  for (const auto& part : payload) crc = ContinueIcrc(crc, part);
  const size_t tail_bytes = EncodeTrailer(crc, payload_bytes, tail.data());
  ++counts_.packets_sent;
  out.Send({.headers = {head.data(), head_bytes},
            .payload = payload,
            .trailer = {tail.data(), tail_bytes},
            .bytes = head_bytes + payload_bytes + tail_bytes});
}

}  // namespace starling::transport::roce
