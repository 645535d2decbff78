#include "runtime/keeper/cgroup.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"

namespace starling::keeper {
namespace {

// "populated 1\nfrozen 0\n" and the like.
absl::StatusOr<bool> ParseEvent(absl::string_view content, absl::string_view key) {
  for (absl::string_view line : absl::StrSplit(content, '\n')) {
    if (absl::ConsumePrefix(&line, key) && absl::ConsumePrefix(&line, " ")) return line == "1";
  }
  return absl::FailedPreconditionError(
      absl::StrCat("cgroup.events does not have '", key, "': this needs Linux 5.2 or later"));
}

absl::StatusOr<std::string> Reread(int fd, const std::string& path) {
  char buffer[512];
  const ssize_t n = ::pread(fd, buffer, sizeof(buffer), 0);
  if (n < 0) return ErrnoStatus(absl::StrCat("read ", path));
  return std::string(buffer, static_cast<size_t>(n));
}

// The numbers behind `key` in /proc/PID/status; none if the process has ended.
std::vector<pid_t> StatusNumbers(pid_t pid, absl::string_view key) {
  std::vector<pid_t> numbers;
  const absl::StatusOr<std::string> status = ReadFile(absl::StrCat("/proc/", pid, "/status"));
  if (!status.ok()) return numbers;
  for (absl::string_view line : absl::StrSplit(*status, '\n')) {
    if (!absl::ConsumePrefix(&line, key)) continue;
    for (absl::string_view word : absl::StrSplit(line, '\t', absl::SkipEmpty())) {
      pid_t number;
      if (absl::SimpleAtoi(word, &number)) numbers.push_back(number);
    }
  }
  return numbers;
}

}  // namespace

absl::StatusOr<std::string> FindCgroupRoot() {
  ASSIGN_OR_RETURN(const std::string mounts, ReadFile("/proc/self/mountinfo"));
  for (absl::string_view line : absl::StrSplit(mounts, '\n')) {
    // "36 35 98:0 / /mnt rw - type source options", see proc_pid_mountinfo(5).
    const std::vector<absl::string_view> halves = absl::StrSplit(line, absl::MaxSplits(" - ", 1));
    if (halves.size() != 2 || !absl::StartsWith(halves[1], "cgroup2 ")) continue;
    const std::vector<absl::string_view> fields = absl::StrSplit(halves[0], ' ');
    if (fields.size() > 4) return std::string(fields[4]);
  }
  return absl::FailedPreconditionError(
      "no cgroup v2 hierarchy is mounted: mount one with 'mount -t cgroup2 none /sys/fs/cgroup'");
}

absl::Status PrepareCgroupParent(const std::string& root, const std::string& folder) {
  const std::string path = absl::StrCat(root, "/", folder);
  RETURN_IF_ERROR(MakeDirectories(path));
  for (const std::string& group : {root, path}) {
    ASSIGN_OR_RETURN(const std::string offered,
                     ReadFile(absl::StrCat(group, "/cgroup.controllers")));
    const std::vector<absl::string_view> controllers =
        absl::StrSplit(absl::StripAsciiWhitespace(offered), ' ');
    const std::string knob = absl::StrCat(group, "/cgroup.subtree_control");
    for (absl::string_view controller : controllers) {
      if (controller == "memory") RETURN_IF_ERROR(WriteKnob(knob, "+memory"));
      // Only for those who ask for --auto-converge, and refused where tasks have real-time
      // priority.
      if (controller == "cpu") (void)WriteKnob(knob, "+cpu");
      // For who confines components to some processors; nobody is by it alone.
      if (controller == "cpuset") (void)WriteKnob(knob, "+cpuset");
      // For what each reads and writes, and for who is held to less.
      if (controller == "io") (void)WriteKnob(knob, "+io");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Cgroup> Cgroup::Create(const std::string& path, uint64_t memory_max) {
  if (::mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) {
    return ErrnoStatus(absl::StrCat("make cgroup ", path));
  }
  Cgroup group(path);
  ASSIGN_OR_RETURN(const bool empty, group.Empty());
  if (!empty) {
    return absl::AlreadyExistsError(
        absl::StrCat("cgroup ", path, " already has processes: another copy of it runs here"));
  }
  RETURN_IF_ERROR(group.RequestFrozen(false));
  const std::string knob = absl::StrCat(path, "/memory.max");
  const bool has_memory = ::access(knob.c_str(), W_OK) == 0;
  if (memory_max != 0 && !has_memory) {
    (void)::rmdir(path.c_str());
    return absl::FailedPreconditionError(
        absl::StrCat("the memory limit cannot be kept: the host's cgroup v2 hierarchy does not "
                     "offer the memory controller to ",
                     path));
  }
  if (has_memory) {
    RETURN_IF_ERROR(WriteKnob(knob, memory_max == 0 ? "max" : absl::StrCat(memory_max)));
  }
  return group;
}

absl::StatusOr<Cgroup> Cgroup::Open(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) {
    return ErrnoStatus(absl::StrCat("make cgroup ", path));
  }
  return Cgroup(path);
}

absl::Status Cgroup::RequestFrozen(bool frozen) const {
  return WriteKnob(absl::StrCat(path_, "/cgroup.freeze"), frozen ? "1" : "0");
}

absl::Status Cgroup::WaitFrozen(bool frozen, Deadline deadline) const {
  return Annotate(WaitEvent("frozen", frozen, deadline), frozen ? "freeze" : "thaw");
}

absl::StatusOr<bool> Cgroup::Frozen() const { return Event("frozen"); }

absl::Status Cgroup::Kill() const {
  const std::string knob = absl::StrCat(path_, "/cgroup.kill");
  if (::access(knob.c_str(), W_OK) == 0) return WriteKnob(knob, "1");
  // Linux before 5.14: until a pass finds nobody new. A frozen group cannot fork, so this ends.
  RETURN_IF_ERROR(RequestFrozen(true));
  ASSIGN_OR_RETURN(const std::vector<pid_t> pids, Pids());
  for (pid_t pid : pids) {
    if (::kill(pid, SIGKILL) != 0 && errno != ESRCH) {
      return ErrnoStatus(absl::StrCat("kill process ", pid));
    }
  }
  return absl::OkStatus();
}

absl::Status Cgroup::WaitEmpty(Deadline deadline) const {
  return WaitEvent("populated", false, deadline);
}

absl::StatusOr<bool> Cgroup::Empty() const {
  ASSIGN_OR_RETURN(const bool populated, Event("populated"));
  return !populated;
}

absl::StatusOr<std::vector<pid_t>> Cgroup::Pids() const {
  ASSIGN_OR_RETURN(const std::string content, ReadFile(absl::StrCat(path_, "/cgroup.procs")));
  std::vector<pid_t> pids;
  for (absl::string_view line : absl::StrSplit(content, '\n', absl::SkipEmpty())) {
    pid_t pid;
    if (absl::SimpleAtoi(line, &pid) && pid > 0) pids.push_back(pid);
  }
  return pids;
}

absl::Status Cgroup::Add(pid_t pid) const {
  return WriteKnob(absl::StrCat(path_, "/cgroup.procs"), absl::StrCat(pid));
}

absl::StatusOr<UniqueFd> Cgroup::OpenProcs() const {
  return OpenFile(absl::StrCat(path_, "/cgroup.procs"), O_WRONLY);
}

absl::Status Cgroup::Remove(Deadline deadline) const {
  if (::access(path_.c_str(), F_OK) != 0 && errno == ENOENT) return absl::OkStatus();
  while (true) {
    RETURN_IF_ERROR(WaitEmpty(deadline));
    if (::rmdir(path_.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
    // The last zombie leaves the group a moment after it counts as empty.
    if (errno != EBUSY || deadline.Passed()) {
      return ErrnoStatus(absl::StrCat("remove cgroup ", path_));
    }
    (void)::usleep(1000);
  }
}

absl::Status Cgroup::WaitEvent(const char* key, bool value, Deadline deadline) const {
  const std::string path = absl::StrCat(path_, "/cgroup.events");
  ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(path, O_RDONLY));
  while (true) {
    // Each change after this read wakes the poll, so none can be missed.
    ASSIGN_OR_RETURN(const std::string content, Reread(fd.get(), path));
    ASSIGN_OR_RETURN(const bool now, ParseEvent(content, key));
    if (now == value) return absl::OkStatus();
    if (deadline.Passed()) {
      return absl::DeadlineExceededError(
          absl::StrCat("cgroup ", path_, " did not reach '", key, " ", value, "' in time"));
    }
    pollfd poller = {fd.get(), POLLPRI, 0};
    if (::poll(&poller, 1, static_cast<int>(deadline.Left().count())) < 0 && errno != EINTR) {
      return ErrnoStatus(absl::StrCat("poll ", path));
    }
  }
}

absl::StatusOr<bool> Cgroup::Event(const char* key) const {
  ASSIGN_OR_RETURN(const std::string content, ReadFile(absl::StrCat(path_, "/cgroup.events")));
  return ParseEvent(content, key);
}

absl::StatusOr<pid_t> HostPid(const Cgroup& group, pid_t inside) {
  ASSIGN_OR_RETURN(const std::vector<pid_t> pids, group.Pids());
  for (pid_t pid : pids) {
    // A process that ended meanwhile has none.
    const std::vector<pid_t> numbers = StatusNumbers(pid, "NSpid:");
    if (numbers.size() > 1 && numbers.back() == inside) return pid;
  }
  return absl::NotFoundError(
      absl::StrCat("no process of cgroup ", group.path(), " has pid ", inside, " inside"));
}

absl::Status CheckTree(const Cgroup& group, pid_t root) {
  ASSIGN_OR_RETURN(const std::vector<pid_t> pids, group.Pids());
  std::map<pid_t, pid_t> parents;
  for (pid_t pid : pids) {
    const std::vector<pid_t> parent = StatusNumbers(pid, "PPid:");
    if (parent.size() == 1) parents[pid] = parent[0];
  }
  for (const auto& [pid, parent] : parents) {
    pid_t ancestor = pid;
    while (ancestor != root) {
      const auto above = parents.find(ancestor);
      if (above == parents.end()) {
        return absl::InternalError(absl::StrCat("process ", pid, " of cgroup ", group.path(),
                                                " is not below the tree's root ", root));
      }
      ancestor = above->second;
    }
  }
  return absl::OkStatus();
}

}  // namespace starling::keeper
