#include "runtime/preflight/socket_facts.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/status.h"

namespace starling::preflight {
namespace {

int Option(int fd, int name) {
  int value = -1;
  socklen_t size = sizeof(value);
  return ::getsockopt(fd, SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

std::string UnixName(absl::string_view bytes) {
  if (bytes.empty()) return "";
  if (bytes[0] == '\0') return absl::StrCat("@", bytes.substr(1));
  return std::string(bytes.substr(0, bytes.find('\0')));
}

std::string AddressName(const sockaddr_storage& address, socklen_t size) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(address);
    ::inet_ntop(AF_INET, &in.sin_addr, text, sizeof(text));
    return absl::StrCat(text, ":", ntohs(in.sin_port));
  }
  if (address.ss_family == AF_INET6) {
    const auto& in6 = reinterpret_cast<const sockaddr_in6&>(address);
    ::inet_ntop(AF_INET6, &in6.sin6_addr, text, sizeof(text));
    return absl::StrCat("[", text, "]:", ntohs(in6.sin6_port));
  }
  if (address.ss_family == AF_UNIX && size > offsetof(sockaddr_un, sun_path)) {
    const auto& un = reinterpret_cast<const sockaddr_un&>(address);
    return UnixName(absl::string_view(un.sun_path, size - offsetof(sockaddr_un, sun_path)));
  }
  return "";
}

// The inode of the network namespace a socket was made in.
uint64_t NetworkOf(int fd) {
  const UniqueFd network(::ioctl(fd, SIOCGSKNS));
  struct stat stat;
  if (!network || ::fstat(network.get(), &stat) != 0) return 0;
  return stat.st_ino;
}

// A sock_diag socket in the network namespace of `pid`. A socket stays in the namespace in which it
// was made, so one short-lived thread enters it.
absl::StatusOr<UniqueFd> OpenDiag(int pid) {
  const std::string path = absl::StrCat("/proc/", pid, "/ns/net");
  ASSIGN_OR_RETURN(const UniqueFd network, OpenFile(path, O_RDONLY));
  UniqueFd diag;
  int error = 0;
  std::thread([&] {
    if (::setns(network.get(), CLONE_NEWNET) != 0) {
      error = errno;
      return;
    }
    diag.Reset(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
    if (!diag) error = errno;
  }).join();
  if (error != 0) return ErrnoStatus(error, absl::StrCat("opening socket diagnosis in ", path));
  return diag;
}

void AddUnixSocket(const nlmsghdr* header, std::map<uint64_t, UnixSocket>* sockets) {
  if (header->nlmsg_len < NLMSG_LENGTH(sizeof(unix_diag_msg))) return;
  const auto* message = static_cast<const unix_diag_msg*>(NLMSG_DATA(header));
  UnixSocket socket;
  int left = static_cast<int>(header->nlmsg_len - NLMSG_LENGTH(sizeof(*message)));
  for (const rtattr* attribute = reinterpret_cast<const rtattr*>(message + 1);
       RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
    const char* data = static_cast<const char*>(RTA_DATA(attribute));
    const size_t size = RTA_PAYLOAD(attribute);
    if (attribute->rta_type == UNIX_DIAG_PEER && size >= sizeof(uint32_t)) {
      uint32_t peer;
      memcpy(&peer, data, sizeof(peer));
      socket.peer_inode = peer;
    } else if (attribute->rta_type == UNIX_DIAG_NAME) {
      socket.name = UnixName(absl::string_view(data, size));
    }
  }
  (*sockets)[message->udiag_ino] = std::move(socket);
}

}  // namespace

absl::StatusOr<SocketFact> LookAtSocket(int pid, int fd, uint64_t inode) {
  const std::string what = absl::StrCat("socket ", fd, " of process ", pid);
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) {
    return errno == ESRCH ? absl::NotFoundError(what) : ErrnoStatus(what);
  }
  const UniqueFd socket(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), fd, 0)));
  if (!socket) {
    return errno == EBADF || errno == ESRCH ? absl::NotFoundError(what) : ErrnoStatus(what);
  }
  struct stat stat;
  if (::fstat(socket.get(), &stat) != 0 || stat.st_ino != inode || !S_ISSOCK(stat.st_mode)) {
    return absl::NotFoundError(what);
  }

  SocketFact fact;
  fact.inode = inode;
  fact.family = Option(socket.get(), SO_DOMAIN);
  fact.type = Option(socket.get(), SO_TYPE);
  fact.protocol = Option(socket.get(), SO_PROTOCOL);
  fact.network = NetworkOf(socket.get());
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0) {
    fact.name = AddressName(address, size);
  }
  address = {};
  size = sizeof(address);
  if (::getpeername(socket.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0) {
    const std::string peer = AddressName(address, size);
    if (fact.family == AF_UNIX) {
      fact.peer_name = peer;
    } else if (!peer.empty()) {
      absl::StrAppend(&fact.name, " - ", peer);
    }
  }
  const bool inet = fact.family == AF_INET || fact.family == AF_INET6;
  if (inet && fact.type == SOCK_STREAM && fact.protocol == IPPROTO_TCP) {
    tcp_info info = {};
    size = sizeof(info);
    if (::getsockopt(socket.get(), IPPROTO_TCP, TCP_INFO, &info, &size) == 0) {
      fact.state = info.tcpi_state;
    }
  }
  return fact;
}

absl::StatusOr<std::map<uint64_t, UnixSocket>> UnixSockets(int pid) {
  ASSIGN_OR_RETURN(const UniqueFd diag, OpenDiag(pid));
  struct {
    nlmsghdr header;
    unix_diag_req request;
  } ask = {};
  ask.header.nlmsg_len = sizeof(ask);
  ask.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  ask.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  ask.request.sdiag_family = AF_UNIX;
  ask.request.udiag_states = ~0u;
  ask.request.udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_PEER;
  RETURN_IF_ERROR(Annotate(WriteAll(diag.get(), &ask, sizeof(ask)), "asking for Unix sockets"));

  std::map<uint64_t, UnixSocket> sockets;
  alignas(nlmsghdr) char buffer[32 * 1024];
  while (true) {
    const ssize_t n = ::recv(diag.get(), buffer, sizeof(buffer), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus("listing Unix sockets");
    size_t left = static_cast<size_t>(n);
    for (const auto* header = reinterpret_cast<const nlmsghdr*>(buffer); NLMSG_OK(header, left);
         header = NLMSG_NEXT(header, left)) {
      if (header->nlmsg_type == NLMSG_DONE) return sockets;
      if (header->nlmsg_type == NLMSG_ERROR) {
        const auto* error = static_cast<const nlmsgerr*>(NLMSG_DATA(header));
        return ErrnoStatus(-error->error, "listing Unix sockets");
      }
      AddUnixSocket(header, &sockets);
    }
    if (n == 0) return absl::InternalError("listing Unix sockets: ended early");
  }
}

}  // namespace starling::preflight
