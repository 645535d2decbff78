#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/shadow/readings.h"

namespace starling::shadow {

// What a host has, and what all that runs on it uses.
struct HostUse {
  double processors = 0;       // that it has
  double processors_used = 0;  // not-a-number in the first sample
  uint64_t memory = 0;         // bytes that it has
  uint64_t memory_used = 0;    // not available without swapping
  uint64_t swap_free = 0;
};

// Samples the host. Not thread-safe.
class HostSampler {
 public:
  explicit HostSampler(std::string proc = "/proc") : proc_(std::move(proc)) {}

  // kFailedPrecondition where /proc does not have what it should.
  absl::StatusOr<HostUse> Take();

 private:
  const std::string proc_;
  std::optional<ProcessorTicks> ticks_;
};

}  // namespace starling::shadow
