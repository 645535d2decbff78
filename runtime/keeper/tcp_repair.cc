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

// What a visitor answers: true if it did something to the socket.
using Visit = absl::StatusOr<bool> (*)(int socket);

absl::Status SetRepair(int socket, int value) {
  if (::setsockopt(socket, IPPROTO_TCP, TCP_REPAIR, &value, sizeof(value)) != 0) {
    return ErrnoStatus("change a socket's repair mode");
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> EndRepair(int socket) {
  int repair = 0;
  socklen_t size = sizeof(repair);
  if (::getsockopt(socket, IPPROTO_TCP, TCP_REPAIR, &repair, &size) != 0) {
    return ErrnoStatus("look at a socket's repair mode");
  }
  if (repair == 0) return false;
  RETURN_IF_ERROR(SetRepair(socket, kRepairOffNoWindowProbe));
  return true;
}

absl::StatusOr<bool> Wake(int socket) {
  tcp_info info = {};
  socklen_t size = sizeof(info);
  if (::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) {
    return ErrnoStatus("look at a connection's state");
  }
  if (info.tcpi_state != TCP_ESTABLISHED) return false;
  // Repair mode changes this option as it comes and as it goes.
  int reuse = 0;
  size = sizeof(reuse);
  if (::getsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &reuse, &size) != 0) {
    return ErrnoStatus("look at a socket's options");
  }
  RETURN_IF_ERROR(SetRepair(socket, 1));
  RETURN_IF_ERROR(SetRepair(socket, 0));  // with a window probe
  if (::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse)) != 0) {
    return ErrnoStatus("set a socket's options");
  }
  return true;
}

// Visits `fd` of the process behind `pidfd` if it is a TCP socket.
absl::StatusOr<bool> VisitDescriptor(int pidfd, int fd, Visit visit) {
  const UniqueFd socket(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd, fd, 0u)));
  if (!socket) return ErrnoStatus("borrow a socket of the component");
  int protocol = 0;
  socklen_t size = sizeof(protocol);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PROTOCOL, &protocol, &size) != 0) {
    return ErrnoStatus("look at a socket of the component");
  }
  if (protocol != IPPROTO_TCP) return false;
  return visit(socket.get());
}

absl::StatusOr<int> VisitTcpSockets(const Cgroup& group, Visit visit) {
  ASSIGN_OR_RETURN(const std::vector<pid_t> pids, group.Pids());
  int visited = 0;
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
      ASSIGN_OR_RETURN(const bool was, VisitDescriptor(pidfd.get(), fd, visit));
      if (was) ++visited;
    }
    if (error) return ErrnoStatus(error.value(), absl::StrCat("list ", folder));
  }
  return visited;
}

}  // namespace

absl::StatusOr<int> EndTcpRepair(const Cgroup& group) { return VisitTcpSockets(group, EndRepair); }

absl::StatusOr<int> WakeConnections(const Cgroup& group) { return VisitTcpSockets(group, Wake); }

}  // namespace starling::keeper
