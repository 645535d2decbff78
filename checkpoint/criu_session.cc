#include "checkpoint/criu_session.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"
#include "base/unix_socket.h"
#include "criu/rpc.pb.h"

namespace starling::checkpoint {
namespace {

// Numbers of CRIU's descriptors, fixed so that requests can name them.
constexpr int kRpcFd = 3;
constexpr int kImagesFd = 4;
constexpr int kPageServerFd = 5;
constexpr int kFirstInheritedFd = 6;
constexpr size_t kMaxInherited = 32;
// Descriptors are first moved out of the way of the numbers above.
constexpr int kParkedFd = 64;
static_assert(kParkedFd > kFirstInheritedFd + static_cast<int>(kMaxInherited));

// How long CRIU may take to end after its answer or after SIGKILL.
constexpr auto kExitTime = std::chrono::seconds(10);
// How much of CRIU's log is looked at for its last errors.
constexpr off_t kLogTail = 64 * 1024;
constexpr size_t kMaxErrorLines = 6;
// What CRIU logs as errors about a page server's socket that is not TCP, and goes on: not the cause
// of anything.
constexpr absl::string_view kNoErrors[] = {"TCP_NODELAY", "TCP_CORK"};

// What the starting process and CRIU-to-be tell the session. One packet each.
enum class Step : int32_t {
  kStarted,  // value: pid of CRIU-to-be
  kSocket,   // comes with our end of the RPC socket
  kSignals,
  kCgroup,
  kUts,
  kIpc,
  kNetwork,
  kPid,
  kMount,
  kFork,
  kDescriptors,
  kRpcSocket,
  kExec,
};
struct Report {
  Step step;
  int32_t value;  // pid or errno
};

const char* StepName(Step step) {
  switch (step) {
    case Step::kStarted:
      return "start";
    case Step::kSocket:
      return "hand over the RPC socket";
    case Step::kSignals:
      return "reset signals";
    case Step::kCgroup:
      return "enter the cgroup";
    case Step::kUts:
      return "enter the uts namespace";
    case Step::kIpc:
      return "enter the ipc namespace";
    case Step::kNetwork:
      return "enter the network namespace";
    case Step::kPid:
      return "enter the pid namespace";
    case Step::kMount:
      return "enter the mount namespace";
    case Step::kFork:
      return "fork";
    case Step::kDescriptors:
      return "place descriptors";
    case Step::kRpcSocket:
      return "make the RPC socket";
    case Step::kExec:
      return "execute";
  }
  return "?";
}

// All that the child needs, made before the fork: it may neither allocate nor take locks.
struct ChildPlan {
  int control = -1;
  int cgroup_procs = -1;
  struct Namespace {
    int fd;
    int type;
    Step step;
  } namespaces[5];
  struct Placement {
    int from;
    int to;
  };
  Placement placements[kMaxInherited + 8];
  size_t placement_count = 0;
  const char* binary = nullptr;
  char* const* argv = nullptr;
  char* const* envp = nullptr;
};

void Tell(int control, Step step, int value) {
  const Report report{step, value};
  ssize_t sent;
  do {
    sent = ::send(control, &report, sizeof(report), MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
}

[[noreturn]] void Fail(int control, Step step) {
  Tell(control, step, errno);
  ::_exit(127);
}

void TellSocket(int control, int socket) {
  Report report{Step::kSocket, 0};
  iovec data{&report, sizeof(report)};
  alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = space;
  message.msg_controllen = sizeof(space);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &socket, sizeof(int));
  ssize_t sent;
  do {
    sent = ::sendmsg(control, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) Fail(control, Step::kSocket);
}

// Inside the namespaces, in the process that becomes CRIU.
[[noreturn]] void BecomeCriu(ChildPlan& plan) {
  // A process group of its own, so that Cancel() reaches what CRIU forks for its own work.
  ::setsid();

  // A caller may block or ignore signals; both would outlive the exec.
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  for (int signal = 1; signal < 65; ++signal) ::sigaction(signal, &action, nullptr);
  sigset_t none;
  ::sigemptyset(&none);
  if (::sigprocmask(SIG_SETMASK, &none, nullptr) != 0) Fail(plan.control, Step::kSignals);

  const int control = ::fcntl(plan.control, F_DUPFD_CLOEXEC, kParkedFd);
  if (control < 0) Fail(plan.control, Step::kDescriptors);
  for (size_t i = 0; i < plan.placement_count; ++i) {
    plan.placements[i].from = ::fcntl(plan.placements[i].from, F_DUPFD_CLOEXEC, kParkedFd);
    if (plan.placements[i].from < 0) Fail(control, Step::kDescriptors);
  }
  int rpc[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, rpc) != 0) {
    Fail(control, Step::kRpcSocket);
  }
  TellSocket(control, rpc[0]);
  const int rpc_parked = ::fcntl(rpc[1], F_DUPFD_CLOEXEC, kParkedFd);
  if (rpc_parked < 0 || ::dup2(rpc_parked, kRpcFd) < 0) Fail(control, Step::kDescriptors);
  int last = kRpcFd;
  for (size_t i = 0; i < plan.placement_count; ++i) {
    if (::dup2(plan.placements[i].from, plan.placements[i].to) < 0) {
      Fail(control, Step::kDescriptors);
    }
    last = plan.placements[i].to > last ? plan.placements[i].to : last;
  }
  // A gap (no page server) may still hold one of the caller's descriptors.
  for (int fd = kRpcFd + 1; fd <= last; ++fd) {
    bool placed = false;
    for (size_t i = 0; i < plan.placement_count; ++i) placed |= plan.placements[i].to == fd;
    if (!placed) ::close(fd);
  }
  if (::syscall(SYS_close_range, last + 1, ~0u, CLOSE_RANGE_CLOEXEC) != 0) {
    Fail(control, Step::kDescriptors);
  }
  ::execve(plan.binary, plan.argv, plan.envp);
  Fail(control, Step::kExec);
}

// In the forked child: enters the namespaces and leaves a process there that is the caller's child,
// not this one's, so that the caller alone waits for CRIU.
[[noreturn]] void EnterAndStart(ChildPlan& plan) {
  if (plan.cgroup_procs >= 0 && ::write(plan.cgroup_procs, "0", 1) != 1) {
    Fail(plan.control, Step::kCgroup);
  }
  for (const auto& ns : plan.namespaces) {
    if (ns.fd >= 0 && ::setns(ns.fd, ns.type) != 0) Fail(plan.control, ns.step);
  }
  const long pid = ::syscall(SYS_clone, CLONE_PARENT | SIGCHLD, nullptr, nullptr, nullptr, nullptr);
  if (pid < 0) Fail(plan.control, Step::kFork);
  if (pid == 0) BecomeCriu(plan);
  Tell(plan.control, Step::kStarted, static_cast<int>(pid));
  ::_exit(0);
}

void ReapChild(pid_t pid) {
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

absl::StatusOr<UniqueFd> Duplicate(int fd, absl::string_view what) {
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!copy) return ErrnoStatus(absl::StrCat("duplicate the descriptor of ", what));
  return copy;
}

// The last lines with an error in the tail of an open file, oldest first.
std::vector<std::string> ErrorLines(int fd, absl::string_view marker) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return {};
  const off_t start = std::max<off_t>(0, info.st_size - kLogTail);
  std::string tail(static_cast<size_t>(info.st_size - start), '\0');
  const ssize_t got = ::pread(fd, tail.data(), tail.size(), start);
  if (got <= 0) return {};
  tail.resize(static_cast<size_t>(got));
  std::deque<std::string> lines;
  for (absl::string_view line : absl::StrSplit(tail, '\n', absl::SkipWhitespace())) {
    if (!absl::StrContains(line, marker)) continue;
    const bool harmless =
        std::any_of(std::begin(kNoErrors), std::end(kNoErrors),
                    [&](absl::string_view part) { return absl::StrContains(line, part); });
    if (harmless) continue;
    lines.emplace_back(line.substr(0, 300));
    if (lines.size() > kMaxErrorLines) lines.pop_front();
  }
  return {lines.begin(), lines.end()};
}

}  // namespace

struct CriuSession::Wire {
  criu_req request;
};

absl::StatusOr<std::unique_ptr<CriuSession>> CriuSession::Start(const CriuOptions& options,
                                                                Deadline deadline) {
  if (options.inherited.size() > kMaxInherited) {
    return absl::InvalidArgumentError(
        absl::StrCat("at most ", kMaxInherited, " descriptors can be inherited by CRIU"));
  }
  if (options.log_file.empty() || absl::StrContains(options.log_file, "/")) {
    return absl::InvalidArgumentError(
        absl::StrCat("CRIU's log file is a name without slash, not \"", options.log_file, "\""));
  }
  std::unique_ptr<CriuSession> session(new CriuSession);
  session->log_file_ = options.log_file;
  session->log_level_ = options.log_level;
  session->has_page_server_ = options.page_server >= 0;
  if (options.images_dir >= 0) {
    ASSIGN_OR_RETURN(session->images_dir_, Duplicate(options.images_dir, "the images folder"));
  }
  session->stderr_ = UniqueFd(::memfd_create("criu-stderr", MFD_CLOEXEC));
  if (!session->stderr_) return ErrnoStatus("memfd_create");
  ASSIGN_OR_RETURN(const UniqueFd null, OpenFile("/dev/null", O_RDWR));
  ASSIGN_OR_RETURN(UnixPair control, MakeUnixPair());

  ChildPlan plan;
  plan.control = control.second.get();
  plan.cgroup_procs = options.cgroup_procs;
  // The mount namespace last: the others' descriptors are open already, and it changes the root.
  plan.namespaces[0] = {options.uts_namespace, CLONE_NEWUTS, Step::kUts};
  plan.namespaces[1] = {options.ipc_namespace, CLONE_NEWIPC, Step::kIpc};
  plan.namespaces[2] = {options.network_namespace, CLONE_NEWNET, Step::kNetwork};
  plan.namespaces[3] = {options.pid_namespace, CLONE_NEWPID, Step::kPid};
  plan.namespaces[4] = {options.mount_namespace, CLONE_NEWNS, Step::kMount};
  auto place = [&plan](int from, int to) { plan.placements[plan.placement_count++] = {from, to}; };
  place(null.get(), 0);
  place(null.get(), 1);
  place(session->stderr_.get(), 2);
  if (options.images_dir >= 0) place(options.images_dir, kImagesFd);
  if (options.page_server >= 0) place(options.page_server, kPageServerFd);
  for (size_t i = 0; i < options.inherited.size(); ++i) {
    place(options.inherited[i].fd, kFirstInheritedFd + static_cast<int>(i));
    session->inherited_keys_.push_back(options.inherited[i].key);
  }
  std::string binary = options.binary;
  std::string swrk = "swrk";
  std::string rpc_fd = absl::StrCat(kRpcFd);
  // What a machine's own CRIU configuration says is not ours to obey.
  std::string no_config = "--no-default-config";
  // Whoever asks for a move has compared build ids before; reading them again costs blackout.
  std::string validation = "--file-validation=filesize";
  char* argv[] = {binary.data(), no_config.data(), validation.data(),
                  swrk.data(),   rpc_fd.data(),    nullptr};
  std::string path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  std::string locale = "LC_ALL=C";
  std::string preload = absl::StrCat("LD_PRELOAD=", options.preload);
  char* envp[] = {path.data(), locale.data(), options.preload.empty() ? nullptr : preload.data(),
                  nullptr};
  plan.binary = binary.c_str();
  plan.argv = argv;
  plan.envp = envp;

  // Not fork(): its handlers (a sanitizer's, a library's) may take locks or start threads, and a
  // process of two threads cannot enter a mount namespace.
  const auto starter =
      static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr));
  if (starter < 0) return ErrnoStatus("fork");
  if (starter == 0) EnterAndStart(plan);
  control.second.Reset();

  // Both processes report over the one socket, in either order; its end means that CRIU runs.
  absl::Status status;
  while (true) {
    absl::StatusOr<UnixMessage> message = ReceiveUnix(control.first.get(), deadline);
    if (!message.ok()) {
      status = Annotate(message.status(), "start CRIU");
      break;
    }
    if (message->bytes.empty()) break;
    Report report;
    if (message->bytes.size() != sizeof(report)) {
      status = absl::InternalError("start CRIU: report of a wrong size");
      break;
    }
    std::memcpy(&report, message->bytes.data(), sizeof(report));
    if (report.step == Step::kStarted) {
      const std::lock_guard lock(session->mutex_);
      session->pid_ = report.value;
    } else if (report.step == Step::kSocket && message->fds.size() == 1) {
      session->rpc_ = std::move(message->fds[0]);
    } else {
      status = ErrnoStatus(report.value, absl::StrCat("start CRIU: ", StepName(report.step), " (",
                                                      options.binary, ")"));
      // Not the end: the other process may still report the pid, which has to be reaped.
    }
  }
  if (!status.ok() && absl::IsDeadlineExceeded(status)) ::kill(starter, SIGKILL);
  ReapChild(starter);
  if (session->pid_ > 0) {
    session->pidfd_ = UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, session->pid_, 0)));
    if (!session->pidfd_ && status.ok()) status = ErrnoStatus("pidfd_open of CRIU");
  } else if (status.ok()) {
    status = absl::InternalError("start CRIU: the starting process ended without a word");
  }
  if (status.ok() && !session->rpc_) {
    status = absl::InternalError("start CRIU: no RPC socket came back");
  }
  if (!status.ok()) return status;
  return session;
}

