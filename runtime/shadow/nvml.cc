#include "runtime/shadow/nvml.h"

#include <dlfcn.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace starling::shadow {
namespace {

constexpr int kSuccess = 0;           // NVML_SUCCESS
constexpr int kInsufficientSize = 7;  // NVML_ERROR_INSUFFICIENT_SIZE
constexpr unsigned kFewProcesses = 64, kMostProcesses = 65536;
constexpr unsigned kMostGpus = 1024;

// As in nvml.h, which is not needed to build.
using Device = struct nvmlDevice_st*;
struct Utilization {
  unsigned gpu, memory;  // percent
};
struct Process {
  unsigned pid;
  unsigned long long memory;
  unsigned gpu_instance, compute_instance;
};
struct Memory {
  unsigned long long total, free, used;
};
struct ProcessSample {
  unsigned pid;
  unsigned long long time_us;
  unsigned gpu, memory, encoder, decoder;  // percent
};
constexpr unsigned long long kUnknownMemory = ~0ull;

// Calls what fills an array whose size it says itself when it is too small.
template <typename Item, typename Call>
std::vector<Item> Fill(const Call& call) {
  std::vector<Item> items(kFewProcesses);
  for (int tries = 0; tries < 3; ++tries) {
    auto count = static_cast<unsigned>(items.size());
    const int error = call(&count, items.data());
    if (error == kSuccess) {
      items.resize(std::min(static_cast<size_t>(count), items.size()));
      return items;
    }
    if (error != kInsufficientSize) break;
    // More may come between the two calls.
    items.resize(std::min(kMostProcesses, std::max(2 * count, 2 * kFewProcesses)));
  }
  return {};
}

}  // namespace

GpuReading::Use GpuReading::Of(const std::vector<pid_t>& pids) const {
  Use sum;
  for (const pid_t pid : pids) {
    const auto found = processes.find(pid);
    if (found == processes.end()) continue;
    sum.share += found->second.share;
    sum.memory += found->second.memory;
  }
  return sum;
}

struct Nvml::Functions {
  void* library = nullptr;
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*count)(unsigned*) = nullptr;
  int (*device)(unsigned, Device*) = nullptr;
  int (*utilization)(Device, Utilization*) = nullptr;
  int (*memory)(Device, Memory*) = nullptr;
  int (*computing)(Device, unsigned*, Process*) = nullptr;
  // Older drivers lack these.
  int (*drawing)(Device, unsigned*, Process*) = nullptr;
  int (*samples)(Device, ProcessSample*, unsigned*, unsigned long long) = nullptr;
  bool initialised = false;

  ~Functions() {
    if (initialised) shutdown();
    if (library != nullptr) dlclose(library);
  }
  template <typename Function>
  bool Find(const char* name, Function*& function) {
    function = reinterpret_cast<Function*>(dlsym(library, name));
    return function != nullptr;
  }
};

Nvml::Nvml(std::unique_ptr<Functions> functions) : functions_(std::move(functions)) {}
Nvml::~Nvml() = default;

absl::StatusOr<std::unique_ptr<Nvml>> Nvml::Load(const char* library) {
  auto f = std::make_unique<Functions>();
  f->library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (f->library == nullptr) {
    const char* why = dlerror();
    return absl::NotFoundError(absl::StrCat("no NVML: ", why != nullptr ? why : library));
  }
  if (!f->Find("nvmlInit_v2", f->init) || !f->Find("nvmlShutdown", f->shutdown) ||
      !f->Find("nvmlDeviceGetCount_v2", f->count) ||
      !f->Find("nvmlDeviceGetHandleByIndex_v2", f->device) ||
      !f->Find("nvmlDeviceGetUtilizationRates", f->utilization) ||
      !f->Find("nvmlDeviceGetMemoryInfo", f->memory) ||
      !f->Find("nvmlDeviceGetComputeRunningProcesses_v3", f->computing)) {
    return absl::FailedPreconditionError(
        absl::StrCat(library, " lacks a function of NVML: it is too old, or another library"));
  }
  f->Find("nvmlDeviceGetGraphicsRunningProcesses_v3", f->drawing);
  f->Find("nvmlDeviceGetProcessUtilization", f->samples);
  if (const int error = f->init(); error != kSuccess) {
    return absl::FailedPreconditionError(absl::StrCat("NVML does not start: error ", error));
  }
  f->initialised = true;
  return std::unique_ptr<Nvml>(new Nvml(std::move(f)));
}

absl::StatusOr<GpuReading> Nvml::Take() {
  const Functions& f = *functions_;
  GpuReading reading;
  unsigned count = 0;
  if (const int error = f.count(&count); error != kSuccess) {
    return absl::UnavailableError(absl::StrCat("NVML does not count the GPUs: error ", error));
  }
  count = std::min(count, kMostGpus);
  seen_us_.resize(count);
  int last_error = kSuccess;
  for (unsigned i = 0; i < count; ++i) {
    Device device = nullptr;
    Utilization utilization = {};
    Memory memory = {};
    int error = f.device(i, &device);
    if (error == kSuccess) error = f.utilization(device, &utilization);
    if (error == kSuccess) error = f.memory(device, &memory);
    if (error != kSuccess) {
      last_error = error;
      continue;
    }
    const double share = std::min(utilization.gpu, 100u) / 100.0;
    ++reading.gpus;
    reading.memory += memory.total;
    reading.used.share += share;
    reading.used.memory += std::min(memory.used, memory.total);

    // One that computes and draws is in both lists, with the same memory.
    std::map<pid_t, uint64_t> held;
    const auto take = [&](int (*list)(Device, unsigned*, Process*)) {
      for (const Process& process :
           Fill<Process>([&](unsigned*size, Process*to) { return list(device, size, to); })) {
        uint64_t& bytes = held[static_cast<pid_t>(process.pid)];
        if (process.memory != kUnknownMemory) bytes = std::max<uint64_t>(bytes, process.memory);
      }
    };
    take(f.computing);
    if (f.drawing != nullptr) take(f.drawing);

    std::map<pid_t, ProcessSample> newest;
    bool told = false;
    if (f.samples != nullptr && !held.empty()) {
      const auto samples = Fill<ProcessSample>([&](unsigned* size, ProcessSample* to) {
        const int answer = f.samples(device, to, size, seen_us_[i]);
        // None since then: nobody did anything.
        constexpr int kNotFound = 6;
        told = answer == kSuccess || answer == kNotFound;
        return answer;
      });
      for (const ProcessSample& sample : samples) {
        ProcessSample& known = newest[static_cast<pid_t>(sample.pid)];
        if (sample.time_us >= known.time_us) known = sample;
        seen_us_[i] = std::max(seen_us_[i], sample.time_us);
      }
    }
    for (const auto& [pid, bytes] : held) {
      GpuReading::Use& use = reading.processes[pid];
      use.memory += bytes;
      use.share +=
          told ? std::min(newest[pid].gpu, 100u) / 100.0 : share / static_cast<double>(held.size());
    }
  }
  if (count > 0 && reading.gpus == 0) {
    return absl::UnavailableError(
        absl::StrCat("none of ", count, " GPUs answers NVML: error ", last_error));
  }
  return reading;
}

}  // namespace starling::shadow
