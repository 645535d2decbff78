#include "runtime/keeper/tcp_repair.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/status.h"

namespace starling::keeper {
namespace {

// Of linux/tcp.h, which cannot be included beside netinet/tcp.h: leave repair mode without sending
// a window probe.
constexpr int kRepairOffNoWindowProbe = -1;

// True if `fd` of the process behind `pidfd` was a TCP socket in repair mode.
absl::StatusOr<bool> EndRepair(int pidfd, int fd) {
  const UniqueFd socket(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd, fd, 0u)));
  if (!socket) return ErrnoStatus("borrow a socket of the component");
  int protocol = 0, repair = 0;
  socklen_t size = sizeof(protocol);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PROTOCOL, &protocol, &size) != 0) {
    return ErrnoStatus("look at a socket of the component");
  }
  if (protocol != IPPROTO_TCP) return false;
  size = sizeof(repair);
  if (::getsockopt(socket.get(), IPPROTO_TCP, TCP_REPAIR, &repair, &size) != 0) {
    return ErrnoStatus("look at a socket's repair mode");
  }
  if (repair == 0) return false;
  const int off = kRepairOffNoWindowProbe;
  if (::setsockopt(socket.get(), IPPROTO_TCP, TCP_REPAIR, &off, sizeof(off)) != 0) {
    return ErrnoStatus("end a socket's repair mode");
  }
  return true;
}

}  // namespace

absl::StatusOr<int> EndTcpRepair(const Cgroup& group) {
  ASSIGN_OR_RETURN(const std::vector<pid_t> pids, group.Pids());
  int ended = 0;
  for (const pid_t pid : pids) {
    const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0u)));
    if (!pidfd) return ErrnoStatus(absl::StrCat("open process ", pid));
    std::error_code error;
    const std::string folder = absl::StrCat("/proc/", pid, "/fd");
    for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end;
         it.increment(error)) {
      std::error_code unreadable;
      const std::string target = std::filesystem::read_symlink(it->path(), unreadable).string();
      int fd = -1;
      if (target.rfind("socket:", 0) != 0 ||
          !absl::SimpleAtoi(it->path().filename().string(), &fd)) {
        continue;
      }
      ASSIGN_OR_RETURN(const bool was, EndRepair(pidfd.get(), fd));
      if (was) ++ended;
    }
    if (error) return ErrnoStatus(error.value(), absl::StrCat("list ", folder));
  }
  return ended;
}

}  // namespace starling::keeper
