#pragma once

#include "absl/status/statusor.h"
#include "runtime/keeper/cgroup.h"

namespace starling::keeper {

// Takes the TCP sockets of the group's processes out of repair mode, in which a CRIU that was
// killed in the middle of a dump leaves them: reads fail with EPERM then, and programs give the
// connection up. The processes must be frozen. Returns how many sockets there were.
absl::StatusOr<int> EndTcpRepair(const Cgroup& group);

}  // namespace starling::keeper