CriuSession::~CriuSession() {
  if (pid() == 0) return;
  Kill();
  if (pidfd_) {
    (void)WaitForExit(Deadline::After(kExitTime));
  } else {
    ReapChild(pid());
  }
}

pid_t CriuSession::pid() const {
  const std::lock_guard lock(mutex_);
  return pid_;
}

void CriuSession::Kill() {
  const std::lock_guard lock(mutex_);
  if (pid_ <= 0) return;
  // Unreaped, so neither the pid nor the group can be somebody else's.
  ::kill(-pid_, SIGKILL);
  ::kill(pid_, SIGKILL);
}

void CriuSession::Cancel() {
  cancelled_.store(true);
  Kill();
}

absl::Status CriuSession::WaitForExit(Deadline deadline) {
  if (pid() == 0) return absl::OkStatus();
  pollfd event{pidfd_.get(), POLLIN, 0};
  int ready;
  do {
    ready = ::poll(&event, 1, static_cast<int>(deadline.Left().count()));
  } while (ready < 0 && errno == EINTR);
  if (ready < 0) return ErrnoStatus("wait for CRIU's end");
  if (ready == 0) return absl::DeadlineExceededError("CRIU does not end");
  const std::lock_guard lock(mutex_);
  siginfo_t info{};
  const auto id = static_cast<id_t>(pid_);
  int rc;
  do {
    rc = ::waitid(P_PID, id, &info, WEXITED | WNOWAIT);
  } while (rc != 0 && errno == EINTR);
  if (rc != 0) {
    pid_ = 0;
    return ErrnoStatus("wait for CRIU (is there another waiter for its pid?)");
  }
  exited_by_signal_ = info.si_code != CLD_EXITED;
  exit_status_ = info.si_status;
  // A CRIU that died may leave the process that it forked for a pre-dump: it goes as well, while
  // the group's number is still ours.
  if (exited_by_signal_) ::kill(-pid_, SIGKILL);
  do {
    rc = ::waitid(P_PID, id, &info, WEXITED);
  } while (rc != 0 && errno == EINTR);
  pid_ = 0;
  return absl::OkStatus();
}

