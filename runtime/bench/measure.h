#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "runtime/proto/bench.pb.h"
#include "transport/fabric.h"

// The two ends of a measurement over one transport, with data connections as a migration has them.

namespace starling::bench {

// Memory that the measured side grants: the largest write twice, so that neighbours need not meet.
inline constexpr uint64_t kMemoryBytes = 32u << 20;
// Writes are of 4 KiB to this.
inline constexpr uint64_t kMaxWriteBytes = 8u << 20;
inline constexpr int kMaxConnections = 16;

struct MeasureOptions {
  int connections = 2;
  Duration each = std::chrono::milliseconds(500);  // for each size, at least
  int round_trips = 1000;
};

// The measuring side. `tell` hears what is being done. Errors are those of the fabric.
absl::StatusOr<v1::BenchResult> Measure(transport::Fabric& fabric,
                                        const v1::BenchGrantResponse& granted,
                                        const MeasureOptions& options,
                                        const std::function<void(const std::string&)>& tell,
                                        Deadline deadline);

// The measured side of one connection: answers what asks for it, also for a window to `memory`,
// until the peer has gone (OK) or the deadline has passed.
absl::Status Serve(transport::Connection& connection, const transport::MemoryRegion& memory,
                   Deadline deadline);

}  // namespace starling::bench
