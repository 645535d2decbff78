#include "base/unix_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include "base/file.h"

namespace starling {
namespace {

TEST(UnixSocket, KeepsMessageBordersAndPassesDescriptors) {
  auto pair = MakeUnixPair();
  ASSERT_TRUE(pair.ok());
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  UniqueFd reader(pipe_fds[0]), writer(pipe_fds[1]);
  ASSERT_TRUE(SendUnix(pair->first.get(), "one", {writer.get()}).ok());
  ASSERT_TRUE(SendUnix(pair->first.get(), "two").ok());
  auto one = ReceiveUnix(pair->second.get());
  auto two = ReceiveUnix(pair->second.get());
  ASSERT_TRUE(one.ok() && two.ok());
  EXPECT_EQ(one->bytes, "one");
  EXPECT_EQ(two->bytes, "two");
  ASSERT_EQ(one->fds.size(), 1u);
  EXPECT_TRUE(fcntl(one->fds[0].get(), F_GETFD) & FD_CLOEXEC);
  ASSERT_TRUE(WriteAll(one->fds[0].get(), "x", 1).ok());
  char c = 0;
  ASSERT_TRUE(*ReadExactly(reader.get(), &c, 1));
  EXPECT_EQ(c, 'x');
}

TEST(UnixSocket, SaysThatThePeerClosed) {
  auto pair = MakeUnixPair();
  ASSERT_TRUE(pair.ok());
  pair->first.Reset();
  auto message = ReceiveUnix(pair->second.get());
  ASSERT_TRUE(message.ok());
  EXPECT_TRUE(message->bytes.empty());
}

TEST(UnixSocket, GivesUpAtTheDeadline) {
  auto pair = MakeUnixPair();
  ASSERT_TRUE(pair.ok());
  auto message = ReceiveUnix(pair->second.get(), Deadline::After(std::chrono::milliseconds(5)));
  EXPECT_EQ(message.status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(UnixSocket, RefusesATooLongPathAndATooLongMessage) {
  EXPECT_EQ(ListenUnix(std::string(200, 'x')).status().code(), absl::StatusCode::kInvalidArgument);
  auto pair = MakeUnixPair();
  ASSERT_TRUE(pair.ok());
  EXPECT_FALSE(SendUnix(pair->first.get(), std::string(kMaxUnixMessage + 1, 'x')).ok());
}

}  // namespace
}  // namespace starling
