#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/fd.h"

namespace starling::checkpoint {

// A component's surroundings, as small as they can be: pid, mount and network namespaces with a
// first process that only reaps, and a cgroup that can be frozen. For the check program alone.
class CheckSandbox {
 public:
  // `first_pid`: what runs in it gets pids above; 0: the lowest that are free, so that they stay
  // clear of those that a restore brings.
  static absl::StatusOr<std::unique_ptr<CheckSandbox>> Create(const std::string& name,
                                                              pid_t first_pid);
  ~CheckSandbox();  // kills everything in it and removes the cgroup

  // Runs `body` in a child in all namespaces and in the cgroup, in a session of its own, with
  // output to `log`; returns its pid inside. The child ends with what body returns.
  absl::StatusOr<pid_t> Run(const std::string& log, const std::function<int()>& body);

  // Runs `body` on a thread that is in the network namespace.
  void InNetwork(const std::function<void()>& body) const;

  absl::Status Freeze();  // returns when everything is frozen
  absl::Status Thaw();
  absl::Status KillAll();
  absl::StatusOr<std::vector<pid_t>> Pids()
      const;                        // as this process counts, ascending by pid inside
  absl::Status MoveOut(pid_t pid);  // to the cgroup above

  const std::string& cgroup() const { return cgroup_; }
  int pid_namespace() const { return pid_ns_.get(); }
  int mount_namespace() const { return mount_ns_.get(); }
  int network_namespace() const { return network_ns_.get(); }
  absl::StatusOr<UniqueFd> CgroupProcs() const;

 private:
  CheckSandbox() = default;
  std::string cgroup_;
  pid_t init_ = 0;
  UniqueFd pid_ns_, mount_ns_, network_ns_;
};

// The last of a process's pids: that of its own pid namespace.
absl::StatusOr<pid_t> PidInside(pid_t pid);

}  // namespace starling::checkpoint
