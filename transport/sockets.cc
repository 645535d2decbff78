#include "transport/sockets.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace starling::transport {
namespace {

constexpr int kBacklog = 64;

}  // namespace

absl::StatusOr<sockaddr_in> Resolve(const std::string& address, uint16_t port) {
  addrinfo hints = {};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(address.c_str(), nullptr, &hints, &found);
  if (error != 0)
    return absl::NotFoundError(absl::StrCat("address ", address, ": ", ::gai_strerror(error)));
  sockaddr_in result;
  std::memcpy(&result, found->ai_addr, sizeof(result));
  ::freeaddrinfo(found);
  result.sin_port = htons(port);
  return result;
}

std::string AddressText(const sockaddr* address) {
  char text[INET6_ADDRSTRLEN] = "?";
  uint16_t port = 0;
  if (address->sa_family == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(address);
    ::inet_ntop(AF_INET, &in->sin_addr, text, sizeof(text));
    port = ntohs(in->sin_port);
  } else if (address->sa_family == AF_INET6) {
    const auto* in = reinterpret_cast<const sockaddr_in6*>(address);
    ::inet_ntop(AF_INET6, &in->sin6_addr, text, sizeof(text));
    port = ntohs(in->sin6_port);
  }
  return absl::StrCat(text, ":", port);
}

std::string SocketText(int socket) {
  sockaddr_in local = {};
  sockaddr_in remote = {};
  socklen_t length = sizeof(local);
  (void)::getsockname(socket, reinterpret_cast<sockaddr*>(&local), &length);
  length = sizeof(remote);
  (void)::getpeername(socket, reinterpret_cast<sockaddr*>(&remote), &length);
  return absl::StrCat(AddressText(reinterpret_cast<sockaddr*>(&local)), " -> ",
                      AddressText(reinterpret_cast<sockaddr*>(&remote)));
}

absl::StatusOr<UniqueFd> TcpSocket() {
  UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return ErrnoStatus("make a TCP socket");
  return socket;
}

absl::StatusOr<UniqueFd> ConnectTcp(const std::string& address, uint16_t port, Deadline deadline,
                                    absl::string_view what) {
  ASSIGN_OR_RETURN(const sockaddr_in remote, Resolve(address, port));
  ASSIGN_OR_RETURN(UniqueFd socket, TcpSocket());
  int error = 0;
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&remote), sizeof(remote)) != 0)
    error = errno;
  if (error == EINPROGRESS) {
    RETURN_IF_ERROR(Await(socket.get(), POLLOUT, deadline, what));
    socklen_t length = sizeof(error);
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0)
      return ErrnoStatus(what);
  }
  if (error == ECONNREFUSED)
    return absl::UnavailableError(absl::StrCat(what, ": nobody listens there"));
  if (error != 0) return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(error)));
  return socket;
}

absl::StatusOr<UniqueFd> ListenTcp(const std::string& address, uint16_t port) {
  const std::string where = absl::StrCat(address, ":", port);
  ASSIGN_OR_RETURN(const sockaddr_in local, Resolve(address, port));
  ASSIGN_OR_RETURN(UniqueFd socket, TcpSocket());
  const int on = 1;
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0)
    return ErrnoStatus("make a TCP socket");
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&local), sizeof(local)) != 0 ||
      ::listen(socket.get(), kBacklog) != 0) {
    if (errno == EADDRINUSE)
      return absl::AlreadyExistsError(absl::StrCat("listen on ", where, ": in use"));
    return ErrnoStatus(absl::StrCat("listen on ", where));
  }
  return socket;
}

absl::Status Await(int socket, int16_t events, Deadline deadline, absl::string_view what) {
  while (true) {
    pollfd poller = {socket, events, 0};
    const int ready = ::poll(&poller, 1, static_cast<int>(deadline.Left().count()));
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return ErrnoStatus(what);
    if (deadline.Passed())
      return absl::DeadlineExceededError(absl::StrCat(what, ": no answer in time"));
  }
}

absl::Status WriteWhole(int socket, std::span<const std::byte> bytes, Deadline deadline,
                        absl::string_view what) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n >= 0) {
      bytes = bytes.subspan(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      RETURN_IF_ERROR(Await(socket, POLLOUT, deadline, what));
    } else if (errno != EINTR) {
      return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadWhole(int socket, std::span<std::byte> bytes, Deadline deadline,
                       absl::string_view what) {
  while (!bytes.empty()) {
    const ssize_t n = ::recv(socket, bytes.data(), bytes.size(), 0);
    if (n > 0) {
      bytes = bytes.subspan(static_cast<size_t>(n));
    } else if (n == 0) {
      return absl::UnavailableError(absl::StrCat(what, ": the peer has gone"));
    } else if (errno == EAGAIN) {
      RETURN_IF_ERROR(Await(socket, POLLIN, deadline, what));
    } else if (errno != EINTR) {
      return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
    }
  }
  return absl::OkStatus();
}

}  // namespace starling::transport
