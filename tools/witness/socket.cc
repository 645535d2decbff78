#include "tools/witness/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tools/witness/clock.h"

namespace starling::witness {
namespace {

constexpr int64_t kConnectAttemptNs = kNsPerSecond;
constexpr int64_t kBetweenAttemptsNs = 50 * kNsPerMs;

sockaddr_in ToSockaddr(const Endpoint& endpoint) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(endpoint.port);
  address.sin_addr.s_addr = htonl(endpoint.address);
  return address;
}

absl::StatusOr<Socket> TryConnect(const Endpoint& server, int64_t deadline_ns) {
  Socket connection(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (connection.fd() < 0) return absl::ErrnoToStatus(errno, "cannot make a TCP socket");
  const int one = 1;
  setsockopt(connection.fd(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  const sockaddr_in address = ToSockaddr(server);
  int error = 0;
  if (connect(connection.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno != EINPROGRESS) return absl::ErrnoToStatus(errno, "connect");
    pollfd waiting = {connection.fd(), POLLOUT, 0};
    const int64_t left_ms = std::max<int64_t>((deadline_ns - Now()) / kNsPerMs, 1);
    if (poll(&waiting, 1, static_cast<int>(left_ms)) <= 0) {
      return absl::DeadlineExceededError("no answer to the connection request");
    }
    socklen_t size = sizeof error;
    getsockopt(connection.fd(), SOL_SOCKET, SO_ERROR, &error, &size);
  }
  if (error != 0) return absl::ErrnoToStatus(error, "connect");
  return connection;
}

}  // namespace

absl::StatusOr<Endpoint> Endpoint::Parse(absl::string_view text) {
  const size_t colon = text.rfind(':');
  in_addr address = {};
  uint32_t port = 0;
  if (colon == absl::string_view::npos ||
      inet_pton(AF_INET, std::string(text.substr(0, colon)).c_str(), &address) != 1 ||
      !absl::SimpleAtoi(text.substr(colon + 1), &port) || port == 0 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not an IPv4 address and port such as 10.77.0.50:6379"));
  }
  return Endpoint{ntohl(address.s_addr), static_cast<uint16_t>(port)};
}

std::string Endpoint::ToString() const {
  return absl::StrCat(address >> 24, ".", address >> 16 & 255, ".", address >> 8 & 255, ".",
                      address & 255, ":", port);
}

Socket::Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

Socket& Socket::operator=(Socket&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Socket::~Socket() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<Socket> ConnectTcp(const Endpoint& server, int64_t deadline_ns) {
  for (;;) {
    absl::StatusOr<Socket> connection =
        TryConnect(server, std::min(deadline_ns, Now() + kConnectAttemptNs));
    if (connection.ok()) return connection;
    if (Now() + kBetweenAttemptsNs > deadline_ns) {
      return absl::DeadlineExceededError(absl::StrCat("cannot connect to ", server.ToString(), ": ",
                                                      connection.status().message()));
    }
    usleep(kBetweenAttemptsNs / 1000);
  }
}

absl::StatusOr<Socket> ListenUdp(uint16_t port, int timeout_ms) {
  Socket listener(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (listener.fd() < 0) return absl::ErrnoToStatus(errno, "cannot make a UDP socket");
  const timeval timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1000};
  setsockopt(listener.fd(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  const int buffer_bytes = 4 << 20;  // seconds of beats, should this host be busy elsewhere
  setsockopt(listener.fd(), SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof buffer_bytes);
  const sockaddr_in address = ToSockaddr({INADDR_ANY, port});
  if (bind(listener.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot listen on UDP port ", port));
  }
  return listener;
}

}  // namespace starling::witness
