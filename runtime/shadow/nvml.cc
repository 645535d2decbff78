#include "runtime/shadow/nvml.h"

#include <dlfcn.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace starling::shadow {
namespace {

constexpr int kSuccess = 0;  // NVML_SUCCESS
constexpr unsigned kMostProcesses = 256;

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
constexpr unsigned long long kUnknownMemory = ~0ull;

}  // namespace

struct Nvml::Functions {
  void* library = nullptr;
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*count)(unsigned*) = nullptr;
  int (*device)(unsigned, Device*) = nullptr;
  int (*utilization)(Device, Utilization*) = nullptr;
  int (*processes)(Device, unsigned*, Process*) = nullptr;
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
      !f->Find("nvmlDeviceGetComputeRunningProcesses_v3", f->processes)) {
    return absl::FailedPreconditionError(
        absl::StrCat(library, " lacks a function of NVML: it is too old, or another library"));
  }
  if (const int error = f->init(); error != kSuccess) {
    return absl::FailedPreconditionError(absl::StrCat("NVML does not start: error ", error));
  }
  f->initialised = true;
  return std::unique_ptr<Nvml>(new Nvml(std::move(f)));
}

Nvml::Usage Nvml::Sample(const std::vector<pid_t>& pids) const {
  Usage usage;
  unsigned count = 0;
  if (functions_->count(&count) != kSuccess) return usage;
  for (unsigned i = 0; i < count; ++i) {
    Device device = nullptr;
    if (functions_->device(i, &device) != kSuccess) continue;
    Process processes[kMostProcesses];
    unsigned known = kMostProcesses;
    if (functions_->processes(device, &known, processes) != kSuccess) continue;
    bool computes = false;
    for (unsigned k = 0; k < std::min(known, kMostProcesses); ++k) {
      if (std::find(pids.begin(), pids.end(), static_cast<pid_t>(processes[k].pid)) == pids.end()) {
        continue;
      }
      computes = true;
      if (processes[k].memory != kUnknownMemory) usage.memory_bytes += processes[k].memory;
    }
    Utilization utilization = {};
    if (computes && functions_->utilization(device, &utilization) == kSuccess) {
      usage.gpu_share += std::min(utilization.gpu, 100u) / 100.0;
    }
  }
  return usage;
}

}  // namespace starling::shadow
