#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/fd.h"

namespace starling::keeper {

// Whom a component runs as.
struct Identity {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
  std::string name;  // empty for a number that no user has
  std::string home = "/";
};

// From a user name or number; empty: root. kInvalidArgument when this host has no such user.
absl::StatusOr<Identity> ResolveUser(const std::string& user);

struct SandboxOptions {
  std::string init_path;  // starling-init, at the same path on every host (it is in the dump)
  bool own_network = false;
  Identity identity;
  std::string output;  // file for standard output and error, exists
  std::string directory = "/";
  std::vector<std::string> environment;  // KEY=VALUE
  std::vector<std::string> command;
};

// A component's pid, mount and (if it has an address) network namespace, and the process that holds
// them: `starling-init ns`. That process dies with the thread that called Start(), and everything
// in the pid namespace with it. Move-only. Launch and Adopt one at a time; the rest is thread-safe.
class Sandbox {
 public:
  // Call on the main thread.
  static absl::StatusOr<Sandbox> Start(const SandboxOptions& options, Deadline deadline);

  ~Sandbox();  // kills what is in it
  Sandbox(Sandbox&&) = default;
  Sandbox& operator=(Sandbox&&) = delete;

  // Starts the component's tree inside the cgroup behind `cgroup_procs` and returns its root's pid
  // as counted inside once the command has been executed. Errors carry the failed system call's
  // code (kNotFound: no such program).
  absl::StatusOr<pid_t> Launch(int cgroup_procs, Deadline deadline);

  // Makes a restored process the root: its end is the component's end. kNotFound when it is no
  // child of the namespace's first process, because it has died.
  absl::Status Adopt(pid_t inside, Deadline deadline);

  // Lets the first process hold a userfaultfd of the component too (borrowed here), until
  // Release(): should this process die, it ends the component before it closes them.
  absl::Status Hold(int uffd, Deadline deadline);
  absl::Status Release(Deadline deadline);

  // SIGKILL to the first process, which ends the whole namespace.
  void Kill() const;

  // Reaps the first process, to be called when init_pidfd() is readable. The root's status as
  // WEXITSTATUS, or 128 + signal.
  absl::StatusOr<int> Reap();

  pid_t init_pid() const { return init_pid_; }
  int init_pidfd() const { return init_pidfd_.get(); }
  int pid_namespace() const { return pid_namespace_.get(); }
  int mount_namespace() const { return mount_namespace_.get(); }
  int ipc_namespace() const { return ipc_namespace_.get(); }
  int network_namespace() const { return network_namespace_.get(); }  // -1: the host's

 private:
  Sandbox() = default;
  absl::StatusOr<std::string> Ask(const std::string& request, const std::vector<int>& fds,
                                  Deadline deadline);

  pid_t init_pid_ = 0;
  bool reaped_ = false;
  UniqueFd init_pidfd_;
  UniqueFd socket_;
  UniqueFd pid_namespace_;
  UniqueFd mount_namespace_;
  UniqueFd ipc_namespace_;
  UniqueFd network_namespace_;
};

}  // namespace starling::keeper
