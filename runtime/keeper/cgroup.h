#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/fd.h"

namespace starling::keeper {

// Where the unified (version 2) hierarchy is mounted: /sys/fs/cgroup, or elsewhere on hosts that
// mount both versions. kFailedPrecondition where there is none.
absl::StatusOr<std::string> FindCgroupRoot();

// Makes `folder` under `root` a group whose children can be given the memory controller.
// Controllers that the host does not offer are left out: a limit then fails in Cgroup::Create, by
// name.
absl::Status PrepareCgroupParent(const std::string& root, const std::string& folder);

// One cgroup v2 group that holds processes. Freezing is waited for on cgroup.events, never by
// polling in steps. Move-only; const operations are thread-safe. Dropping the object leaves the
// group: Remove() takes it away.
class Cgroup {
 public:
  // Makes the group, or takes over an empty one left by a keeper that was killed.
  // `memory_max` in bytes, 0: no limit.
  // Errors: kAlreadyExists when processes are in it; kFailedPrecondition without a memory
  // controller.
  static absl::StatusOr<Cgroup> Create(const std::string& path, uint64_t memory_max);

  // Makes the group if it is not there; processes in it are fine.
  static absl::StatusOr<Cgroup> Open(const std::string& path);

  Cgroup(Cgroup&&) = default;
  Cgroup& operator=(Cgroup&&) = default;

  const std::string& path() const { return path_; }

  // Asks for the state without waiting.
  absl::Status RequestFrozen(bool frozen) const;
  // Waits until cgroup.events says so. kDeadlineExceeded names the group.
  absl::Status WaitFrozen(bool frozen, Deadline deadline) const;
  // cgroup.freeze is 1 and every process has come to rest.
  absl::StatusOr<bool> Frozen() const;

  // SIGKILL to every process, frozen or not, and to what they fork meanwhile.
  absl::Status Kill() const;
  absl::Status WaitEmpty(Deadline deadline) const;
  absl::StatusOr<bool> Empty() const;

  // Processes by the host's numbers (thread group leaders).
  absl::StatusOr<std::vector<pid_t>> Pids() const;
  absl::Status Add(pid_t pid) const;
  // cgroup.procs for writing: a process that writes "0" to it moves itself in.
  absl::StatusOr<UniqueFd> OpenProcs() const;

  // Waits for it to empty, then removes it. A group that is gone already is fine.
  absl::Status Remove(Deadline deadline) const;

 private:
  explicit Cgroup(std::string path) : path_(std::move(path)) {}

  absl::Status WaitEvent(const char* key, bool value, Deadline deadline) const;
  absl::StatusOr<bool> Event(const char* key) const;

  std::string path_;
};

// The process of `group` that has the number `inside` in its innermost pid namespace, by the host's
// number. kNotFound when there is none.
absl::StatusOr<pid_t> HostPid(const Cgroup& group, pid_t inside);

// kInternal, naming the process, unless each process of `group`, which is at rest, descends from
// `root`. Numbers are the host's.
absl::Status CheckTree(const Cgroup& group, pid_t root);

}  // namespace starling::keeper
