#include "transport/address_exchange.h"

#include <endian.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <span>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "transport/sockets.h"

namespace starling::transport {
namespace {

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
  return WriteWhole(socket, std::as_bytes(std::span(&message, 1)), deadline, what);
}

struct Heard {
  Kind kind;
  QueuePairAddress address;
  std::string private_data;
};

absl::StatusOr<Heard> ReceiveMessage(int socket, Deadline deadline, absl::string_view what) {
  Message message;
  RETURN_IF_ERROR(
      ReadWhole(socket, std::as_writable_bytes(std::span(&message, 1)), deadline, what));
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
