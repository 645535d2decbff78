#pragma once

#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace starling::shadow {

// What of a host counts; docs/configuration.md, [resources], has the defaults.
struct HostIoOptions {
  std::string sys = "/sys", proc = "/proc";
  std::vector<std::string> network_devices;  // by name; empty: all that have hardware behind them
  double network_bytes_per_s = 0;            // in each direction; 0: as the devices say
  std::vector<std::string> storage_devices;  // likewise; nothing says what they can do
  double storage_bytes_per_s = 0;            // read and written together; 0: not known
};

// Disk space, network and storage bandwidth: what there is, and what is used by whoever.
struct HostIoUse {
  struct Of {
    double capacity = 0;  // 0: not known, and then nothing is said of what is used
    double used = std::numeric_limits<double>::quiet_NaN();  // not-a-number: not known yet
  };
  Of disk;     // bytes
  Of network;  // bytes a second, in the busier direction
  Of storage;  // bytes a second, read and written together
};

// Samples them, from statvfs(3), /proc/net/dev and /sys/block/DEVICE/stat
// (Documentation/block/stat.rst). It only reads. Not thread-safe.
class HostIo {
 public:
  explicit HostIo(HostIoOptions options) : options_(std::move(options)) {}

  // Folders whose file systems count, each of these once. Those that are not there are passed over.
  void SetFolders(std::vector<std::string> folders) { folders_ = std::move(folders); }

  HostIoUse Take(std::chrono::steady_clock::time_point now);

  // The storage devices, as cgroup v2 names them: "MAJOR:MINOR".
  std::vector<std::string> StorageNumbers() const;

 private:
  // Those of a folder of sysfs that are configured, or that have hardware behind them.
  std::vector<std::string> Devices(const char* folder,
                                   const std::vector<std::string>& configured) const;
  HostIoUse::Of Disk() const;
  HostIoUse::Of Network(double elapsed_s);
  HostIoUse::Of Storage(double elapsed_s);

  const HostIoOptions options_;
  std::vector<std::string> folders_;
  std::optional<std::chrono::steady_clock::time_point> taken_;
  std::optional<uint64_t> received_, sent_, moved_;
};

}  // namespace starling::shadow
