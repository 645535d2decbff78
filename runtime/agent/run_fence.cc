#include "runtime/agent/run_fence.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/status.h"

extern char** environ;

namespace starling::agent {
namespace {

// Of what it writes.
constexpr size_t kMostWords = 1024;

}  // namespace

absl::Status RunFence(const std::string& command, const std::string& host, Deadline deadline) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus("make a pipe");
  const UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&files, theirs.get(), 1);
  ::posix_spawn_file_actions_adddup2(&files, theirs.get(), 2);
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  // The agent blocks signals that the program should take; a group of its own, to be killed as one.
  sigset_t none;
  ::sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setpgroup(&attributes, 0);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
  char* const arguments[] = {const_cast<char*>(command.c_str()), const_cast<char*>(host.c_str()),
                             nullptr};
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, command.c_str(), &files, &attributes, arguments, environ);
  ::posix_spawn_file_actions_destroy(&files);
  ::posix_spawnattr_destroy(&attributes);
  theirs.Reset();
  if (error != 0) return ErrnoStatus(error, absl::StrCat("run failover.fence_command ", command));
  std::string said;
  const auto hear = [&](int timeout_ms) {
    pollfd poll = {ours.get(), POLLIN, 0};
    if (::poll(&poll, 1, timeout_ms) <= 0) return false;
    char buffer[512];
    const ssize_t got = ::read(ours.get(), buffer, sizeof(buffer));
    if (got > 0) said.append(buffer, static_cast<size_t>(got));
    if (said.size() > kMostWords) said.erase(0, said.size() - kMostWords);
    return got > 0;
  };
  int status = 0;
  bool late = false;
  while (true) {
    // A child of it may hold the pipe open: its own end is what counts.
    const pid_t ended = ::waitpid(pid, &status, WNOHANG);
    if (ended == pid) break;
    if (ended < 0 && errno != EINTR) return ErrnoStatus("wait for failover.fence_command");
    late = late || deadline.Passed();
    if (late) ::kill(-pid, SIGKILL);
    // It may have closed its output, and go on.
    if (!hear(50)) ::usleep(10'000);
  }
  for (int i = 0; i < 8 && hear(0); ++i) {
  }
  const std::string words = absl::StrCat("failover.fence_command ", command, " ", host);
  if (late)
    return absl::DeadlineExceededError(absl::StrCat(words, " took too long and was killed"));
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(words, " ended with ",
                   WIFEXITED(status) ? absl::StrCat(WEXITSTATUS(status))
                                     : absl::StrCat("signal ", WTERMSIG(status)),
                   ", so that the host is not fenced: ", absl::StripAsciiWhitespace(said)));
}

}  // namespace starling::agent
