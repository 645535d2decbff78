#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "transport/roce/packet_port.h"

namespace starling::transport::dpdk {

// Opens a port of DPDK by its name (roce_port.h; any kind but "verbs:"). The first call in a
// process starts DPDK's environment (EAL), which then stays until the process ends. `mac` is the
// port's address, but a physical port keeps its own unless `force_mac`. kFailedPrecondition, saying
// what to do, when this build has no DPDK.
absl::StatusOr<std::unique_ptr<roce::PacketPort>> OpenPort(const std::string& name,
                                                           const roce::MacAddress& mac,
                                                           bool force_mac);

}  // namespace starling::transport::dpdk
