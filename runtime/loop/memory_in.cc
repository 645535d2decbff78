#include "runtime/loop/memory_in.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/fd.h"
#include "base/file.h"
#include "runtime/shadow/readings.h"

namespace starling::loop {
namespace {

int64_t BringInProcess(int64_t pid, const std::string& folder) {
  const auto status = ReadFile(folder + "/status");
  if (!status.ok() || shadow::ParseMeminfo(*status, "VmSwap").value_or(0) == 0) return 0;
  const auto smaps = ReadFile(folder + "/smaps");
  if (!smaps.ok()) return 0;
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (process.get() < 0) return 0;
  int64_t asked = 0;
  uint64_t from = 0, to = 0;
  for (const absl::string_view line : absl::StrSplit(*smaps, '\n')) {
    // "55d0c8a00000-55d0c8a21000 rw-p ..." begins a mapping, "Swap:  12 kB" is of the last one.
    const std::pair<absl::string_view, absl::string_view> range =
        absl::StrSplit(line.substr(0, line.find(' ')), absl::MaxSplits('-', 1));
    uint64_t start = 0, end = 0;
    if (absl::SimpleHexAtoi(range.first, &start) && absl::SimpleHexAtoi(range.second, &end)) {
      from = start;
      to = end;
      continue;
    }
    if (shadow::ParseMeminfo(line, "Swap").value_or(0) == 0 || to <= from) continue;
    const iovec mapping = {reinterpret_cast<void*>(from), to - from};
    if (::syscall(SYS_process_madvise, process.get(), &mapping, 1, MADV_WILLNEED, 0) > 0) {
      asked += static_cast<int64_t>(to - from);
    }
  }
  return asked;
}

}  // namespace

int64_t BringIn(const std::string& cgroup, const std::string& proc) {
  const auto procs = ReadFile(cgroup + "/cgroup.procs");
  if (!procs.ok()) return 0;
  int64_t asked = 0;
  for (const absl::string_view line : absl::StrSplit(*procs, '\n', absl::SkipEmpty())) {
    int64_t pid = 0;
    if (absl::SimpleAtoi(line, &pid)) asked += BringInProcess(pid, absl::StrCat(proc, "/", pid));
  }
  return asked;
}

}  // namespace starling::loop