std::string CriuSession::LoggedErrors() const {
  std::vector<std::string> lines;
  if (images_dir_) {
    const UniqueFd log(::openat(images_dir_.get(), log_file_.c_str(), O_RDONLY | O_CLOEXEC));
    if (log) lines = ErrorLines(log.get(), "Error (");
  }
  if (lines.empty()) lines = ErrorLines(stderr_.get(), "rror");
  return absl::StrJoin(lines, "; ");
}

absl::Status CriuSession::Failure(absl::string_view what, int criu_errno,
                                  absl::string_view message) const {
  std::string text = absl::StrCat("CRIU failed to ", what);
  if (criu_errno != 0) absl::StrAppend(&text, ": ", std::strerror(criu_errno));
  const std::string logged = LoggedErrors();
  if (!logged.empty()) {
    absl::StrAppend(&text, ": ", logged);
  } else if (!message.empty()) {
    absl::StrAppend(&text, ": ", message);
  }
  switch (criu_errno) {
    case EEXIST:
      return absl::AlreadyExistsError(text);
    case ESRCH:
      return absl::NotFoundError(text);
    case EBADRQC:
      return absl::InvalidArgumentError(text);
    default:
      return absl::InternalError(text);
  }
}

absl::StatusOr<CriuResult> CriuSession::Run(const Wire& wire, absl::string_view what,
                                            const CriuCallback& callback, Deadline deadline) {
  if (used_) return absl::FailedPreconditionError("a CRIU session carries out one operation");
  used_ = true;
  if (!images_dir_) return absl::InvalidArgumentError("CRIU needs an images folder");
  CriuResult result;
  result.started = Clock::now();

  // Every way out goes through here: CRIU is gone when an operation returns.
  auto end = [&](absl::Status status) {
    Kill();
    const absl::Status gone = WaitForExit(Deadline::After(kExitTime));
    if (cancelled_.load()) {
      return absl::AbortedError(absl::StrCat("CRIU was told to stop while it had to ", what));
    }
    if (!gone.ok()) return Annotate(status, gone.message());
    return status;
  };
  auto died = [&] {
    const absl::Status gone = WaitForExit(Deadline::After(kExitTime));
    if (!gone.ok()) return end(gone);
    const std::string how = exited_by_signal_ ? absl::StrCat("signal ", exit_status_)
                                              : absl::StrCat("exit status ", exit_status_);
    const std::string logged = LoggedErrors();
    return end(absl::UnavailableError(absl::StrCat("CRIU ended (", how, ") while it had to ", what,
                                                   logged.empty() ? "" : ": ", logged)));
  };

  if (absl::Status sent = SendUnix(rpc_.get(), wire.request.SerializeAsString()); !sent.ok()) {
    return died();
  }
  absl::Status refused;
  while (true) {
    absl::StatusOr<UnixMessage> message = ReceiveUnix(rpc_.get(), deadline);
    if (!message.ok()) {
      if (absl::IsDeadlineExceeded(message.status())) {
        return end(absl::DeadlineExceededError(
            absl::StrCat("CRIU did not ", what, " in time; it was ended")));
      }
      return died();
    }
    if (message->bytes.empty()) return died();
    criu_resp response;
    if (!response.ParseFromString(message->bytes)) {
      return end(absl::InternalError("CRIU's answer is no RPC message"));
    }
    if (response.type() == NOTIFY) {
      CriuNotification notification;
      notification.stage = response.notify().script();
      notification.pid = response.notify().pid();
      if (!message->fds.empty()) notification.fd = message->fds[0].get();
      CriuStage stage{notification.stage, Clock::now(), {}};
      absl::Status answer;
      if (callback) answer = callback(notification);
      stage.answered = Clock::now();
      result.stages.push_back(std::move(stage));
      if (!answer.ok() && refused.ok()) {
        refused = Annotate(answer, absl::StrCat("at CRIU's stage ", notification.stage));
      }
      criu_req reply;
      reply.set_type(NOTIFY);
      reply.set_notify_success(answer.ok());
      if (!SendUnix(rpc_.get(), reply.SerializeAsString()).ok()) return died();
      continue;
    }
    if (!response.success()) {
      absl::Status failure =
          refused.ok() ? Failure(what, response.cr_errno(), response.cr_errmsg()) : refused;
      // CRIU goes by itself now; ending it earlier could cut its clean-up short.
      (void)WaitForExit(Deadline::After(kExitTime));
      return end(failure);
    }
    if (response.type() != wire.request.type()) {
      return end(absl::InternalError(
          absl::StrCat("CRIU answered another question (type ", response.type(), ")")));
    }
    if (response.has_restore()) result.pid = response.restore().pid();
    break;
  }
  if (absl::Status gone = WaitForExit(deadline); !gone.ok()) return end(gone);
  result.finished = Clock::now();
  if (!refused.ok()) return refused;
  return result;
}

