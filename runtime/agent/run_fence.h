#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/clock.h"

namespace starling::agent {

// Runs `command HOST` and waits for it: OK when it exits with 0, and nothing but that says that the
// host is fenced. kFailedPrecondition with the end of what it wrote otherwise; kDeadlineExceeded
// when it takes too long: it and its children are killed then. Thread-safe.
absl::Status RunFence(const std::string& command, const std::string& host, Deadline deadline);

}  // namespace starling::agent
