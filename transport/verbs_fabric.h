#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "transport/fabric.h"

namespace starling::transport {

// The provider on rdma-core: InfiniBand, RoCE and SoftRoCE. `device` as in ibv_devices, empty: the
// first with an active port. kFailedPrecondition, saying what to do, when there is none.
absl::StatusOr<std::unique_ptr<Fabric>> OpenVerbs(const std::string& device);

}  // namespace starling::transport
