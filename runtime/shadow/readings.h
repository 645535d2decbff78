#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>

#include "absl/strings/string_view.h"

// Parsers for what a shadow samples: files of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst),
// pressure stall information (accounting/psi.rst) and /proc/PID/net/dev (proc(5)). Pure; what does
// not have the expected form gives nothing.

namespace starling::shadow {

// `usage_usec` of cpu.stat.
std::optional<uint64_t> ParseCpuUsage_us(absl::string_view text);

// A file that holds one number, such as memory.current.
std::optional<uint64_t> ParseNumber(absl::string_view text);

// `inactive_file` of memory.stat.
std::optional<uint64_t> ParseInactiveFile(absl::string_view text);

// Bytes of a line of /proc/meminfo, such as "MemTotal".
std::optional<uint64_t> ParseMeminfo(absl::string_view text, absl::string_view key);

// Of all processors together since the boot, as in /proc/stat.
struct ProcessorTicks {
  uint64_t busy = 0, all = 0;
};
std::optional<ProcessorTicks> ParseProcessorTicks(absl::string_view text);

struct IoBytes {
  uint64_t read = 0, written = 0;
};
// io.stat, all devices together. An empty file is a component that did none.
std::optional<IoBytes> ParseIoStat(absl::string_view text);

struct Pressure {
  double some_avg10 = 0;  // share of the last 10 s in which some task waited, 0 to 1
  double full_avg10 = 0;  // ... in which all did
  uint64_t some_total_us = 0;
};
std::optional<Pressure> ParsePressure(absl::string_view text);

struct NetBytes {
  uint64_t received = 0, sent = 0;
};
// `InDelivers` of /proc/PID/net/snmp: IP packets that came for this network namespace.
std::optional<uint64_t> ParseIpDelivered(absl::string_view text);

// All devices but lo; with `only`, those that it names.
std::optional<NetBytes> ParseNetDev(absl::string_view text,
                                    const std::set<std::string>* only = nullptr);

// /sys/block/DEVICE/stat.
std::optional<IoBytes> ParseBlockStat(absl::string_view text);

}  // namespace starling::shadow
