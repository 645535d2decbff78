#include "runtime/shadow/host_sampler.h"

#include <unistd.h>

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"

namespace starling::shadow {

absl::StatusOr<HostUse> HostSampler::Take() {
  ASSIGN_OR_RETURN(const std::string memory, ReadFile(proc_ + "/meminfo"));
  ASSIGN_OR_RETURN(const std::string stat, ReadFile(proc_ + "/stat"));
  const auto total = ParseMeminfo(memory, "MemTotal");
  const auto available = ParseMeminfo(memory, "MemAvailable");
  const auto ticks = ParseProcessorTicks(stat);
  if (!total || !available || !ticks) {
    return absl::FailedPreconditionError(
        absl::StrCat(proc_, " does not say what this host has and uses"));
  }
  HostUse use;
  use.processors = static_cast<double>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
  use.processors_used = std::numeric_limits<double>::quiet_NaN();
  if (ticks_ && ticks->all > ticks_->all && ticks->busy >= ticks_->busy) {
    use.processors_used = use.processors * static_cast<double>(ticks->busy - ticks_->busy) /
                          static_cast<double>(ticks->all - ticks_->all);
  }
  ticks_ = *ticks;
  use.memory = *total;
  use.memory_used = *total - std::min(*total, *available);
  use.swap_free = ParseMeminfo(memory, "SwapFree").value_or(0);
  return use;
}

}  // namespace starling::shadow
