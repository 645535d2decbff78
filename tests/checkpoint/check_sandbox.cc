#include "tests/checkpoint/check_sandbox.h"

#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"

namespace starling::checkpoint {
namespace {

constexpr char kCgroupRoot[] = "/sys/fs/cgroup/starling-criu-check";

int LoopbackUp() {
  const int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  if (::ioctl(socket, SIOCGIFFLAGS, &request) != 0) return -1;
  request.ifr_flags |= IFF_UP;
  const int rc = ::ioctl(socket, SIOCSIFFLAGS, &request);
  ::close(socket);
  return rc;
}

[[noreturn]] void BeInit(int ready, pid_t first_pid) {
  const bool good =
      ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
      ::mount("proc", "/proc", "proc", 0, nullptr) == 0 && LoopbackUp() == 0 &&
      (first_pid == 0 || WriteKnob("/proc/sys/kernel/ns_last_pid", absl::StrCat(first_pid)).ok());
  if (::write(ready, good ? "+" : "-", 1) != 1 || !good) ::_exit(1);
  ::close(ready);
  ::signal(SIGCHLD, SIG_DFL);
  while (true) {
    if (::waitpid(-1, nullptr, 0) < 0) ::usleep(20000);
  }
}

absl::Status WaitFor(const std::string& events, absl::string_view line, Deadline deadline) {
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(events, O_RDONLY));
  while (true) {
    char buffer[256];
    const ssize_t size = ::pread(fd.get(), buffer, sizeof(buffer), 0);
    if (size < 0) return ErrnoStatus(events);
    if (absl::StrContains(absl::string_view(buffer, static_cast<size_t>(size)), line)) {
      return absl::OkStatus();
    }
    pollfd event{fd.get(), POLLPRI, 0};
    if (deadline.Passed()) return absl::DeadlineExceededError(absl::StrCat(events, ": no ", line));
    ::poll(&event, 1, static_cast<int>(deadline.Left().count()));
  }
}

}  // namespace

absl::StatusOr<pid_t> PidInside(pid_t pid) {
  ASSIGN_OR_RETURN(const std::string status, ReadFile(absl::StrCat("/proc/", pid, "/status")));
  for (absl::string_view line : absl::StrSplit(status, '\n')) {
    if (!absl::StartsWith(line, "NSpid:")) continue;
    const std::vector<absl::string_view> numbers =
        absl::StrSplit(line.substr(6), absl::ByAnyChar(" \t"), absl::SkipWhitespace());
    int inside;
    if (!numbers.empty() && absl::SimpleAtoi(numbers.back(), &inside)) return inside;
  }
  return absl::NotFoundError(absl::StrCat("pid ", pid, " has no NSpid"));
}

absl::StatusOr<std::unique_ptr<CheckSandbox>> CheckSandbox::Create(const std::string& name,
                                                                   pid_t first_pid) {
  std::unique_ptr<CheckSandbox> sandbox(new CheckSandbox);
  sandbox->cgroup_ = absl::StrCat(kCgroupRoot, "/", name);
  RETURN_IF_ERROR(MakeDirectories(sandbox->cgroup_));
  int ready[2];
  if (::pipe2(ready, O_CLOEXEC) != 0) return ErrnoStatus("pipe");
  const UniqueFd reader(ready[0]);
  UniqueFd writer(ready[1]);
  // The forking child makes the namespaces and hands its pid-namespace child to us.
  const pid_t maker = ::fork();
  if (maker == 0) {
    if (::unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET) != 0) ::_exit(1);
    const pid_t init = ::fork();
    if (init == 0) BeInit(ready[1], first_pid);
    ::close(ready[1]);
    ::waitpid(init, nullptr, 0);
    ::_exit(0);
  }
  writer.Reset();
  char answer = 0;
  if (::read(reader.get(), &answer, 1) != 1 || answer != '+') {
    ::waitpid(maker, nullptr, 0);
    return absl::InternalError("the namespaces could not be made");
  }
  ASSIGN_OR_RETURN(const std::string children,
                   ReadFile(absl::StrCat("/proc/", maker, "/task/", maker, "/children")));
  if (!absl::SimpleAtoi(absl::StripAsciiWhitespace(children), &sandbox->init_)) {
    return absl::InternalError("the first process is not to be found");
  }
  const std::string ns = absl::StrCat("/proc/", sandbox->init_, "/ns/");
  ASSIGN_OR_RETURN(sandbox->pid_ns_, OpenFile(absl::StrCat(ns, "pid"), O_RDONLY));
  ASSIGN_OR_RETURN(sandbox->mount_ns_, OpenFile(absl::StrCat(ns, "mnt"), O_RDONLY));
  ASSIGN_OR_RETURN(sandbox->network_ns_, OpenFile(absl::StrCat(ns, "net"), O_RDONLY));
  return sandbox;
}

