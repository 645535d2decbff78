#include "runtime/shadow/host_io.h"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "runtime/shadow/readings.h"

namespace starling::shadow {
namespace {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
// `speed` is in megabits a second; what is more than this (8 Tbit/s) is no speed.
constexpr double kBytesPerMegabit = 1e6 / 8;
constexpr int64_t kMostMegabits = 8'000'000;

// A counter's growth, or nothing known: the first, or one that was reset.
double Rate(uint64_t now, std::optional<uint64_t>& last, double elapsed_s) {
  const std::optional<uint64_t> before = std::exchange(last, now);
  if (!before || now < *before || !(elapsed_s > 0)) return kUnknown;
  return static_cast<double>(now - *before) / elapsed_s;
}

}  // namespace

std::vector<std::string> HostIo::Devices(const char* folder,
                                         const std::vector<std::string>& configured) const {
  if (!configured.empty()) return configured;
  std::vector<std::string> names;
  std::error_code error;
  const std::string path = absl::StrCat(options_.sys, "/", folder);
  for (std::filesystem::directory_iterator it(path, error), end; !error && it != end;
       it.increment(error)) {
    // A bridge, a loop device and the like only pass on what others do.
    if (::access((it->path() / "device").c_str(), F_OK) == 0)
      names.push_back(it->path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

HostIoUse::Of HostIo::Disk() const {
  HostIoUse::Of disk;
  std::set<dev_t> seen;
  double used = 0;
  for (const std::string& folder : folders_) {
    struct stat info;
    struct statvfs space;
    if (::stat(folder.c_str(), &info) != 0 || !seen.insert(info.st_dev).second) continue;
    if (::statvfs(folder.c_str(), &space) != 0) continue;
    const auto block = static_cast<double>(space.f_frsize);
    // What is kept back for root can be used by nobody else.
    const auto taken = static_cast<double>(space.f_blocks - space.f_bfree) * block;
    disk.capacity += taken + static_cast<double>(space.f_bavail) * block;
    used += taken;
  }
  if (disk.capacity > 0) disk.used = used;
  return disk;
}

HostIoUse::Of HostIo::Network(double elapsed_s) {
  HostIoUse::Of network;
  std::set<std::string> counted;
  for (const std::string& device : Devices("class/net", options_.network_devices)) {
    const auto text = ReadFile(absl::StrCat(options_.sys, "/class/net/", device, "/speed"));
    int64_t megabits = 0;
    const bool known = text.ok() &&
                       absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &megabits) &&
                       megabits > 0 && megabits < kMostMegabits;
    if (options_.network_bytes_per_s > 0) {
      counted.insert(device);
    } else if (known) {
      network.capacity += kBytesPerMegabit * static_cast<double>(megabits);
      counted.insert(device);
    }
  }
  if (options_.network_bytes_per_s > 0) network.capacity = options_.network_bytes_per_s;
  if (network.capacity <= 0) return network;
  const auto text = ReadFile(absl::StrCat(options_.proc, "/net/dev"));
  const auto bytes = text.ok() ? ParseNetDev(*text, &counted) : std::nullopt;
  if (!bytes) return {};
  // A link carries as much in each direction.
  const double in = Rate(bytes->received, received_, elapsed_s);
  const double out = Rate(bytes->sent, sent_, elapsed_s);
  network.used = std::max(in, out);
  return network;
}

HostIoUse::Of HostIo::Storage(double elapsed_s) {
  HostIoUse::Of storage;
  if (options_.storage_bytes_per_s <= 0) return storage;
  uint64_t bytes = 0;
  bool any = false;
  for (const std::string& device : Devices("block", options_.storage_devices)) {
    const auto text = ReadFile(absl::StrCat(options_.sys, "/block/", device, "/stat"));
    const auto moved = text.ok() ? ParseBlockStat(*text) : std::nullopt;
    if (!moved) continue;
    bytes += moved->read + moved->written;
    any = true;
  }
  if (!any) return storage;
  storage.capacity = options_.storage_bytes_per_s;
  storage.used = Rate(bytes, moved_, elapsed_s);
  return storage;
}

HostIoUse HostIo::Take(std::chrono::steady_clock::time_point now) {
  const double elapsed_s = taken_ ? std::chrono::duration<double>(now - *taken_).count() : 0;
  taken_ = now;
  return {Disk(), Network(elapsed_s), Storage(elapsed_s)};
}

std::vector<std::string> HostIo::StorageNumbers() const {
  std::vector<std::string> numbers;
  for (const std::string& device : Devices("block", options_.storage_devices)) {
    const auto text = ReadFile(absl::StrCat(options_.sys, "/block/", device, "/dev"));
    if (text.ok()) numbers.emplace_back(absl::StripAsciiWhitespace(*text));
  }
  return numbers;
}

}  // namespace starling::shadow
