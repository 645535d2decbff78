#include "transport/address_exchange.h"

#include <arpa/inet.h>
#include <endian.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace starling::transport {
namespace {

constexpr int kBacklog = 64;
// A caller that says nothing keeps others waiting for no longer.
constexpr auto kHearTimeout = std::chrono::seconds(2);
constexpr uint32_t kMagic = 0x53515031;  // "SQP1"

enum class Kind : uint32_t { kAsk = 1, kAccept = 2, kRefuse = 3, kReady = 4 };

// All numbers big-endian.
struct Message {
  uint32_t magic = 0;
  uint32_t kind = 0;
  uint32_t ip = 0;
  uint32_t number = 0;
  uint32_t psn = 0;
  uint32_t mtu = 0;
  uint32_t reads = 0;
  uint32_t partition = 0;
  uint32_t private_bytes = 0;
  std::array<char, kMaxPrivateData> private_data{};
};
static_assert(sizeof(Message) == 84);

absl::Status Await(int socket, short events, Deadline deadline, absl::string_view what) {
  while (true) {
    pollfd poller = {socket, events, 0};
    const int ready = ::poll(&poller, 1, static_cast<int>(deadline.Left().count()));
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return ErrnoStatus(what);
    if (ready == 0 && deadline.Passed())
      return absl::DeadlineExceededError(absl::StrCat(what, ": no answer in time"));
  }
}

absl::Status SendMessage(int socket, Kind kind, const QueuePairAddress& address,
                         absl::string_view private_data, Deadline deadline,
                         absl::string_view what) {
  Message message = {.magic = htobe32(kMagic),
                     .kind = htobe32(static_cast<uint32_t>(kind)),
                     .ip = htobe32(address.ip),
                     .number = htobe32(address.number),
                     .psn = htobe32(address.psn),
                     .mtu = htobe32(address.mtu),
                     .reads = htobe32(address.reads),
                     .partition = htobe32(address.partition),
                     .private_bytes = htobe32(static_cast<uint32_t>(private_data.size()))};
  std::memcpy(message.private_data.data(), private_data.data(), private_data.size());
  const char* at = reinterpret_cast<const char*>(&message);
  for (size_t left = sizeof(message); left > 0;) {
    const ssize_t n = ::send(socket, at, left, MSG_NOSIGNAL);
    if (n > 0) {
      at += n;
      left -= static_cast<size_t>(n);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      RETURN_IF_ERROR(Await(socket, POLLOUT, deadline, what));
    } else if (errno != EINTR) {
      return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
    }
  }
  return absl::OkStatus();
}

struct Heard {
  Kind kind;
  QueuePairAddress address;
  std::string private_data;
};

absl::StatusOr<Heard> ReceiveMessage(int socket, Deadline deadline, absl::string_view what) {
  Message message;
  char* at = reinterpret_cast<char*>(&message);
  for (size_t left = sizeof(message); left > 0;) {
    const ssize_t n = ::recv(socket, at, left, 0);
    if (n > 0) {
      at += n;
      left -= static_cast<size_t>(n);
    } else if (n == 0) {
      return absl::UnavailableError(absl::StrCat(what, ": the peer has gone"));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      RETURN_IF_ERROR(Await(socket, POLLIN, deadline, what));
    } else if (errno != EINTR) {
      return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
    }
  }
  Heard heard;
  heard.kind = static_cast<Kind>(be32toh(message.kind));
  heard.address = {.ip = be32toh(message.ip),
                   .number = be32toh(message.number),
                   .psn = be32toh(message.psn),
                   .mtu = be32toh(message.mtu),
                   .reads = static_cast<uint8_t>(std::min(be32toh(message.reads), 255u)),
                   .partition = static_cast<uint16_t>(be32toh(message.partition))};
  const uint32_t private_bytes = be32toh(message.private_bytes);
  const uint32_t mtu = heard.address.mtu;
  const bool introduces = heard.kind == Kind::kAsk || heard.kind == Kind::kAccept;
  if (be32toh(message.magic) != kMagic || private_bytes > kMaxPrivateData ||
      (introduces && (mtu < 256 || mtu > 4096 || (mtu & (mtu - 1)) != 0 ||
                      heard.address.number > 0xffffff || heard.address.psn > 0xffffff))) {
    return absl::DataLossError(
        absl::StrCat(what, ": what listens there does not introduce queue pairs as we do"));
  }
  heard.private_data.assign(message.private_data.data(), private_bytes);
  return heard;
}

absl::StatusOr<sockaddr_in> Resolve(const std::string& address, uint16_t port) {
  addrinfo hints = {};
  hints.ai_family = AF_INET;
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

std::string SocketAddress(int socket, bool peer) {
  sockaddr_in address = {};
  socklen_t bytes = sizeof(address);
  auto* const raw = reinterpret_cast<sockaddr*>(&address);
  if ((peer ? ::getpeername(socket, raw, &bytes) : ::getsockname(socket, raw, &bytes)) != 0)
    return "?";
  char text[INET_ADDRSTRLEN] = "?";
  ::inet_ntop(AF_INET, &address.sin_addr, text, sizeof(text));
  return absl::StrCat(text, ":", ntohs(address.sin_port));
}

absl::StatusOr<UniqueFd> TcpSocket() {
  UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return ErrnoStatus("make a TCP socket");
  const int on = 1;
  (void)::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  return socket;
}

}  // namespace

Introduction::Introduction(UniqueFd socket) : socket_(std::move(socket)) {
  const int on = 1;
  (void)::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  description_ =
      absl::StrCat(SocketAddress(socket_.get(), false), " -> ", SocketAddress(socket_.get(), true));
}

absl::StatusOr<Introduction> Introduction::Connect(const std::string& address, uint16_t port,
                                                   Deadline deadline) {
  const std::string what = absl::StrCat("connect to ", address, ":", port);
  ASSIGN_OR_RETURN(UniqueFd socket, TcpSocket());
  ASSIGN_OR_RETURN(const sockaddr_in remote, Resolve(address, port));
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&remote), sizeof(remote)) != 0 &&
      errno != EINPROGRESS) {
    return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
  }
  RETURN_IF_ERROR(Await(socket.get(), POLLOUT, deadline, what));
  int error = 0;
  socklen_t bytes = sizeof(error);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &bytes) != 0)
    return ErrnoStatus(what);
  if (error == ECONNREFUSED)
    return absl::UnavailableError(absl::StrCat(what, ": nobody listens there"));
  if (error != 0) return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(error)));
  return Introduction(std::move(socket));
}

