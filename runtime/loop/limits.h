#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace starling::loop {

// What was taken from components of this host for the sake of others, and how it is given back.
// What was before is written down first, so that an agent that is killed leaves nothing behind that
// the next one does not know of. Thread-safe.
class Limits {
 public:
  // `path`: where it is written down.
  static absl::StatusOr<std::unique_ptr<Limits>> Open(std::string path);

  // Half the weight (cpu.weight) that it had among those that want the processors. Again is fine.
  // kFailedPrecondition where the cgroup has no such controller.
  absl::Status Degrade(const std::string& component, const std::string& cgroup);
  // Confines it to these processors (cpuset.cpus), in the kernel's notation. Again, and to others,
  // is fine: what was before the first time is what it gets back. kFailedPrecondition where the
  // cgroup has no such controller.
  absl::Status Confine(const std::string& component, const std::string& cgroup,
                       const std::string& processors);
  // Its weight as it was before. Fine for one of which nothing was taken.
  absl::Status Restore(const std::string& component);
  // All that was taken of all of them.
  absl::Status RestoreAll();
  bool degraded(const std::string& component) const;
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
  };
  // Writes it down, then does it.
  absl::Status Take(const std::string& component, const std::string& cgroup,
                    const std::string& knob, const std::string& before, const std::string& value);
  absl::Status GiveBack(const std::string& component, const std::string& knob);
  explicit Limits(std::string path) : path_(std::move(path)) {}
  absl::Status Write() const;

  const std::string path_;
  mutable std::mutex mutex_;
  std::map<std::string, Taken> taken_;
};

}  // namespace starling::loop
