#include "runtime/shadow/sampler.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"

namespace starling::shadow {
namespace {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
constexpr size_t kMostText = 1 << 20;

}  // namespace

const char* MetricName(int metric) {
  constexpr const char* kNames[] = {"cpu",    "memory",  "disk-read", "disk-write",
                                    "net-in", "net-out", "gpu",       "gpu-memory"};
  static_assert(std::size(kNames) == kMetricCount);
  return metric >= 0 && metric < kMetricCount ? kNames[metric] : "?";
}

Sampler::Sampler(std::string cgroup, std::string proc, std::optional<pid_t> pid)
    : cgroup_(std::move(cgroup)), proc_(std::move(proc)), pid_(pid) {}

double Sampler::Rate(uint64_t now, std::optional<uint64_t>& last, double elapsed_s) const {
  const std::optional<uint64_t> before = std::exchange(last, now);
  // A counter that went back was reset: how much it counted since nobody knows.
  if (!before || now < *before || !(elapsed_s > 0)) return kUnknown;
  return static_cast<double>(now - *before) / elapsed_s;
}

double Sampler::PressureOf(const char* file) const {
  const auto text = ReadFile(absl::StrCat(cgroup_, "/", file), kMostText);
  if (!text.ok()) return kUnknown;
  const std::optional<Pressure> pressure = ParsePressure(*text);
  return pressure ? pressure->some_avg10 : kUnknown;
}

// Of the processes of the cgroup, as this process sees them.
std::vector<pid_t> Sampler::Pids() const {
  std::vector<pid_t> pids;
  const auto text = ReadFile(cgroup_ + "/cgroup.procs", kMostText);
  if (!text.ok()) return pids;
  for (const absl::string_view line : absl::StrSplit(*text, '\n', absl::SkipEmpty())) {
    int32_t pid = 0;
    if (absl::SimpleAtoi(line, &pid) && pid > 0) pids.push_back(pid);
  }
  return pids;
}

absl::StatusOr<Sample> Sampler::Take(std::chrono::steady_clock::time_point now,
                                     const GpuReading* gpus) {
  Sample sample;
  std::fill(sample.values, sample.values + kMetricCount, kUnknown);
  const double elapsed_s = taken_ ? std::chrono::duration<double>(now - *taken_).count() : 0;
  taken_ = now;

  // Every cgroup has it: without it there is none.
  const auto cpu = ReadFile(cgroup_ + "/cpu.stat", kMostText);
  if (!cpu.ok()) return Annotate(cpu.status(), "sampling a component");
  if (const auto usage = ParseCpuUsage_us(*cpu)) {
    sample.values[kCpu] = Rate(*usage, cpu_us_, elapsed_s) / 1e6;
  }
  if (const auto text = ReadFile(cgroup_ + "/memory.current", kMostText); text.ok()) {
    if (const auto bytes = ParseNumber(*text)) {
      // What a component has read lately is not what it needs: as `kubectl top` counts.
      const auto stat = ReadFile(cgroup_ + "/memory.stat", kMostText);
      const uint64_t cache = stat.ok() ? ParseInactiveFile(*stat).value_or(0) : 0;
      sample.values[kMemory] = static_cast<double>(*bytes - std::min(*bytes, cache));
    }
  }
  if (const auto text = ReadFile(cgroup_ + "/io.stat", kMostText); text.ok()) {
    if (const auto bytes = ParseIoStat(*text)) {
      sample.values[kDiskRead] = Rate(bytes->read, read_, elapsed_s);
      sample.values[kDiskWrite] = Rate(bytes->written, written_, elapsed_s);
    }
  }
  if (pid_) {
    if (const auto text = ReadFile(absl::StrCat(proc_, "/", *pid_, "/net/dev"), kMostText);
        text.ok()) {
      if (const auto bytes = ParseNetDev(*text)) {
        sample.values[kNetIn] = Rate(bytes->received, received_, elapsed_s);
        sample.values[kNetOut] = Rate(bytes->sent, sent_, elapsed_s);
      }
    }
  }
  if (gpus != nullptr) {
    const GpuReading::Use use = gpus->processes.empty() ? GpuReading::Use() : gpus->Of(Pids());
    sample.values[kGpu] = use.share;
    sample.values[kGpuMemory] = static_cast<double>(use.memory);
  }
  sample.cpu_pressure = PressureOf("cpu.pressure");
  sample.memory_pressure = PressureOf("memory.pressure");
  sample.io_pressure = PressureOf("io.pressure");
  return sample;
}

}  // namespace starling::shadow