absl::StatusOr<QueuePairAddress> Introduction::Ask(const QueuePairAddress& own,
                                                   absl::string_view private_data,
                                                   Deadline deadline) {
  if (private_data.size() > kMaxPrivateData) {
    return absl::InvalidArgumentError(
        absl::StrCat("private data has more than ", kMaxPrivateData, " bytes"));
  }
  RETURN_IF_ERROR(
      SendMessage(socket_.get(), Kind::kAsk, own, private_data, deadline, description_));
  ASSIGN_OR_RETURN(const Heard heard, ReceiveMessage(socket_.get(), deadline, description_));
  if (heard.kind == Kind::kRefuse)
    return absl::PermissionDeniedError(absl::StrCat(description_, ": the peer refused"));
  if (heard.kind != Kind::kAccept)
    return absl::DataLossError(absl::StrCat(description_, ": an answer of another kind"));
  return heard.address;
}

absl::Status Introduction::SayReady(Deadline deadline) {
  return SendMessage(socket_.get(), Kind::kReady, {}, "", deadline, description_);
}

absl::StatusOr<QueuePairAddress> Introduction::Hear(Deadline deadline) {
  ASSIGN_OR_RETURN(Heard heard, ReceiveMessage(socket_.get(), deadline, description_));
  if (heard.kind != Kind::kAsk)
    return absl::DataLossError(absl::StrCat(description_, ": a question of another kind"));
  private_data_ = std::move(heard.private_data);
  return heard.address;
}

absl::Status Introduction::Accept(const QueuePairAddress& own, Deadline deadline) {
  RETURN_IF_ERROR(SendMessage(socket_.get(), Kind::kAccept, own, "", deadline, description_));
  ASSIGN_OR_RETURN(const Heard heard, ReceiveMessage(socket_.get(), deadline, description_));
  if (heard.kind != Kind::kReady)
    return absl::DataLossError(absl::StrCat(description_, ": an answer of another kind"));
  return absl::OkStatus();
}

void Introduction::Refuse() {
  if (!socket_) return;
  SendMessage(socket_.get(), Kind::kRefuse, {}, "", Deadline::After(Duration::zero()), description_)
      .IgnoreError();
  socket_.Reset();
}

absl::StatusOr<IntroductionListener> IntroductionListener::Listen(const std::string& address,
                                                                  uint16_t port) {
  const std::string where = absl::StrCat(address, ":", port);
  ASSIGN_OR_RETURN(UniqueFd socket, TcpSocket());
  ASSIGN_OR_RETURN(sockaddr_in local, Resolve(address, port));
  auto* const raw = reinterpret_cast<sockaddr*>(&local);
  if (::bind(socket.get(), raw, sizeof(local)) != 0)
    return ErrnoStatus(absl::StrCat("bind ", where));
  if (::listen(socket.get(), kBacklog) != 0) return ErrnoStatus(absl::StrCat("listen on ", where));
  socklen_t bytes = sizeof(local);
  if (::getsockname(socket.get(), raw, &bytes) != 0) return ErrnoStatus(where);
  return IntroductionListener(std::move(socket), ntohs(local.sin_port));
}

absl::StatusOr<Introduction> IntroductionListener::Next(Deadline deadline) {
  while (true) {
    UniqueFd socket(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket) return Introduction(std::move(socket));
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      const absl::Status waited = Await(socket_.get(), POLLIN, deadline, "wait for connections");
      if (absl::IsDeadlineExceeded(waited))
        return absl::DeadlineExceededError("no connection was asked for");
      RETURN_IF_ERROR(waited);
    } else if (errno != EINTR && errno != ECONNABORTED) {
      return ErrnoStatus("wait for connections");
    }
  }
}

absl::StatusOr<Introduction> IntroductionListener::NextHeard(QueuePairAddress& peer,
                                                             Deadline deadline) {
  while (true) {
    ASSIGN_OR_RETURN(Introduction introduction, Next(deadline));
    const absl::StatusOr<QueuePairAddress> heard = introduction.Hear(Deadline::After(kHearTimeout));
    if (heard.ok()) {
      peer = *heard;
      return introduction;
    }
    spdlog::warn("a caller was dropped: {}", heard.status().ToString());
  }
}

}  // namespace starling::transport
