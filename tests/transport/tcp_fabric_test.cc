#include "transport/tcp_fabric.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <functional>

#include "base/fd.h"
#include "tests/transport/fake_world.h"
#include "transport/tcp_wire.h"

// What a peer may do that does not keep to the frames, and what is left afterwards. What every
// provider promises is in fabric_contract_test.cc.

namespace starling::transport {
namespace {

using ::testing::HasSubstr;

size_t Descriptors() {
  size_t count = 0;
  DIR* folder = ::opendir("/proc/self/fd");
  while (::readdir(folder) != nullptr) ++count;
  ::closedir(folder);
  return count;
}

// A caller that writes what it likes.
class RawCaller {
 public:
  explicit RawCaller(uint16_t port) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    EXPECT_EQ(::connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }

  void Say(absl::string_view bytes) {
    ASSERT_EQ(::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  void Greet(uint16_t messages = ConnectionTuning().messages) {
    TcpHello hello;
    hello.messages = messages;
    std::array<std::byte, kTcpHelloBytes> bytes;
    EncodeTcpHello(hello, bytes);
    Say({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
  void SayHeader(const TcpHeader& header) {
    std::array<std::byte, kTcpHeaderBytes> bytes;
    EncodeTcpHeader(header, bytes);
    Say({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
  // Everything until the other side ends.
  std::string Hear() {
    std::string heard(1 << 16, '\0');
    size_t bytes = 0;
    while (bytes < heard.size()) {
      const ssize_t n = ::recv(socket_.get(), heard.data() + bytes, heard.size() - bytes, 0);
      if (n <= 0) break;
      bytes += static_cast<size_t>(n);
    }
    heard.resize(bytes);
    return heard;
  }
  void Close() { socket_.Reset(); }

 private:
  UniqueFd socket_;
};

struct Target {
  explicit Target(const ConnectionTuning& tuning = {}) : fabric(OpenTcp(tuning)) {
    for (port = static_cast<uint16_t>(42000 + ::getpid() % 10000);; ++port) {
      auto listening = fabric->Listen("127.0.0.1", port);
      if (!listening.ok()) continue;
      listener = std::move(*listening);
      break;
    }
  }
  std::unique_ptr<Connection> Accept() {
    auto incoming = listener->Next(Soon());
    EXPECT_TRUE(incoming.ok()) << incoming.status();
    if (!incoming.ok()) return nullptr;
    auto accepted = (*incoming)->Accept(Soon());
    EXPECT_TRUE(accepted.ok()) << accepted.status();
    return accepted.ok() ? std::move(*accepted) : nullptr;
  }

  std::unique_ptr<Fabric> fabric;
  uint16_t port = 0;
  std::unique_ptr<Listener> listener;
};

TEST(TcpFabric, SilentCallersDoNotKeepOthersOut) {
  Target target;
  std::vector<std::unique_ptr<RawCaller>> silent;
  for (int i = 0; i < 20; ++i) silent.push_back(std::make_unique<RawCaller>(target.port));
  silent[0]->Say("STARL");
  silent[1]->Close();
  std::unique_ptr<Connection> b;
  std::thread acceptor([&] { b = target.Accept(); });
  const auto a = target.fabric->Connect("127.0.0.1", target.port, "token", Soon());
  acceptor.join();
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_TRUE((*a)->Send("x", Soon()).ok());
  EXPECT_EQ(*b->Receive(Soon()), "x");
}

TEST(TcpFabric, OtherGreetingsAreDropped) {
  Target target;
  RawCaller other(target.port);
  other.Say("GET / HTTP/1.1\r\nHost: somewhere.else.example\r\nAccept: anything at all\r\n\r\n");
  EXPECT_TRUE(absl::IsDeadlineExceeded(target.listener->Next(InMilliseconds(200)).status()));
  EXPECT_EQ(other.Hear(), "");
}

TEST(TcpFabric, AnotherNumberOfMessagesIsRefusedWithItsReason) {
  Target target;
  const auto other = OpenTcp({.send_depth = 64, .messages = 8});
  std::thread acceptor([&] {
    EXPECT_TRUE(absl::IsDeadlineExceeded(target.listener->Next(InMilliseconds(500)).status()));
  });
  const auto connected = other->Connect("127.0.0.1", target.port, "", Soon());
  acceptor.join();
  EXPECT_TRUE(absl::IsFailedPrecondition(connected.status())) << connected.status();
  EXPECT_THAT(std::string(connected.status().message()), HasSubstr("same version"));
}

// Each is refused, ends the connection, and leaves the memory as it was.
TEST(TcpFabric, FramesThatCannotBeEndTheConnection) {
  Target target;
  std::vector<std::byte> memory(8192);
  const auto region = target.fabric->Register(memory, Access::kRemoteWrite);
  ASSERT_TRUE(region.ok());
  const uint64_t address = (*region)->remote_address();
  const uint32_t key = (*region)->remote_key();
  const TcpHeader good = {
      .kind = TcpKind::kWrite, .bytes = 16, .key = key, .number = 1, .address = address};
  const auto with = [&](const std::function<void(TcpHeader&)>& change) {
    TcpHeader header = good;
    change(header);
    return header;
  };
  const std::vector<TcpHeader> wrong = {
      with([](TcpHeader& h) { h.number = 2; }),                // out of its turn
      with([](TcpHeader& h) { h.number = 0; }),                // without a number
      with([](TcpHeader& h) { h.bytes = 0; }),                 // of nothing
      with([](TcpHeader& h) { h.bytes = 8193; }),              // beyond the region
      with([](TcpHeader& h) { h.bytes = UINT32_MAX; }),        // of more than a frame has
      with([](TcpHeader& h) { h.key ^= 1; }),                  // under another key
      with([](TcpHeader& h) { h.address -= 1; }),              // before the region
      with([](TcpHeader& h) { h.address = UINT64_MAX - 4; }),  // beyond all memory
      with([](TcpHeader& h) { h.kind = TcpKind::kRead; }),     // not granted for this
      with([](TcpHeader& h) { h.kind = TcpKind::kData; }),     // not asked for
      with([](TcpHeader& h) { h = {.kind = TcpKind::kDone, .number = 1}; }),
      with([](TcpHeader& h) { h = {.kind = TcpKind::kMessage, .bytes = 8193, .number = 1}; }),
      with([](TcpHeader& h) { h.kind = static_cast<TcpKind>(7); }),
      with([](TcpHeader& h) { h.kind = static_cast<TcpKind>(0); }),
  };
  for (size_t i = 0; i < wrong.size(); ++i) {
    RawCaller caller(target.port);
    caller.Greet();
    const auto connection = target.Accept();
    ASSERT_NE(connection, nullptr);
    caller.SayHeader(wrong[i]);
    caller.Say(std::string(16, 'x'));
    const absl::Status status = connection->Receive(Soon()).status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << i << ": " << status;
    const std::string heard = caller.Hear();
    ASSERT_EQ(heard.size(), kTcpWelcomeBytes + kTcpHeaderBytes) << i;
    TcpHeader answer;
    EXPECT_EQ(
        DecodeTcpHeader(std::span<const std::byte, kTcpHeaderBytes>(
                            reinterpret_cast<const std::byte*>(heard.data()) + kTcpWelcomeBytes,
                            kTcpHeaderBytes),
                        answer),
        nullptr);
    EXPECT_EQ(answer.kind, TcpKind::kRefused) << i;
    EXPECT_EQ(memory, std::vector<std::byte>(8192)) << i;
  }
}

// A peer that stops in the middle of a write does not keep the memory from being given back.
TEST(TcpFabric, MemoryIsGivenBackInTheMiddleOfAWrite) {
  Target target;
  std::vector<std::byte> memory(8192);
  auto region = target.fabric->Register(memory, Access::kRemoteWrite);
  ASSERT_TRUE(region.ok());
  RawCaller caller(target.port);
  caller.Greet();
  const auto connection = target.Accept();
  ASSERT_NE(connection, nullptr);
  caller.SayHeader({.kind = TcpKind::kWrite,
                    .bytes = 8192,
                    .key = (*region)->remote_key(),
                    .number = 1,
                    .address = (*region)->remote_address()});
  caller.Say(std::string(4096, 'x'));
  EXPECT_TRUE(absl::IsDeadlineExceeded(connection->Receive(InMilliseconds(50)).status()));
  region->reset();
  const std::vector<std::byte> then = memory;
  caller.Say(std::string(4096, 'y'));
  EXPECT_TRUE(absl::IsUnavailable(connection->Receive(Soon()).status()));
  EXPECT_EQ(memory, then);
}

TEST(TcpFabric, APeerThatAnswersWhatItWasNotAskedIsRefused) {
  Target target;
  RawCaller caller(target.port);
  caller.Greet();
  const auto connection = target.Accept();
  ASSERT_NE(connection, nullptr);
  ASSERT_TRUE(connection->Send("one", Soon()).ok());
  caller.SayHeader({.kind = TcpKind::kDone, .number = 2});
  EXPECT_TRUE(absl::IsUnavailable(connection->Receive(Soon()).status()));
}

TEST(TcpFabric, NothingIsLeftOfConnections) {
  const size_t before = Descriptors();
  for (int i = 0; i < 20; ++i) {
    Target target;
    std::unique_ptr<Connection> b;
    std::thread acceptor([&] { b = target.Accept(); });
    auto a = target.fabric->Connect("127.0.0.1", target.port, "", Soon());
    acceptor.join();
    ASSERT_TRUE(a.ok()) << a.status();
    Registered source(*target.fabric, RandomBytes(1 << 20, 1), Access::kLocal);
    Registered sink(*target.fabric, std::vector<std::byte>(1 << 20), Access::kRemoteWrite);
    // Ended while writes are under way.
    for (int n = 0; n < 4; ++n) {
      ASSERT_TRUE((*a)->Write(*source.region, 0, 1 << 20, sink.at(0), sink.key(), Soon()).ok());
    }
    if (i % 2 == 0) b.reset();
    a->reset();
  }
  EXPECT_EQ(Descriptors(), before);
}

}  // namespace
}  // namespace starling::transport
