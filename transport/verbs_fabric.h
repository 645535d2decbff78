#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "transport/fabric.h"

namespace starling::transport {

// How queue pairs are connected.
enum class VerbsConnect {
  kManager,  // by the RDMA connection manager
  // Over a TCP connection: this is then the provider "roce" with the kernel's RDMA for its port.
  // RoCEv2 ports with an IPv4 address only.
  kIntroduction,
};

// The provider on rdma-core: InfiniBand, RoCE and SoftRoCE. `device` as in ibv_devices, empty: the
// first with an active port. kFailedPrecondition, saying what to do, when there is none.
absl::StatusOr<std::unique_ptr<Fabric>> OpenVerbs(const std::string& device,
                                                  VerbsConnect connect = VerbsConnect::kManager);

}  // namespace starling::transport
