#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"

namespace starling::keeper {

struct ProbeOptions {
  std::string command;         // for /bin/sh -c
  int network_namespace = -1;  // to run in; -1: the caller's own
};

struct ProbeOutcome {
  int exit_status = 0;  // WEXITSTATUS, or 128 + signal
  std::string output;   // the last 4 KiB of standard output and error
};

// Runs a command of the component's owner beside the component, in its network namespace, and waits
// for it. kDeadlineExceeded when it takes too long: its process group is killed then. Thread-safe.
absl::StatusOr<ProbeOutcome> RunProbe(const ProbeOptions& options, Deadline deadline);

}  // namespace starling::keeper