namespace {

void CommonOptions(criu_opts& opts, int log_level, const std::string& log_file) {
  opts.set_images_dir_fd(kImagesFd);
  opts.set_work_dir_fd(kImagesFd);
  opts.set_log_level(log_level);
  opts.set_log_file(log_file);
  opts.set_notify_scripts(true);
  // Cgroups are the keeper's: CRIU neither dumps nor makes them.
  opts.set_manage_cgroups_mode(IGNORE);
}

void SetPageServer(criu_opts& opts) { opts.mutable_ps()->set_fd(kPageServerFd); }

}  // namespace

absl::StatusOr<CriuResult> CriuSession::PreDump(const PreDumpRequest& request,
                                                const CriuCallback& callback, Deadline deadline) {
  Wire wire;
  wire.request.set_type(SINGLE_PRE_DUMP);
  criu_opts& opts = *wire.request.mutable_opts();
  CommonOptions(opts, log_level_, log_file_);
  opts.set_pid(request.pid);
  opts.set_track_mem(true);
  opts.set_timeout(static_cast<uint32_t>(request.freeze_timeout.count()));
  if (!request.parent_images.empty()) opts.set_parent_img(request.parent_images);
  if (!request.freeze_cgroup.empty()) opts.set_freeze_cgroup(request.freeze_cgroup);
  for (const std::string& external : request.external) opts.add_external(external);
  if (has_page_server_) SetPageServer(opts);
  return Run(wire, "pre-dump", callback, deadline);
}

