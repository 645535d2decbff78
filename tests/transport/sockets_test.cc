#include "transport/sockets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <array>

namespace starling::transport {
namespace {

using ::testing::HasSubstr;

Deadline Soon() { return Deadline::After(std::chrono::seconds(30)); }

TEST(Resolve, TakesAddressesAndNames) {
  const auto number = Resolve("10.77.0.1", 7401);
  ASSERT_TRUE(number.ok()) << number.status();
  EXPECT_EQ(AddressText(reinterpret_cast<const sockaddr*>(&*number)), "10.77.0.1:7401");
  const auto name = Resolve("localhost", 1);
  ASSERT_TRUE(name.ok()) << name.status();
  EXPECT_EQ(AddressText(reinterpret_cast<const sockaddr*>(&*name)), "127.0.0.1:1");
}

TEST(Resolve, NamesTheAddressThatItCannotFind) {
  for (const char* wrong : {"10.77.0.256", "fe80::1", "no such host"}) {
    const auto found = Resolve(wrong, 1);
    EXPECT_TRUE(absl::IsNotFound(found.status())) << found.status();
    EXPECT_THAT(std::string(found.status().message()), HasSubstr(wrong));
  }
}

TEST(Sockets, ConnectAndCarryWhatIsWritten) {
  const auto listener = ListenTcp("127.0.0.1", 0);
  ASSERT_TRUE(listener.ok()) << listener.status();
  sockaddr_in address = {};
  socklen_t length = sizeof(address);
  ASSERT_EQ(::getsockname(listener->get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  const uint16_t port = ntohs(address.sin_port);
  EXPECT_TRUE(absl::IsAlreadyExists(ListenTcp("127.0.0.1", port).status()));

  const auto caller = ConnectTcp("127.0.0.1", port, Soon(), "connect");
  ASSERT_TRUE(caller.ok()) << caller.status();
  EXPECT_THAT(SocketText(caller->get()), HasSubstr(" -> 127.0.0.1:" + std::to_string(port)));
  ASSERT_TRUE(Await(listener->get(), POLLIN, Soon(), "accept").ok());
  UniqueFd called(::accept4(listener->get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  ASSERT_TRUE(called);

  const std::array<std::byte, 3> sent = {std::byte{1}, std::byte{2}, std::byte{3}};
  std::array<std::byte, 3> heard = {};
  const Deadline passed = Deadline::After(Duration::zero());
  EXPECT_TRUE(absl::IsDeadlineExceeded(ReadWhole(called.get(), heard, passed, "read")));
  ASSERT_TRUE(WriteWhole(caller->get(), sent, Soon(), "write").ok());
  ASSERT_TRUE(ReadWhole(called.get(), heard, Soon(), "read").ok());
  EXPECT_EQ(heard, sent);
  called.Reset();
  EXPECT_TRUE(absl::IsUnavailable(ReadWhole(caller->get(), heard, Soon(), "read")));
}

TEST(Sockets, NobodyListens) {
  const auto listener = ListenTcp("127.0.0.1", 0);
  ASSERT_TRUE(listener.ok()) << listener.status();
  sockaddr_in address = {};
  socklen_t length = sizeof(address);
  ASSERT_EQ(::getsockname(listener->get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  // Another address of this machine, the same port.
  const auto refused =
      ConnectTcp("127.0.0.2", ntohs(address.sin_port), Soon(), "connect to somebody");
  EXPECT_TRUE(absl::IsUnavailable(refused.status())) << refused.status();
  EXPECT_EQ(refused.status().message(), "connect to somebody: nobody listens there");
}

}  // namespace
}  // namespace starling::transport
