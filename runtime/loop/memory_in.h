#pragma once

#include <cstdint>
#include <string>

namespace starling::loop {

// Asks the kernel to read back what of the anonymous memory of a cgroup's processes is in swap
// (process_madvise, MADV_WILLNEED; Linux 5.10), and does not wait for it. Returns how many bytes of
// mappings were asked for; 0 where nothing is swapped out or the kernel has no such call.
int64_t BringIn(const std::string& cgroup, const std::string& proc = "/proc");

}  // namespace starling::loop