absl::StatusOr<CriuResult> CriuSession::Dump(const DumpRequest& request,
                                             const CriuCallback& callback, Deadline deadline) {
  Wire wire;
  wire.request.set_type(DUMP);
  criu_opts& opts = *wire.request.mutable_opts();
  CommonOptions(opts, log_level_, log_file_);
  opts.set_pid(request.pid);
  opts.set_leave_running(request.leave_running);
  opts.set_tcp_established(request.tcp_established);
  opts.set_shell_job(false);
  opts.set_file_locks(request.file_locks);
  opts.set_link_remap(request.link_remap);
  opts.set_ext_unix_sk(request.external_unix_sockets);
  opts.set_ghost_limit(request.ghost_limit);
  opts.set_track_mem(request.track_memory);
  opts.set_timeout(static_cast<uint32_t>(request.freeze_timeout.count()));
  if (request.network_lock == NetworkLock::kNftables) opts.set_network_lock(NFTABLES);
  if (!request.parent_images.empty()) opts.set_parent_img(request.parent_images);
  if (!request.freeze_cgroup.empty()) opts.set_freeze_cgroup(request.freeze_cgroup);
  for (const std::string& external : request.external) opts.add_external(external);
  if (has_page_server_) SetPageServer(opts);
  return Run(wire, "dump", callback, deadline);
}

