#include "runtime/loop/idle_memory.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "runtime/shadow/readings.h"

namespace starling::loop {
namespace {

// Marks the pages of a process's mappings as not referenced; Documentation/filesystems/proc.rst.
constexpr char kClearAll[] = "1";

}  // namespace

void IdleMemory::Look(const std::string& component, const std::string& cgroup, TimePoint now) {
  Looked& looked = looked_[component];
  if (looked.at != TimePoint{} && now - looked.at < kEvery) return;
  looked.at = now;
  std::set<int64_t> pids;
  int64_t anonymous = 0, referenced = 0;
  const auto procs = ReadFile(cgroup + "/cgroup.procs");
  for (const absl::string_view line :
       absl::StrSplit(procs.ok() ? *procs : "", '\n', absl::SkipEmpty())) {
    int64_t pid = 0;
    if (!absl::SimpleAtoi(line, &pid)) continue;
    const std::string folder = absl::StrCat(proc_, "/", pid);
    // One that is new, or has been there for less than a look, is busy.
    if (looked.pids.contains(pid)) {
      const auto rollup = ReadFile(folder + "/smaps_rollup");
      if (!rollup.ok()) continue;
      anonymous += static_cast<int64_t>(shadow::ParseMeminfo(*rollup, "Anonymous").value_or(0));
      referenced += static_cast<int64_t>(shadow::ParseMeminfo(*rollup, "Referenced").value_or(0));
    }
    if (WriteKnob(folder + "/clear_refs", kClearAll).ok()) pids.insert(pid);
  }
  // What was referenced may be of files: then less is idle than is said to be busy.
  looked.idle = std::max<int64_t>(0, anonymous - referenced);
  looked.pids = std::move(pids);
}

void IdleMemory::KeepOnly(const std::set<std::string>& components) {
  std::erase_if(looked_, [&](const auto& entry) { return !components.contains(entry.first); });
}

int64_t IdleMemory::Bytes(const std::string& component) const {
  const auto found = looked_.find(component);
  return found == looked_.end() ? 0 : found->second.idle;
}

}  // namespace starling::loop
