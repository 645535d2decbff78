#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace starling::transport {

// What RoCEv2 packets are sent through, as people write it. Value type.
struct RocePort {
  enum class Kind {
    kAfPacket,  // "af_packet:DEVICE": a network device of the kernel's, by packet sockets
    kAfXdp,     // "af_xdp:DEVICE": the same, by AF_XDP
    kMemif,     // "memif:SOCKET", "memif:SOCKET,server": memory shared with another process
    kPci,       // "pci:0000:00:08.0": a physical port
    kVerbs,     // "verbs:DEVICE": the kernel's own RDMA, for peers that have none
  };
  Kind kind = Kind::kAfPacket;
  std::string where;    // DEVICE, SOCKET or the address
  bool server = false;  // of kMemif: makes the socket
};

// kInvalidArgument, saying what there is.
absl::StatusOr<RocePort> ParseRocePort(absl::string_view text);

}  // namespace starling::transport
