#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "transport/fabric.h"
#include "transport/queue_pair_connection.h"

namespace starling::transport {

namespace roce {
class PacketPort;
}

struct RoceOptions {
  // What to send through, see roce_port.h. Of a "verbs:DEVICE" address and path MTU are the
  // device's.
  std::string port;
  // Its own address, which nobody else on that network has: "10.0.0.17".
  std::string ip;
  // Its own hardware address; empty: one made of `ip`, or a physical port's.
  std::string mac;
  uint32_t path_mtu = 0;  // 1024, 2048 or 4096; 0: the largest that the port carries
  uint16_t partition = 0xffff;
  uint8_t traffic_class = 0;  // on every packet: DSCP and ECN bits
};

// The provider of RoCEv2 in user space, for machines whose kernel has no RDMA. Queue pairs are
// introduced over a TCP connection of the kernel's, so Listen() and Connect() take the host's own
// addresses; the packets go between the addresses of the ports. Only neighbours on one L2 network
// are reached. kFailedPrecondition, saying what to do, when this build has no DPDK; but a port
// "verbs:DEVICE", which is how a machine with RDMA in its kernel speaks to one without, needs none.
absl::StatusOr<std::unique_ptr<Fabric>> OpenRoce(const RoceOptions& options);

// The same over a port that is there already (`options.port` and `options.mac` do not count).
absl::StatusOr<std::unique_ptr<Fabric>> MakeRoceFabric(std::unique_ptr<roce::PacketPort> port,
                                                       const RoceOptions& options,
                                                       const ConnectionTuning& tuning = {});

}  // namespace starling::transport
