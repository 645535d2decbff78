#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/fd.h"
#include "checkpoint/criu_version.h"

// Runs the distribution's CRIU as one `criu swrk` process inside a component's namespaces and
// speaks its RPC (rpc.proto, as the criu package installs it) with it.
//
// The socket pair of the RPC is made by the very process that becomes CRIU, after it has entered
// the namespaces, and our end is handed back. CRIU resolves images_dir_fd as /proc/<creator of the
// socket>/fd/N; made this way the creator is CRIU itself, so that the number is one of its own
// descriptors, and the images folder need not be visible inside the component's mount namespace.

namespace starling::checkpoint {

// A descriptor that CRIU shall find by a key, as `--inherit-fd fd[N]:key`.
struct InheritedFd {
  int fd = -1;  // borrowed until Start() has returned
  std::string key;
};

// How and where CRIU runs. Descriptors are borrowed until Start() has returned; -1: not given.
struct CriuOptions {
  std::string binary = "/usr/sbin/criu";  // as seen inside the mount namespace
  std::string preload;  // shared objects to load into it, seen likewise, with colons between them

  // Namespaces to enter (of /proc/PID/ns/*); what is not given is the caller's own. /proc inside
  // the mount namespace must belong to the pid namespace.
  int pid_namespace = -1;
  int mount_namespace = -1;
  int network_namespace = -1;
  int uts_namespace = -1;
  int ipc_namespace = -1;

  // cgroup.procs of the cgroup in which CRIU starts, open for writing. Processes that a restore
  // makes are born there. For a dump it must not be the cgroup that is being frozen.
  int cgroup_procs = -1;

  int images_dir = -1;   // folder of images and log, open for reading
  int page_server = -1;  // connected stream socket to our end of the page-server protocol
  std::vector<InheritedFd> inherited;

  std::string log_file = "criu.log";  // in images_dir; no slash
  int log_level = 1;                  // 0 none, 1 errors, 2 warnings, 3 information, 4 all
};

// What CRIU says in the middle of its work ("pre-dump", "network-lock", "post-dump", "pre-resume",
// ...: its action scripts). The callback's status is the answer: an error makes CRIU fail and is
// part of the operation's status; at "pre-resume" and "post-resume" CRIU ignores the answer, so
// errors there are reported by us once CRIU is done.
struct CriuNotification {
  std::string stage;
  pid_t pid = 0;  // root of the tree as CRIU's own pid namespace counts; 0: CRIU did not say
  int fd = -1;    // descriptor that came along (orphan-pts-master), owned by the session
};
using CriuCallback = std::function<absl::Status(const CriuNotification&)>;

// How CRIU keeps established connections quiet while it dumps them. With iptables it runs two
// processes for every connection to lock it and two to unlock it, inside the freeze, and two more
// at the restore; with nftables it makes one table in its own process.
enum class NetworkLock { kIptables, kNftables };

struct PreDumpRequest {
  pid_t pid = 0;              // root of the tree, as counted inside the pid namespace
  std::string parent_images;  // the round before, relative to images_dir ("../1"); empty: first
  std::string freeze_cgroup;  // path of the component's cgroup inside the mount namespace
  std::chrono::seconds freeze_timeout{10};
  std::vector<std::string> external;
};

struct DumpRequest {
  pid_t pid = 0;
  std::string parent_images;
  std::string freeze_cgroup;
  std::chrono::seconds freeze_timeout{10};
  bool leave_running = true;  // else CRIU kills the tree once it is dumped
  bool tcp_established = true;
  bool track_memory = true;
  bool file_locks = true;
  bool link_remap = true;  // unlinked but still linked elsewhere: temporary hard links
  bool external_unix_sockets = false;
  uint32_t ghost_limit =
      256u << 20;  // bytes; unlinked open files up to this size are in the images
  NetworkLock network_lock = NetworkLock::kNftables;
  std::vector<std::string> external;
};

struct RestoreRequest {
  bool tcp_established = true;
  bool tcp_close = false;  // instead: established connections are there, and closed
  bool file_locks = true;
  bool link_remap = true;
  bool external_unix_sockets = false;
  bool lazy_pages = false;  // CRIU connects to lazy-pages.socket in the images folder
  std::vector<std::string> external;
};

// When CRIU told a stage, before the callback ran and after it had answered.
struct CriuStage {
  std::string stage;
  TimePoint told;
  TimePoint answered;
};

struct CriuResult {
  pid_t pid = 0;  // restored root, as CRIU's pid namespace counts; 0 for dumps
  TimePoint started;
  TimePoint finished;  // CRIU has exited
  std::vector<CriuStage> stages;
};

// What an installed CRIU is and can do on this kernel. Asked outside of any component.
struct CriuFacts {
  CriuVersion version;
  bool memory_tracking = false;  // soft-dirty bits
  bool lazy_pages = false;
  bool pidfd_store = false;
};

// One CRIU process and one operation with it. Start() ahead of time (before the freeze) so that the
// operation does not pay for the start. Start and the operation may run on different threads, one
// after the other; Cancel() and pid() may be called from any thread at any time.
//
// The process must not reap children that it did not start (no waitpid(-1), SIGCHLD not ignored).
// Between fork and exec only async-signal-safe calls are made, so that the caller may have threads.
class CriuSession {
 public:
  // Starts CRIU and returns once it has been executed. Needs root.
  // Errors: kInvalidArgument for options that cannot be, kNotFound when `binary` does not exist in
  // the mount namespace, kPermissionDenied, kInternal naming the step that failed.
  static absl::StatusOr<std::unique_ptr<CriuSession>> Start(const CriuOptions& options,
                                                            Deadline deadline);