absl::StatusOr<CriuResult> CriuSession::Restore(const RestoreRequest& request,
                                                const CriuCallback& callback, Deadline deadline) {
  Wire wire;
  wire.request.set_type(RESTORE);
  criu_opts& opts = *wire.request.mutable_opts();
  CommonOptions(opts, log_level_, log_file_);
  opts.set_tcp_established(request.tcp_established && !request.tcp_close);
  opts.set_tcp_close(request.tcp_close);
  opts.set_shell_job(false);
  opts.set_file_locks(request.file_locks);
  opts.set_link_remap(request.link_remap);
  opts.set_ext_unix_sk(request.external_unix_sockets);
  opts.set_lazy_pages(request.lazy_pages);
  for (const std::string& external : request.external) opts.add_external(external);
  for (size_t i = 0; i < inherited_keys_.size(); ++i) {
    inherit_fd& inherited = *opts.add_inherit_fd();
    inherited.set_fd(kFirstInheritedFd + static_cast<int>(i));
    inherited.set_key(inherited_keys_[i]);
  }
  return Run(wire, "restore", callback, deadline);
}

namespace {

absl::StatusOr<criu_resp> Ask(int rpc, const criu_req& request, absl::string_view what,
                              Deadline deadline) {
  RETURN_IF_ERROR(Annotate(SendUnix(rpc, request.SerializeAsString()), what));
  ASSIGN_OR_RETURN(const UnixMessage message, ReceiveUnix(rpc, deadline));
  criu_resp response;
  if (message.bytes.empty()) {
    return absl::UnavailableError(absl::StrCat("CRIU ended when asked for its ", what));
  }
  if (!response.ParseFromString(message.bytes) || response.type() != request.type()) {
    return absl::InternalError(
        absl::StrCat("CRIU does not understand the question for its ", what));
  }
  return response;
}

}  // namespace

