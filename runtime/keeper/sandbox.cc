#include "runtime/keeper/sandbox.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"
#include "base/unix_socket.h"

namespace starling::keeper {
namespace {

// Where `starling-init ns` finds its socket.
constexpr int kSocketFd = 3;

bool HasVariable(const std::vector<std::string>& environment, absl::string_view name) {
  for (const std::string& variable : environment) {
    absl::string_view rest = variable;
    if (absl::ConsumePrefix(&rest, name) && absl::StartsWith(rest, "=")) return true;
  }
  return false;
}

// The component's variables, and what every login has where it does not say otherwise.
std::vector<std::string> FullEnvironment(const SandboxOptions& options) {
  std::vector<std::string> all = options.environment;
  const auto add = [&](absl::string_view name, absl::string_view value) {
    if (!value.empty() && !HasVariable(options.environment, name)) {
      all.push_back(absl::StrCat(name, "=", value));
    }
  };
  add("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  add("HOME", options.identity.home);
  add("USER", options.identity.name);
  add("LOGNAME", options.identity.name);
  return all;
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& s : strings) pointers.push_back(s.data());
  pointers.push_back(nullptr);
  return pointers;
}

absl::StatusOr<UniqueFd> OpenNamespace(pid_t pid, const char* name) {
  return OpenFile(absl::StrCat("/proc/", pid, "/ns/", name), O_RDONLY);
}

// Reads the report pipe to its end: empty when the command was executed.
absl::StatusOr<std::string> ReadReport(int fd, Deadline deadline) {
  std::string report;
  while (true) {
    pollfd poller = {fd, POLLIN, 0};
    const int ready = ::poll(&poller, 1, static_cast<int>(deadline.Left().count()));
    if (ready < 0 && errno != EINTR) return ErrnoStatus("wait for the component's start");
    if (ready <= 0) {
      if (deadline.Passed())
        return absl::DeadlineExceededError("the component did not start in time");
      continue;
    }
    char buffer[512];
    const ssize_t n = ::read(fd, buffer, sizeof(buffer));
    if (n < 0 && errno != EINTR) return ErrnoStatus("read the component's start report");
    if (n == 0) return report;
    if (n > 0) report.append(buffer, static_cast<size_t>(n));
  }
}

}  // namespace

absl::StatusOr<Identity> ResolveUser(const std::string& user) {
  if (user.empty()) return ResolveUser("root");
  std::vector<char> buffer(16384);
  passwd entry = {};
  passwd* found = nullptr;
  uid_t number = 0;
  const bool numeric = absl::SimpleAtoi(user, &number);
  const int error = numeric
                        ? ::getpwuid_r(number, &entry, buffer.data(), buffer.size(), &found)
                        : ::getpwnam_r(user.c_str(), &entry, buffer.data(), buffer.size(), &found);
  if (error != 0) return ErrnoStatus(error, absl::StrCat("look up user ", user));
  Identity identity;
  if (found == nullptr) {
    if (!numeric) {
      return absl::InvalidArgumentError(absl::StrCat("this host has no user '", user, "'"));
    }
    identity.uid = number;
    identity.gid = number;
    return identity;
  }
  identity.uid = found->pw_uid;
  identity.gid = found->pw_gid;
  identity.name = found->pw_name;
  identity.home = found->pw_dir;
  int count = 64;
  identity.groups.resize(static_cast<size_t>(count));
  if (::getgrouplist(found->pw_name, found->pw_gid, identity.groups.data(), &count) < 0) {
    identity.groups.resize(static_cast<size_t>(count));
    if (::getgrouplist(found->pw_name, found->pw_gid, identity.groups.data(), &count) < 0) {
      return absl::InternalError(absl::StrCat("the groups of user ", user, " cannot be read"));
    }
  }
  identity.groups.resize(static_cast<size_t>(count));
  return identity;
}

absl::StatusOr<Sandbox> Sandbox::Start(const SandboxOptions& options, Deadline deadline) {
  if (options.command.empty() || !absl::StartsWith(options.command[0], "/")) {
    return absl::InvalidArgumentError(
        absl::StrCat("the command must start with a program's absolute path, not '",
                     options.command.empty() ? "" : options.command[0], "'"));
  }
  if (::access(options.init_path.c_str(), X_OK) != 0) return ErrnoStatus(options.init_path);
  const Identity& who = options.identity;
  std::vector<std::string> arguments = {
      options.init_path, "ns", absl::StrCat(kSocketFd),
      // What the tree is started with.
      options.init_path, "tree", "--report", "3", "--output", options.output, "--user",
      absl::StrCat(who.uid, ":", who.gid, ":", absl::StrJoin(who.groups, ",")), "--directory",
      options.directory.empty() ? "/" : options.directory, "--"};
  arguments.insert(arguments.end(), options.command.begin(), options.command.end());
  std::vector<std::string> environment = FullEnvironment(options);
  const std::vector<char*> argv = Pointers(arguments);
  const std::vector<char*> envp = Pointers(environment);

  ASSIGN_OR_RETURN(UnixPair pair, MakeUnixPair());
  ASSIGN_OR_RETURN(const UniqueFd null, OpenFile("/dev/null", O_RDWR));
  const int theirs = pair.second.get();
  sigset_t none;
  sigemptyset(&none);
  int pidfd = -1;
  const unsigned long flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_PIDFD | SIGCHLD |
                              (options.own_network ? static_cast<unsigned long>(CLONE_NEWNET) : 0);
  const pid_t pid = static_cast<pid_t>(::syscall(SYS_clone, flags, nullptr, &pidfd, nullptr, 0ul));
  if (pid < 0) return ErrnoStatus("make the component's namespaces (root is needed)");
  if (pid == 0) {
    // Only async-signal-safe calls until the exec.
    for (int fd = 0; fd < 3; ++fd) ::dup2(null.get(), fd);
    if (theirs == kSocketFd) {
      ::fcntl(theirs, F_SETFD, 0);
    } else {
      ::dup2(theirs, kSocketFd);
    }
    ::syscall(SYS_close_range, 4u, ~0u, 0u);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::execve(argv[0], argv.data(), envp.data());
    ::_exit(125);
  }
  Sandbox sandbox;
  sandbox.init_pid_ = pid;
  sandbox.init_pidfd_.Reset(pidfd);
  sandbox.socket_ = std::move(pair.first);
  pair.second.Reset();
  // Its first word comes once the mounts are made.
  ASSIGN_OR_RETURN(const UnixMessage hello, ReceiveUnix(sandbox.socket_.get(), deadline));
  if (hello.bytes.empty() || hello.bytes[0] != 'O') {
    int error = ECHILD;
    if (!hello.bytes.empty()) (void)absl::SimpleAtoi(hello.bytes.substr(1), &error);
    return ErrnoStatus(error, "set up the component's mount namespace");
  }
  ASSIGN_OR_RETURN(sandbox.pid_namespace_, OpenNamespace(pid, "pid"));
  ASSIGN_OR_RETURN(sandbox.mount_namespace_, OpenNamespace(pid, "mnt"));
  ASSIGN_OR_RETURN(sandbox.ipc_namespace_, OpenNamespace(pid, "ipc"));
  if (options.own_network) {
    ASSIGN_OR_RETURN(sandbox.network_namespace_, OpenNamespace(pid, "net"));
  }
  return sandbox;
}

Sandbox::~Sandbox() {
  if (!init_pidfd_ || reaped_) return;
  Kill();
  siginfo_t info;
  while (::waitid(P_PIDFD, static_cast<id_t>(init_pidfd_.get()), &info, WEXITED) < 0 &&
         errno == EINTR) {
  }
}

absl::StatusOr<pid_t> Sandbox::Launch(int cgroup_procs, Deadline deadline) {
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return ErrnoStatus("pipe");
  UniqueFd reader(pipe_fds[0]), writer(pipe_fds[1]);
  ASSIGN_OR_RETURN(const std::string answer, Ask("L", {cgroup_procs, writer.get()}, deadline));
  writer.Reset();
  int inside = 0;
  if (answer[0] != 'L' || !absl::SimpleAtoi(answer.substr(1), &inside)) {
    (void)absl::SimpleAtoi(answer.substr(1), &inside);
    return ErrnoStatus(inside, "start the component's tree");
  }
  ASSIGN_OR_RETURN(const std::string report, ReadReport(reader.get(), deadline));
  if (report.empty()) return inside;
  // "<errno> <what>"; the first report counts.
  const std::vector<std::string> parts = absl::StrSplit(report, absl::MaxSplits(' ', 1));
  int error = EINVAL;
  (void)absl::SimpleAtoi(parts[0], &error);
  return ErrnoStatus(error, parts.size() > 1 ? parts[1] : "start the component");
}

absl::Status Sandbox::Adopt(pid_t inside, Deadline deadline) {
  ASSIGN_OR_RETURN(const std::string answer, Ask(absl::StrCat("A", inside), {}, deadline));
  int error = EINVAL;
  (void)absl::SimpleAtoi(answer.substr(1), &error);
  if (error == 0) return absl::OkStatus();
  if (error == ECHILD) {
    return absl::NotFoundError(absl::StrCat("the restored root, pid ", inside, ", is gone"));
  }
  return ErrnoStatus(error, "take over the restored root");
}

absl::Status Sandbox::Hold(int uffd, Deadline deadline) {
  ASSIGN_OR_RETURN(const std::string answer, Ask("H", {uffd}, deadline));
  int error = EINVAL;
  (void)absl::SimpleAtoi(answer.substr(1), &error);
  return error == 0 ? absl::OkStatus() : ErrnoStatus(error, "hold a process's userfaultfd");
}

absl::Status Sandbox::Release(Deadline deadline) { return Ask("D", {}, deadline).status(); }

void Sandbox::Kill() const {
  (void)::syscall(SYS_pidfd_send_signal, init_pidfd_.get(), SIGKILL, nullptr, 0u);
}

absl::StatusOr<int> Sandbox::Reap() {
  siginfo_t info = {};
  int rc;
  do {
    rc = ::waitid(P_PIDFD, static_cast<id_t>(init_pidfd_.get()), &info, WEXITED);
  } while (rc < 0 && errno == EINTR);
  if (rc < 0) return ErrnoStatus("wait for the component");
  reaped_ = true;
  return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

absl::StatusOr<std::string> Sandbox::Ask(const std::string& request, const std::vector<int>& fds,
                                         Deadline deadline) {
  RETURN_IF_ERROR(
      Annotate(SendUnix(socket_.get(), request, fds), "ask the namespace's first process"));
  ASSIGN_OR_RETURN(UnixMessage answer, ReceiveUnix(socket_.get(), deadline));
  if (answer.bytes.empty()) {
    return absl::UnavailableError("the first process of the component's namespace has ended");
  }
  return std::move(answer.bytes);
}

}  // namespace starling::keeper
