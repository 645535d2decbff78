#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace starling::loop {

// Limits that follow what a component uses; 0: what it had before.
struct FittedLimits {
  int64_t cpu = 0;     // cpu.max, thousandths of a processor
  int64_t memory = 0;  // memory.high, bytes
  int weight = 0;      // cpu.weight
  bool operator==(const FittedLimits&) const = default;
};

// What was taken from components of this host for the sake of others, and how it is given back.
// What was before is written down first, so that an agent that is killed leaves nothing behind that
// the next one does not know of. Thread-safe.
class Limits {
 public:
  // `path`: where it is written down.
  static absl::StatusOr<std::unique_ptr<Limits>> Open(std::string path);

  // Half the weight (cpu.weight) that it has among those that want the processors. Again is fine.
  // kFailedPrecondition where the cgroup has no such controller.
  absl::Status Degrade(const std::string& component, const std::string& cgroup);
  // Confines it to these processors (cpuset.cpus), in the kernel's notation. Again, and to others,
  // is fine: what was before the first time is what it gets back. kFailedPrecondition where the
  // cgroup has no such controller.
  absl::Status Confine(const std::string& component, const std::string& cgroup,
                       const std::string& processors);
  // Its weight as it was before it was degraded. Fine for one of which nothing was taken.
  absl::Status Restore(const std::string& component);
  // Limits by use, in place of those fitted before; what is 0 of them gets its own back.
  // kFailedPrecondition where the cgroup has no such controller.
  absl::Status Fit(const std::string& component, const std::string& cgroup,
                   const FittedLimits& limits);
  // Its user is away: no more memory than this before it is slowed down and reclaimed, and a tenth
  // of its weight. 0 bytes: its user is back, and it has again what it had.
  absl::Status Shrink(const std::string& component, const std::string& cgroup, int64_t bytes);
  // For others' sake no memory is reclaimed of it below so much (memory.low); 0 bytes: as before.
  // The group that it is in is protected by what all in it are, or the kernel would heed none.
  // kFailedPrecondition where the cgroup has no such controller.
  absl::Status Protect(const std::string& component, const std::string& cgroup, int64_t bytes);
  // At most so much a second is read from, and as much written to, each of these devices (io.max),
  // "MAJOR:MINOR"; 0: as before. kFailedPrecondition where the cgroup has no such controller, or
  // without a device.
  absl::Status HoldIo(const std::string& component, const std::string& cgroup, int64_t bytes_per_s,
                      const std::vector<std::string>& devices);
  // All that was taken of all of them.
  absl::Status RestoreAll();
  bool degraded(const std::string& component) const;
  FittedLimits fitted(const std::string& component) const;
  // What is known of others is forgotten: their cgroups are gone.
  void KeepOnly(const std::function<bool(const std::string& component)>& lives);

  // Has up to so many bytes of it written out to swap, what was not used lately first. Returns when
  // the kernel is done; less than that is fine.
  static absl::Status PageOut(const std::string& cgroup, int64_t bytes);

 private:
  struct Taken {
    std::string cgroup;
    // By the file of the cgroup: what was in it before.
    std::map<std::string, std::string> before;
    // Why its weight and limits are what they are; they follow from all of it together.
    FittedLimits fitted;
    bool degraded = false;
    int64_t shrunk = 0;                // bytes
    int64_t protect = 0;               // bytes
    int64_t io = 0;                    // bytes a second
    std::vector<std::string> devices;  // of io
  };
  // The component's limits are to be as `wanted` has them. On an error they are as far as it got.
  absl::Status Apply(const std::string& component, const std::string& cgroup, const Taken& wanted);
  Taken Wanted(const std::string& component) const;
  // Writes it down, then does it.
  absl::Status Take(const std::string& component, const std::string& cgroup,
                    const std::string& knob, const std::string& before, const std::string& value);
  absl::Status GiveBack(const std::string& component, const std::string& knob);
  // Of the group that a component's is in: what all in it are protected by together.
  absl::Status ProtectParent(const std::string& cgroup) const;
  explicit Limits(std::string path) : path_(std::move(path)) {}
  absl::Status Write() const;

  const std::string path_;
  mutable std::mutex mutex_;
  std::map<std::string, Taken> taken_;
};

}  // namespace starling::loop
