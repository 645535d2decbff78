#pragma once

#include <cstdint>
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

struct VerbsOptions {
  std::string device;  // as in ibv_devices; empty: the first with an active port
  VerbsConnect connect = VerbsConnect::kManager;
  // Partition key of all packets, which the port's table has to have; 0: that of the port's
  // address. Queue pairs of different partitions do not hear each other.
  uint16_t partition = 0;
  uint8_t traffic_class = 0;  // of what this side sends: DSCP and ECN bits
  bool windows = true;        // memory windows of type 2, where the device has them
};

// The provider on rdma-core: InfiniBand, RoCE and SoftRoCE. kFailedPrecondition, saying what to do,
// when there is no such device, or none of its active ports has the partition.
absl::StatusOr<std::unique_ptr<Fabric>> OpenVerbs(const VerbsOptions& options = {});

}  // namespace starling::transport
