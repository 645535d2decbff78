#pragma once

#include "absl/status/statusor.h"
#include "runtime/keeper/cgroup.h"

namespace starling::keeper {

// Takes the TCP sockets of the group's processes out of repair mode, in which a CRIU that was killed in
// the middle of a dump leaves them: reads fail with EPERM then, and programs give the connection up.
// The processes must be frozen. Returns how many sockets there were.
absl::StatusOr<int> EndTcpRepair(const Cgroup& group);

// Lets every established connection of the group's processes send a window probe now. Its peer has been
// waiting, and tries again ever more seldom; a word from this side, to which it must answer, ends that
// pause. What leaving repair mode says at a restore does not get through the fence. The processes must
// be frozen. Returns how many connections there were.
absl::StatusOr<int> WakeConnections(const Cgroup& group);

}  // namespace starling::keeper
