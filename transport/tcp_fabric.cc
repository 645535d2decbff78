#include "transport/tcp_fabric.h"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/status.h"
#include "transport/sockets.h"
#include "transport/tcp_queue_pair.h"
#include "transport/tcp_wire.h"

namespace starling::transport {
namespace {

// Callers that have not said yet who they are: at most so many, for at most so long.
constexpr size_t kMaxSilent = 64;
constexpr auto kSilence = std::chrono::seconds(5);
constexpr uint64_t kMaxRegionBytes = uint64_t{1} << 40;

class TcpRegion final : public MemoryRegion {
 public:
  TcpRegion(TcpRegions& regions, TcpRegions::Entry entry)
      : regions_(regions), entry_(std::move(entry)) {}
  ~TcpRegion() override { regions_.Remove(entry_.key); }
  std::span<std::byte> span() const override { return entry_.grant->memory(); }
  uint64_t remote_address() const override { return entry_.grant->base(); }
  uint32_t remote_key() const override { return entry_.key; }
  uint32_t local_key() const override { return entry_.key; }

 private:
  TcpRegions& regions_;
  TcpRegions::Entry entry_;
};

// What all parts of one fabric share.
struct Shared {
  ConnectionTuning tuning;
  TcpRegions regions;
};

std::string Describe(int socket) { return absl::StrCat(SocketText(socket), " (tcp)"); }

struct Made {
  TcpQueuePair* queue_pair;
  std::unique_ptr<QueuePairConnection> connection;
};

// Not connected yet: its receives are posted before the peer can send anything.
absl::StatusOr<Made> MakeConnection(Shared& shared, Fabric& fabric) {
  auto queue_pair = std::make_unique<TcpQueuePair>(
      shared.regions, shared.tuning.send_depth, QueuePairConnection::ReceiveDepth(shared.tuning));
  TcpQueuePair* const raw = queue_pair.get();
  ASSIGN_OR_RETURN(std::unique_ptr<QueuePairConnection> connection,
                   QueuePairConnection::Make(std::move(queue_pair), fabric, shared.tuning));
  return Made{raw, std::move(connection)};
}

// The greetings are over: from here on the two threads of the queue pair use it, blocking.
absl::Status Begin(TcpQueuePair& queue_pair, UniqueFd socket) {
  const int flags = ::fcntl(socket.get(), F_GETFL);
  const int one = 1;
  if (flags < 0 || ::fcntl(socket.get(), F_SETFL, flags & ~O_NONBLOCK) != 0 ||
      ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) != 0) {
    return ErrnoStatus("set a socket up");
  }
  std::string description = Describe(socket.get());
  queue_pair.Start(std::move(socket), std::move(description));
  return absl::OkStatus();
}

void Answer(int socket, TcpAnswer answer) {
  std::array<std::byte, kTcpWelcomeBytes> bytes;
  EncodeTcpWelcome(answer, bytes);
  (void)::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

class TcpIncoming final : public Incoming {
 public:
  TcpIncoming(UniqueFd socket, const TcpHello& hello, Shared& shared, Fabric& fabric)
      : socket_(std::move(socket)), hello_(hello), shared_(shared), fabric_(fabric) {}
  ~TcpIncoming() override {
    if (socket_) Answer(socket_.get(), TcpAnswer::kRefused);
  }

  absl::string_view private_data() const override { return hello_.data(); }

  absl::StatusOr<std::unique_ptr<Connection>> Accept(Deadline deadline) override {
    const std::string what = absl::StrCat("accept ", Describe(socket_.get()));
    ASSIGN_OR_RETURN(Made made, MakeConnection(shared_, fabric_));
    UniqueFd socket = std::move(socket_);
    std::array<std::byte, kTcpWelcomeBytes> welcome;
    EncodeTcpWelcome(TcpAnswer::kAccepted, welcome);
    RETURN_IF_ERROR(WriteWhole(socket.get(), welcome, deadline, what));
    RETURN_IF_ERROR(Begin(*made.queue_pair, std::move(socket)));
    return std::unique_ptr<Connection>(std::move(made.connection));
  }

 private:
  UniqueFd socket_;
  const TcpHello hello_;
  Shared& shared_;
  Fabric& fabric_;
};

class TcpListener final : public Listener {
 public:
  TcpListener(UniqueFd socket, Shared& shared, Fabric& fabric)
      : socket_(std::move(socket)), shared_(shared), fabric_(fabric) {}

  absl::StatusOr<std::unique_ptr<Incoming>> Next(Deadline deadline) override {
    while (true) {
      std::vector<pollfd> pollers = {{socket_.get(), POLLIN, 0}};
      TimePoint until = deadline.at();
      for (const Silent& caller : silent_) {
        pollers.push_back({caller.socket.get(), POLLIN, 0});
        until = std::min(until, caller.until);
      }
      const int ready =
          ::poll(pollers.data(), pollers.size(), static_cast<int>(Deadline(until).Left().count()));
      if (ready < 0 && errno != EINTR) return ErrnoStatus("poll");
      std::unique_ptr<Incoming> incoming;
      if (ready > 0) {
        incoming = Hear(pollers);
        if ((pollers[0].revents & POLLIN) != 0) RETURN_IF_ERROR(Take());
      }
      std::erase_if(silent_, [](const Silent& caller) {
        return !caller.socket || Clock::now() >= caller.until;
      });
      if (incoming) return incoming;
      if (deadline.Passed()) return absl::DeadlineExceededError("no connection was asked for");
    }
  }

 private:
  // A caller whose greeting is not whole.
  struct Silent {
    UniqueFd socket;
    TimePoint until;
    std::array<std::byte, kTcpHelloBytes> hello;
    size_t bytes = 0;
  };

  absl::Status Take() {
    UniqueFd socket(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
      const bool passing = errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
      return passing ? absl::OkStatus() : ErrnoStatus("accept a connection");
    }
    if (silent_.size() >= kMaxSilent) {
      spdlog::warn("{}: dropped, {} callers have not said who they are", Describe(socket.get()),
                   silent_.size());
      return absl::OkStatus();
    }
    silent_.push_back({std::move(socket), Clock::now() + kSilence, {}, 0});
    return absl::OkStatus();
  }

  // The first caller whose greeting is whole. Callers that say something else are dropped.
  std::unique_ptr<Incoming> Hear(const std::vector<pollfd>& pollers) {
    for (size_t i = 1; i < pollers.size(); ++i) {
      if (pollers[i].revents == 0) continue;
      Silent& caller = silent_[i - 1];
      const ssize_t n = ::recv(caller.socket.get(), caller.hello.data() + caller.bytes,
                               caller.hello.size() - caller.bytes, 0);
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
      if (n <= 0) {
        caller.socket.Reset();
        continue;
      }
      caller.bytes += static_cast<size_t>(n);
      if (caller.bytes < caller.hello.size()) continue;
      UniqueFd socket = std::move(caller.socket);
      TcpHello hello;
      bool unlike = false;
      const char* wrong = DecodeTcpHello(caller.hello, hello, unlike);
      if (wrong == nullptr && hello.messages != shared_.tuning.messages) {
        unlike = true;
        wrong = "a greeting with another number of messages";
      }
      if (wrong == nullptr)
        return std::make_unique<TcpIncoming>(std::move(socket), hello, shared_, fabric_);
      if (unlike) Answer(socket.get(), TcpAnswer::kUnlike);
      spdlog::warn("{}: dropped: {}", Describe(socket.get()), wrong);
    }
    return nullptr;
  }

  UniqueFd socket_;
  std::vector<Silent> silent_;
  Shared& shared_;
  Fabric& fabric_;
};

class TcpFabric final : public Fabric {
 public:
  explicit TcpFabric(const ConnectionTuning& tuning) { shared_.tuning = tuning; }

  const char* name() const override { return "tcp"; }
  const std::string& device() const override { return device_; }
  uint64_t max_region_bytes() const override { return kMaxRegionBytes; }

  absl::StatusOr<std::unique_ptr<MemoryRegion>> Register(std::span<std::byte> memory,
                                                         Access access) override {
    if (memory.empty() || memory.size() > kMaxRegionBytes) {
      return absl::OutOfRangeError(
          absl::StrCat("a region of ", memory.size(), " bytes: at most ", kMaxRegionBytes));
    }
    ASSIGN_OR_RETURN(TcpRegions::Entry entry, shared_.regions.Add(memory, access));
    return std::make_unique<TcpRegion>(shared_.regions, std::move(entry));
  }

  absl::StatusOr<std::unique_ptr<Listener>> Listen(const std::string& address,
                                                   uint16_t port) override {
    ASSIGN_OR_RETURN(UniqueFd socket, ListenTcp(address, port));
    return std::make_unique<TcpListener>(std::move(socket), shared_, *this);
  }

  absl::StatusOr<std::unique_ptr<Connection>> Connect(const std::string& address, uint16_t port,
                                                      absl::string_view private_data,
                                                      Deadline deadline) override {
    RETURN_IF_ERROR(QueuePairConnection::CheckPrivateData(private_data));
    const std::string what = absl::StrCat("connect to ", address, ":", port, " over tcp");
    ASSIGN_OR_RETURN(Made made, MakeConnection(shared_, *this));
    ASSIGN_OR_RETURN(UniqueFd socket, ConnectTcp(address, port, deadline, what));
    TcpHello hello;
    hello.messages = static_cast<uint16_t>(shared_.tuning.messages);
    hello.private_bytes = static_cast<uint16_t>(private_data.size());
    private_data.copy(hello.private_data.data(), private_data.size());
    std::array<std::byte, kTcpHelloBytes> greeting;
    EncodeTcpHello(hello, greeting);
    RETURN_IF_ERROR(WriteWhole(socket.get(), greeting, deadline, what));
    std::array<std::byte, kTcpWelcomeBytes> welcome;
    RETURN_IF_ERROR(ReadWhole(socket.get(), welcome, deadline, what));
    TcpAnswer answer = TcpAnswer::kRefused;
    if (const char* wrong = DecodeTcpWelcome(welcome, answer))
      return absl::DataLossError(absl::StrCat(what, ": ", wrong));
    if (answer == TcpAnswer::kUnlike) {
      return absl::FailedPreconditionError(
          absl::StrCat(what,
                       ": the peer speaks another version of this transport: bring both "
                       "hosts to the same version of Starling"));
    }
    if (answer == TcpAnswer::kRefused)
      return absl::PermissionDeniedError(absl::StrCat(what, ": the peer refused"));
    RETURN_IF_ERROR(Begin(*made.queue_pair, std::move(socket)));
    return std::unique_ptr<Connection>(std::move(made.connection));
  }

 private:
  const std::string device_ = "tcp";
  Shared shared_;
};

}  // namespace

std::unique_ptr<Fabric> OpenTcp(const ConnectionTuning& tuning) {
  return std::make_unique<TcpFabric>(tuning);
}

}  // namespace starling::transport
