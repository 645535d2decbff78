#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "base/clock.h"

namespace starling::loop {

// How much of each component's memory was not touched lately: the kernel's referenced marks of its
// processes' pages (/proc/PID/smaps_rollup, clear_refs) are cleared and looked at again later. That
// walks page tables; it is done seldom, and only where knowing it is of use. Not thread-safe.
class IdleMemory {
 public:
  static constexpr Duration kEvery = std::chrono::seconds(30);

  explicit IdleMemory(std::string proc = "/proc") : proc_(std::move(proc)) {}

  // Looks at the component if its time has come.
  void Look(const std::string& component, const std::string& cgroup, TimePoint now);
  void KeepOnly(const std::set<std::string>& components);
  // Bytes of private anonymous memory; 0 before it has been looked at twice.
  int64_t Bytes(const std::string& component) const;

 private:
  struct Looked {
    TimePoint at{};
    std::set<int64_t> pids;  // whose marks were cleared then
    int64_t idle = 0;
  };
  const std::string proc_;
  std::map<std::string, Looked> looked_;
};

}  // namespace starling::loop
