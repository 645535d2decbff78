#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"

namespace starling::shadow {

// The little of NVIDIA's management library that a shadow asks for, loaded at run time: a host
// without it is an ordinary host.
class Nvml {
 public:
  struct Usage {
    double gpu_share = 0;       // of all GPUs' time: 1 is one GPU in use all the time
    uint64_t memory_bytes = 0;  // of the processes asked for
  };

  // kNotFound: the library is not here; kFailedPrecondition: it is, and does not work.
  static absl::StatusOr<std::unique_ptr<Nvml>> Load(const char* library = "libnvidia-ml.so.1");
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  // GPUs on which one of `pids` computes, and the memory that those hold.
  Usage Sample(const std::vector<pid_t>& pids) const;

 private:
  struct Functions;
  explicit Nvml(std::unique_ptr<Functions> functions);
  std::unique_ptr<Functions> functions_;
};

}  // namespace starling::shadow