  // Kills CRIU if it still runs, and reaps it.
  ~CriuSession();
  CriuSession(const CriuSession&) = delete;
  CriuSession& operator=(const CriuSession&) = delete;

  // These return after CRIU has exited. Errors: the last errors of CRIU's log are part of the
  // message; kAborted after Cancel(), kDeadlineExceeded (CRIU is then killed), kUnavailable when
  // CRIU died, kAlreadyExists when a pid is taken at the target, the callback's own status if it
  // refused, else kInternal. After an error of a dump CRIU has let the tree run on, or the tree is
  // as a killed tracer leaves it: the caller freezes or thaws as it needs. After an error of a
  // restore processes may be left: the caller kills its cgroup.
  absl::StatusOr<CriuResult> PreDump(const PreDumpRequest& request, const CriuCallback& callback,
                                     Deadline deadline);
  absl::StatusOr<CriuResult> Dump(const DumpRequest& request, const CriuCallback& callback,
                                  Deadline deadline);
  absl::StatusOr<CriuResult> Restore(const RestoreRequest& request, const CriuCallback& callback,
                                     Deadline deadline);

  // What CRIU says of itself, and `criu check`: better asked outside of any component.
  absl::StatusOr<CriuFacts> Query(Deadline deadline);
  absl::Status Check(Deadline deadline);

  // Ends CRIU and what it forked for its own work (its process group) with SIGKILL. The operation
  // under way answers kAborted.
  void Cancel();

  // CRIU's pid as the caller's pid namespace counts; 0 once it has been reaped.
  pid_t pid() const;

 private:
  struct Wire;  // keeps rpc.proto's types out of this header

  CriuSession() = default;
  absl::StatusOr<CriuResult> Run(const Wire& request, absl::string_view what,
                                 const CriuCallback& callback, Deadline deadline);
  absl::Status WaitForExit(Deadline deadline);
  absl::Status Failure(absl::string_view what, int criu_errno, absl::string_view message) const;
  std::string LoggedErrors() const;
  void Kill();

  UniqueFd rpc_;
  UniqueFd pidfd_;
  UniqueFd images_dir_;
  UniqueFd stderr_;  // memfd: what CRIU says before its log is open
  std::string log_file_;
  int log_level_ = 1;
  bool has_page_server_ = false;
  std::vector<std::string> inherited_keys_;
  bool used_ = false;
  int exit_status_ = 0;  // as waitid reports; valid once reaped
  bool exited_by_signal_ = false;

  mutable std::mutex mutex_;  // guards pid_, so that Cancel() never signals a reaped pid
  pid_t pid_ = 0;
  std::atomic<bool> cancelled_{false};
};

// The two above with a session of their own.
absl::StatusOr<CriuFacts> QueryCriu(const std::string& binary, Deadline deadline);

// `criu check` over RPC: OK when this kernel has all that CRIU needs; else its errors. `work_dir`
// receives the log.
absl::Status CheckCriu(const std::string& binary, const std::string& work_dir, Deadline deadline);

}  // namespace starling::checkpoint