CheckSandbox::~CheckSandbox() {
  (void)KillAll();
  if (init_ > 0) ::kill(init_, SIGKILL);
  while (::waitpid(-1, nullptr, 0) > 0) {
  }
  (void)WaitFor(absl::StrCat(cgroup_, "/cgroup.events"), "populated 0",
                Deadline::After(std::chrono::seconds(10)));
  ::rmdir(cgroup_.c_str());
  ::rmdir(kCgroupRoot);
}

absl::StatusOr<UniqueFd> CheckSandbox::CgroupProcs() const {
  return OpenFile(absl::StrCat(cgroup_, "/cgroup.procs"), O_WRONLY);
}

absl::StatusOr<pid_t> CheckSandbox::Run(const std::string& log, const std::function<int()>& body) {
  ASSIGN_OR_RETURN(const UniqueFd procs, CgroupProcs());
  int report[2];
  if (::pipe2(report, O_CLOEXEC) != 0) return ErrnoStatus("pipe");
  const UniqueFd reader(report[0]);
  UniqueFd writer(report[1]);
  const pid_t entering = ::fork();
  if (entering == 0) {
    if (::write(procs.get(), "0", 1) != 1 || ::setns(network_ns_.get(), CLONE_NEWNET) != 0 ||
        ::setns(pid_ns_.get(), CLONE_NEWPID) != 0 || ::setns(mount_ns_.get(), CLONE_NEWNS) != 0) {
      ::_exit(1);
    }
    const pid_t child = ::fork();
    if (child != 0) ::_exit(child < 0);
    ::setsid();
    const int null = ::open("/dev/null", O_RDWR);
    const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (null < 0 || out < 0 || ::dup2(null, 0) < 0 || ::dup2(out, 1) < 0 || ::dup2(out, 2) < 0) {
      ::_exit(1);
    }
    const pid_t self = ::getpid();
    if (::write(report[1], &self, sizeof(self)) != sizeof(self)) ::_exit(1);
    ::close_range(3, ~0u, 0);
    ::_exit(body());
  }
  writer.Reset();
  pid_t pid = 0;
  const ssize_t got = ::read(reader.get(), &pid, sizeof(pid));
  ::waitpid(entering, nullptr, 0);
  if (got != sizeof(pid)) return absl::InternalError("the component did not start");
  return pid;
}

void CheckSandbox::InNetwork(const std::function<void()>& body) const {
  std::thread thread([&] {
    if (::setns(network_ns_.get(), CLONE_NEWNET) == 0) body();
  });
  thread.join();
}

absl::Status CheckSandbox::Freeze() {
  RETURN_IF_ERROR(WriteKnob(absl::StrCat(cgroup_, "/cgroup.freeze"), "1"));
  return WaitFor(absl::StrCat(cgroup_, "/cgroup.events"), "frozen 1",
                 Deadline::After(std::chrono::seconds(20)));
}

absl::Status CheckSandbox::Thaw() {
  return WriteKnob(absl::StrCat(cgroup_, "/cgroup.freeze"), "0");
}

absl::Status CheckSandbox::KillAll() {
  return WriteKnob(absl::StrCat(cgroup_, "/cgroup.kill"), "1");
}

absl::Status CheckSandbox::MoveOut(pid_t pid) {
  return WriteKnob(absl::StrCat(kCgroupRoot, "/cgroup.procs"), absl::StrCat(pid));
}

absl::StatusOr<std::vector<pid_t>> CheckSandbox::Pids() const {
  ASSIGN_OR_RETURN(const std::string procs, ReadFile(absl::StrCat(cgroup_, "/cgroup.procs")));
  std::vector<std::pair<pid_t, pid_t>> pids;
  for (absl::string_view line : absl::StrSplit(procs, '\n', absl::SkipWhitespace())) {
    pid_t pid;
    if (!absl::SimpleAtoi(line, &pid)) continue;
    ASSIGN_OR_RETURN(const pid_t inside, PidInside(pid));
    pids.push_back({inside, pid});
  }
  std::sort(pids.begin(), pids.end());
  std::vector<pid_t> result;
  for (const auto& [inside, pid] : pids) result.push_back(pid);
  return result;
}

}  // namespace starling::checkpoint
