#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"

namespace starling::shadow {

// What the GPUs of a host are used for, at one moment.
struct GpuReading {
  struct Use {
    double share = 0;     // of GPUs' time: 1 is one GPU in use all the time
    uint64_t memory = 0;  // bytes
  };
  unsigned gpus = 0;
  uint64_t memory = 0;  // bytes that all of them have
  Use used;             // by whoever
  std::map<pid_t, Use> processes;

  // What these processes use together.
  Use Of(const std::vector<pid_t>& pids) const;
};

// The little of NVIDIA's management library that a shadow asks for (nvml.h of the CUDA toolkit),
// loaded at run time: a host without it is an ordinary host. Not thread-safe.
class Nvml {
 public:
  // kNotFound: the library is not here; kFailedPrecondition: it is, and does not work.
  static absl::StatusOr<std::unique_ptr<Nvml>> Load(const char* library = "libnvidia-ml.so.1");
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  // All GPUs and the processes on them, which compute or draw. A process's share of the time is
  // what the driver says of it; where it does not say, the GPU's own in equal parts. A GPU that
  // does not answer is left out; kUnavailable when none does.
  absl::StatusOr<GpuReading> Take();

 private:
  struct Functions;
  explicit Nvml(std::unique_ptr<Functions> functions);
  std::unique_ptr<Functions> functions_;
  std::vector<unsigned long long> seen_us_;  // by GPU: the newest sample of processes so far
};

}  // namespace starling::shadow
