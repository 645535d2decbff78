#include "runtime/keeper/probe.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/status.h"

namespace starling::keeper {
namespace {

constexpr size_t kKeptOutput = 4096;

void KeepTail(std::string& output, const char* data, size_t size) {
  output.append(data, size);
  if (output.size() > 2 * kKeptOutput) output.erase(0, output.size() - kKeptOutput);
}

}  // namespace

absl::StatusOr<ProbeOutcome> RunProbe(const ProbeOptions& options, Deadline deadline) {
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return ErrnoStatus("pipe");
  UniqueFd reader(pipe_fds[0]), writer(pipe_fds[1]);
  ASSIGN_OR_RETURN(const UniqueFd null, OpenFile("/dev/null", O_RDONLY));
  const char* const argv[] = {"/bin/sh", "-c", options.command.c_str(), nullptr};
  sigset_t none;
  sigemptyset(&none);
  const pid_t pid = ::fork();
  if (pid < 0) return ErrnoStatus("fork for the probe");
  if (pid == 0) {
    // Only async-signal-safe calls until the exec.
    ::setsid();
    if (options.network_namespace >= 0 && ::setns(options.network_namespace, CLONE_NEWNET) != 0) {
      ::_exit(126);
    }
    ::dup2(null.get(), 0);
    ::dup2(writer.get(), 1);
    ::dup2(writer.get(), 2);
    ::syscall(SYS_close_range, 3u, ~0u, 0u);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::execve(argv[0], const_cast<char* const*>(argv), environ);
    ::_exit(127);
  }
  writer.Reset();
  const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0u)));

  ProbeOutcome outcome;
  bool timed_out = false;
  bool ended = false;
  // Until the shell has ended; what it left in the background does not hold us up.
  while (!ended) {
    pollfd polls[2] = {{pidfd.get(), POLLIN, 0}, {reader.get(), POLLIN, 0}};
    (void)::poll(polls, 2, static_cast<int>(deadline.Left().count()));
    if (polls[1].revents != 0) {
      char buffer[4096];
      const ssize_t n = ::read(reader.get(), buffer, sizeof(buffer));
      if (n > 0) {
        KeepTail(outcome.output, buffer, static_cast<size_t>(n));
      } else {
        reader.Reset();
      }
    }
    // What was said before the end is read first.
    ended = polls[0].revents != 0 && polls[1].revents == 0;
    if (!ended && deadline.Passed()) {
      timed_out = true;
      break;
    }
  }
  (void)::kill(-pid, SIGKILL);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (outcome.output.size() > kKeptOutput) {
    outcome.output.erase(0, outcome.output.size() - kKeptOutput);
  }
  if (timed_out) {
    return absl::DeadlineExceededError(
        absl::StrCat("the probe did not end in time; its output so far: ", outcome.output));
  }
  outcome.exit_status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return outcome;
}

}  // namespace starling::keeper
