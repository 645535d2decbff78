#include "transport/dpdk/port.h"

namespace starling::transport::dpdk {

absl::StatusOr<std::unique_ptr<roce::PacketPort>> OpenPort(const std::string& name,
                                                           const roce::MacAddress& mac,
                                                           bool force_mac) {
  (void)name, (void)mac, (void)force_mac;
  return absl::FailedPreconditionError(
      "this build of Starling has no DPDK: install libdpdk-dev and configure with "
      "-DSTARLING_DPDK=ON");
}

}  // namespace starling::transport::dpdk
