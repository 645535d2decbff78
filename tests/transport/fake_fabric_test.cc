#include "transport/fake_fabric.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/transport/fake_world.h"

// The faults, as a user of the one interface meets them.

namespace starling::transport {
namespace {

using ::testing::HasSubstr;

TEST(FakeFabric, ConnectingFailsWithItsCause) {
  FakeNetwork network;
  const auto fabric = network.Open("a");
  EXPECT_TRUE(absl::IsUnavailable(fabric->Connect("b", 1, "", Soon()).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      fabric->Connect("b", 1, std::string(kMaxPrivateData + 1, 'x'), Soon()).status()));
  network.Cut();
  const TimePoint start = Clock::now();
  EXPECT_TRUE(absl::IsDeadlineExceeded(fabric->Connect("b", 1, "", InMilliseconds(20)).status()));
  EXPECT_GE(Clock::now() - start, std::chrono::milliseconds(20));
  EXPECT_EQ(network.counts().queue_pairs, 0u);
  EXPECT_EQ(network.counts().regions, 0u);
}

TEST(FakeFabric, ListeningTwiceIsRefused) {
  FakeNetwork network;
  const auto fabric = network.Open("a");
  const auto first = fabric->Listen("a", 1);
  EXPECT_TRUE(absl::IsAlreadyExists(fabric->Listen("a", 1).status()));
}

TEST(FakeFabric, CutLinkIsAnErrorThatNamesTheQueuePair) {
  World world({.retry_after = std::chrono::milliseconds(1), .retries = 3});
  world.network.Cut();
  const auto sent = world.a->Send("lost", Soon());
  ASSERT_TRUE(sent.ok());
  const absl::Status status = world.a->WaitCompleted(*sent, Soon());
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("a -> b:1 (fake, queue pair"));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("retry counter exceeded (completion status 12)"));
  // Every later call answers with the same.
  EXPECT_EQ(world.a->Send("more", Soon()).status(), status);
  EXPECT_EQ(world.a->Receive(Soon()).status(), status);
  EXPECT_EQ(world.a->WaitCompleted(*sent, Soon()), status);
  world.ExpectNothingLeft();
}

TEST(FakeFabric, EndlessRetriesEndAtTheDeadlineAndGoOnAfterHealing) {
  World world({.retry_after = std::chrono::milliseconds(1), .retries = -1});
  world.network.Cut();
  const auto sent = world.a->Send("late", Soon());
  ASSERT_TRUE(sent.ok());
  const TimePoint start = Clock::now();
  EXPECT_TRUE(absl::IsDeadlineExceeded(world.a->WaitCompleted(*sent, InMilliseconds(30))));
  EXPECT_TRUE(absl::IsDeadlineExceeded(world.b->Receive(InMilliseconds(30)).status()));
  EXPECT_GE(Clock::now() - start, std::chrono::milliseconds(60));
  world.network.Heal();
  EXPECT_TRUE(world.a->WaitCompleted(*sent, Soon()).ok());
  const auto received = world.b->Receive(Soon());
  ASSERT_TRUE(received.ok()) << received.status();
  EXPECT_EQ(*received, "late");
  world.ExpectNothingLeft();
}

TEST(FakeFabric, EveryWaitingCallHasADeadlineWhenNothingGetsThrough) {
  World world({.retry_after = std::chrono::milliseconds(1), .retries = -1},
              {.send_depth = 32, .messages = 4});
  Registered source(*world.fabric_a, RandomBytes(4096, 1), Access::kLocal);
  Registered target(*world.fabric_b, std::vector<std::byte>(8192), Access::kRemoteWrite);
  world.network.PowerOff("b");
  // The send queue fills up, by writes that cannot be joined.
  absl::Status status;
  int written = 0;
  for (; status.ok() && written < 1000; ++written) {
    status = world.a->Write(*source.region, 0, 16, target.at(written % 2 * 4096), target.key(),
                            InMilliseconds(10));
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_EQ(written, 33);
  EXPECT_TRUE(absl::IsDeadlineExceeded(world.a->Send("x", InMilliseconds(10)).status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      world.a->Read(*source.region, 0, 16, target.at(0), target.key(), InMilliseconds(10))));
  source.region.reset();
  target.region.reset();
  world.ExpectNothingLeft();
}

TEST(FakeFabric, CreditRunsOutBeforeReceivesDo) {
  World world({}, {.send_depth = 64, .messages = 4});
  int sent = 0;
  absl::Status status;
  while (status.ok() && sent < 100) {
    status = world.a->Send("x", InMilliseconds(20)).status();
    if (status.ok()) ++sent;
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_EQ(sent, 4);
  EXPECT_TRUE(world.b->Receive(Soon()).ok());
  EXPECT_TRUE(world.b->Receive(Soon()).ok());  // half of them taken: credit goes back
  EXPECT_TRUE(world.a->Send("x", Soon()).ok());
  EXPECT_EQ(world.network.counts().receiver_not_ready, 0u);
}

TEST(FakeFabric, PoweredOffPeerSaysNothing) {
  World world({.retry_after = std::chrono::milliseconds(1), .retries = 2});
  world.network.PowerOff("b");
  EXPECT_TRUE(absl::IsDeadlineExceeded(world.a->Receive(InMilliseconds(20)).status()));
  const auto sent = world.a->Send("is anybody there", Soon());
  ASSERT_TRUE(sent.ok());
  EXPECT_TRUE(absl::IsUnavailable(world.a->WaitCompleted(*sent, Soon())));
}

TEST(FakeFabric, SameSeedSameLosses) {
  const auto lost = [](uint64_t seed) {
    World world(
        {.seed = seed, .loss = 0.3, .retry_after = std::chrono::microseconds(10), .retries = -1});
    for (int i = 0; i < 50; ++i) {
      const auto sent = world.a->Send("x", Soon());
      EXPECT_TRUE(sent.ok() && world.a->WaitCompleted(*sent, Soon()).ok());
      EXPECT_TRUE(world.b->Receive(Soon()).ok());
    }
    return world.network.counts().lost;
  };
  const uint64_t first = lost(1);
  EXPECT_GT(first, 0u);
  EXPECT_EQ(first, lost(1));
  EXPECT_NE(first, lost(2));
}

}  // namespace
}  // namespace starling::transport
