#include "transport/address_exchange.h"

#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cassert>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "transport/sockets.h"

namespace starling::transport {
namespace {

// A caller that says nothing keeps others waiting for no longer.
constexpr auto kHearTimeout = std::chrono::seconds(2);

using Kind = IntroductionKind;

absl::Status SendMessage(int socket, const IntroductionMessage& message, Deadline deadline,
                         absl::string_view what) {
  std::array<std::byte, kIntroductionBytes> bytes;
  EncodeIntroduction(message, bytes);
  return WriteWhole(socket, bytes, deadline, what);
}

absl::StatusOr<IntroductionMessage> ReceiveMessage(int socket, Deadline deadline,
                                                   absl::string_view what) {
  std::array<std::byte, kIntroductionBytes> bytes;
  RETURN_IF_ERROR(ReadWhole(socket, bytes, deadline, what));
  IntroductionMessage message;
  if (const char* const wrong = DecodeIntroduction(bytes, message); wrong != nullptr)
    return absl::DataLossError(absl::StrCat(what, ": what the peer says is refused: ", wrong));
  return message;
}

}  // namespace

Introduction::Introduction(UniqueFd socket) : socket_(std::move(socket)) {
  const int on = 1;
  (void)::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  description_ = SocketText(socket_.get());
}

absl::StatusOr<Introduction> Introduction::Connect(const std::string& address, uint16_t port,
                                                   Deadline deadline) {
  const std::string what = absl::StrCat("connect to ", address, ":", port);
  ASSIGN_OR_RETURN(UniqueFd socket, ConnectTcp(address, port, deadline, what));
  return Introduction(std::move(socket));
}

absl::StatusOr<QueuePairAddress> Introduction::Ask(const QueuePairAddress& own,
                                                   absl::string_view private_data,
                                                   Deadline deadline) {
  assert(private_data.size() <= kMaxPrivateData);
  RETURN_IF_ERROR(SendMessage(socket_.get(), {Kind::kAsk, own, std::string(private_data)}, deadline,
                              description_));
  ASSIGN_OR_RETURN(const IntroductionMessage heard,
                   ReceiveMessage(socket_.get(), deadline, description_));
  if (heard.kind == Kind::kRefuse)
    return absl::PermissionDeniedError(absl::StrCat(description_, ": the peer refused"));
  if (heard.kind != Kind::kAccept)
    return absl::DataLossError(absl::StrCat(description_, ": an answer of another kind"));
  return heard.address;
}

absl::Status Introduction::SayReady(Deadline deadline) {
  return SendMessage(socket_.get(), {Kind::kReady, {}, ""}, deadline, description_);
}

absl::StatusOr<QueuePairAddress> Introduction::Hear(Deadline deadline) {
  ASSIGN_OR_RETURN(IntroductionMessage heard,
                   ReceiveMessage(socket_.get(), deadline, description_));
  if (heard.kind != Kind::kAsk)
    return absl::DataLossError(absl::StrCat(description_, ": a question of another kind"));
  private_data_ = std::move(heard.private_data);
  return heard.address;
}

absl::Status Introduction::Accept(const QueuePairAddress& own, Deadline deadline) {
  RETURN_IF_ERROR(SendMessage(socket_.get(), {Kind::kAccept, own, ""}, deadline, description_));
  ASSIGN_OR_RETURN(const IntroductionMessage heard,
                   ReceiveMessage(socket_.get(), deadline, description_));
  if (heard.kind != Kind::kReady)
    return absl::DataLossError(absl::StrCat(description_, ": an answer of another kind"));
  return absl::OkStatus();
}

void Introduction::Refuse() {
  if (!socket_) return;
  SendMessage(socket_.get(), {Kind::kRefuse, {}, ""}, Deadline::After(Duration::zero()),
              description_)
      .IgnoreError();
  socket_.Reset();
}

absl::StatusOr<IntroductionListener> IntroductionListener::Listen(const std::string& address,
                                                                  uint16_t port) {
  ASSIGN_OR_RETURN(UniqueFd socket, ListenTcp(address, port));
  sockaddr_in local = {};
  socklen_t bytes = sizeof(local);
  if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&local), &bytes) != 0)
    return ErrnoStatus(absl::StrCat("listen on ", address, ":", port));
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