absl::StatusOr<CriuFacts> CriuSession::Query(Deadline deadline) {
  if (used_) return absl::FailedPreconditionError("a CRIU session carries out one operation");
  used_ = true;
  criu_req request;
  request.set_type(VERSION);
  request.set_keep_open(true);
  ASSIGN_OR_RETURN(criu_resp response, Ask(rpc_.get(), request, "version", deadline));
  CriuFacts facts;
  facts.version = {response.version().major_number(), response.version().minor_number(),
                   response.version().sublevel()};
  request.set_type(FEATURE_CHECK);
  request.set_keep_open(false);
  request.mutable_features()->set_mem_track(true);
  request.mutable_features()->set_lazy_pages(true);
  request.mutable_features()->set_pidfd_store(true);
  ASSIGN_OR_RETURN(response, Ask(rpc_.get(), request, "features", deadline));
  if (!response.success()) {
    const std::string logged = LoggedErrors();
    return absl::FailedPreconditionError(absl::StrCat("CRIU ", FormatCriuVersion(facts.version),
                                                      " does not run on this kernel",
                                                      logged.empty() ? "" : ": ", logged));
  }
  facts.memory_tracking = response.features().mem_track();
  facts.lazy_pages = response.features().lazy_pages();
  facts.pidfd_store = response.features().pidfd_store();
  return facts;
}

absl::Status CriuSession::Check(Deadline deadline) {
  Wire wire;
  wire.request.set_type(CHECK);
  criu_opts& opts = *wire.request.mutable_opts();
  opts.set_images_dir_fd(kImagesFd);
  opts.set_work_dir_fd(kImagesFd);
  opts.set_log_level(log_level_);
  opts.set_log_file(log_file_);
  return Run(wire, "check this kernel", {}, deadline).status();
}

absl::StatusOr<CriuFacts> QueryCriu(const std::string& binary, Deadline deadline) {
  CriuOptions options;
  options.binary = binary;
  ASSIGN_OR_RETURN(const std::unique_ptr<CriuSession> session,
                   CriuSession::Start(options, deadline));
  return session->Query(deadline);
}

absl::Status CheckCriu(const std::string& binary, const std::string& work_dir, Deadline deadline) {
  ASSIGN_OR_RETURN(const UniqueFd folder, OpenFile(work_dir, O_RDONLY | O_DIRECTORY));
  CriuOptions options;
  options.binary = binary;
  options.images_dir = folder.get();
  ASSIGN_OR_RETURN(const std::unique_ptr<CriuSession> session,
                   CriuSession::Start(options, deadline));
  return session->Check(deadline);
}

}  // namespace starling::checkpoint
