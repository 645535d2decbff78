#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/shadow/nvml.h"
#include "runtime/shadow/readings.h"

namespace starling::shadow {

enum Metric : int {
  kCpu,       // cores in use
  kMemory,    // bytes, without page cache that the kernel would give up first
  kDiskRead,  // bytes a second
  kDiskWrite,
  kNetIn,
  kNetOut,
  kGpu,        // GPUs in use; like the next only where the host has any
  kGpuMemory,  // bytes
  kMetricCount,
};
const char* MetricName(int metric);

// What a component used, seen from outside. A value that is not known is not-a-number: the first of
// each rate, a counter that was reset, a file that is not there.
struct Sample {
  double values[kMetricCount];
  // Shares of the last 10 s in which tasks of the component waited; not-a-number without PSI.
  double cpu_pressure, memory_pressure, io_pressure;
};

// Samples one cgroup. It only reads: the component does not notice. Not thread-safe.
class Sampler {
 public:
  // `cgroup`: the component's folder in /sys/fs/cgroup. `proc`: the /proc to look into. The network
  // is that of the namespace of `pid`, if one is given.
  Sampler(std::string cgroup, std::string proc, std::optional<pid_t> pid);

  // kNotFound: the cgroup is gone. `gpus`: of the same moment; nullptr: not known.
  absl::StatusOr<Sample> Take(std::chrono::steady_clock::time_point now,
                              const GpuReading* gpus = nullptr);

 private:
  // Units a second since the last reading.
  double Rate(uint64_t now, std::optional<uint64_t>& last, double elapsed_s) const;
  double PressureOf(const char* file) const;
  std::vector<pid_t> Pids() const;

  const std::string cgroup_, proc_;
  const std::optional<pid_t> pid_;
  std::optional<std::chrono::steady_clock::time_point> taken_;
  std::optional<uint64_t> cpu_us_, read_, written_, received_, sent_;
};

}  // namespace starling::shadow
