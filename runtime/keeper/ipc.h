#pragma once

#include "absl/status/statusor.h"

namespace starling::keeper {

// Whether an IPC namespace (of /proc/PID/ns/ipc, borrowed) has System V shared memory, semaphores
// or message queues. Thread-safe. Errors: the kernel's, where the namespace cannot be entered.
absl::StatusOr<bool> HasIpcObjects(int ipc_namespace);

// Whether a folder of CRIU's images has an IPC namespace among them.
absl::StatusOr<bool> HasIpcImages(int images_dir);

}  // namespace starling::keeper
