#include "transport/roce_fabric.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <thread>

#include "base/units.h"
#include "tests/transport/cable.h"
#include "tests/transport/fake_world.h"
#include "transport/address_exchange.h"

// The provider over ports that are joined inside the process: threads, rings, introductions over
// TCP and everything above them are the real ones. What every provider promises is in
// fabric_contract_test.cc.

namespace starling::transport {
namespace {

using ::testing::HasSubstr;

struct RoceWorld {
  explicit RoceWorld(double loss = 0, const ConnectionTuning& tuning = {}) {
    cable = std::make_shared<Cable>(loss);
    for (size_t side = 0; side < 2; ++side) {
      RoceOptions options;
      options.ip = side == 0 ? "10.0.0.1" : "10.0.0.2";
      auto made = MakeRoceFabric(std::make_unique<CablePort>(cable, side), options, tuning);
      EXPECT_TRUE(made.ok()) << made.status();
      fabrics[side] = std::move(*made);
    }
    // A port that is free.
    auto free = IntroductionListener::Listen("127.0.0.1", 0);
    EXPECT_TRUE(free.ok()) << free.status();
    port = free->port();
  }

  void Connect() {
    auto listening = fabrics[1]->Listen("127.0.0.1", port);
    ASSERT_TRUE(listening.ok()) << listening.status();
    auto accepted = std::async(std::launch::async, [&]() -> std::unique_ptr<Connection> {
      auto incoming = (*listening)->Next(Soon());
      EXPECT_TRUE(incoming.ok()) << incoming.status();
      EXPECT_EQ((*incoming)->private_data(), "token");
      auto connection = (*incoming)->Accept(Soon());
      EXPECT_TRUE(connection.ok()) << connection.status();
      return connection.ok() ? std::move(*connection) : nullptr;
    });
    auto connected = fabrics[0]->Connect("127.0.0.1", port, "token", Soon());
    ASSERT_TRUE(connected.ok()) << connected.status();
    a = std::move(*connected);
    b = accepted.get();
    ASSERT_NE(b, nullptr);
  }

  std::shared_ptr<Cable> cable;
  std::unique_ptr<Fabric> fabrics[2];
  uint16_t port = 0;
  std::unique_ptr<Connection> a;
  std::unique_ptr<Connection> b;
};

class RoceFabricLoss : public testing::TestWithParam<double> {};

// Content, messages and reads in both directions at once, from two threads.
TEST_P(RoceFabricLoss, CarriesEverythingBothWays) {
  RoceWorld world(GetParam());
  ASSERT_NO_FATAL_FAILURE(world.Connect());
  EXPECT_THAT(world.a->description(), HasSubstr("cable, queue pair "));
  constexpr size_t kBytes = 4 * kMiB;
  constexpr size_t kBatch = 64 * kKiB;
  struct Side {
    Side(Fabric& own, Fabric& peer, Connection& connection, uint64_t seed)
        : connection(connection),
          source(own, RandomBytes(kBytes, seed), Access::kLocal),
          target(peer, std::vector<std::byte>(kBytes), Access::kRemoteWrite),
          remote(peer, RandomBytes(kBytes, seed + 10), Access::kRemoteRead),
          fetched(own, std::vector<std::byte>(kBytes), Access::kLocal) {}
    Connection& connection;
    Registered source, target, remote, fetched;
  };
  Side sides[2] = {{*world.fabrics[0], *world.fabrics[1], *world.a, 1},
                   {*world.fabrics[1], *world.fabrics[0], *world.b, 2}};
  const auto run = [&](size_t i) {
    Side& side = sides[i];
    uint64_t last = 0;
    size_t received = 0;
    for (size_t offset = 0; offset < kBytes; offset += kBatch) {
      ASSERT_TRUE(side.connection
                      .Write(*side.source.region, offset, kBatch, side.target.at(offset),
                             side.target.key(), Soon())
                      .ok());
      const auto sent = side.connection.Send(std::to_string(offset), Soon());
      ASSERT_TRUE(sent.ok()) << sent.status();
      last = *sent;
      if (offset % (16 * kBatch) == 0) {
        ASSERT_TRUE(side.connection
                        .Read(*side.fetched.region, offset, 16 * kBatch, side.remote.at(offset),
                              side.remote.key(), Soon())
                        .ok());
      }
      const auto message = side.connection.Receive(Soon());
      ASSERT_TRUE(message.ok()) << message.status();
      ASSERT_EQ(*message, std::to_string(received));
      ASSERT_EQ(std::memcmp(&sides[1 - i].source.bytes[received],
                            &sides[1 - i].target.bytes[received], kBatch),
                0);
      received += kBatch;
    }
    EXPECT_TRUE(side.connection.WaitCompleted(last, Soon()).ok());
  };
  std::thread other([&] { run(1); });
  run(0);
  other.join();
  for (Side& side : sides) {
    EXPECT_EQ(side.target.bytes, side.source.bytes);
    EXPECT_EQ(side.fetched.bytes, side.remote.bytes);
  }
  world.a.reset();
  world.b.reset();
}

INSTANTIATE_TEST_SUITE_P(Loss, RoceFabricLoss, testing::Values(0.0, 0.01));

TEST(RoceFabric, CutCableEndsAtTheDeadlineAndHeals) {
  RoceWorld world;
  ASSERT_NO_FATAL_FAILURE(world.Connect());
  world.cable->Cut(true);
  const auto sent = world.a->Send("through", Soon());
  ASSERT_TRUE(sent.ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(world.a->WaitCompleted(*sent, InMilliseconds(200))));
  world.cable->Cut(false);
  EXPECT_TRUE(world.a->WaitCompleted(*sent, Soon()).ok());
  EXPECT_EQ(*world.b->Receive(Soon()), "through");
}

TEST(RoceFabric, WritingOutsideTheGrantEndsTheConnection) {
  RoceWorld world;
  ASSERT_NO_FATAL_FAILURE(world.Connect());
  Registered source(*world.fabrics[0], RandomBytes(4096, 1), Access::kLocal);
  Registered target(*world.fabrics[1], std::vector<std::byte>(4096), Access::kRemoteWrite);
  ASSERT_TRUE(world.a->Write(*source.region, 0, 200, target.at(4000), target.key(), Soon()).ok());
  const auto sent = world.a->Send("never", Soon());
  ASSERT_TRUE(sent.ok());
  const absl::Status status = world.a->WaitCompleted(*sent, Soon());
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("remote access error"));
  EXPECT_FALSE(world.b->Receive(Soon()).ok());
  EXPECT_EQ(target.bytes, std::vector<std::byte>(4096));
}

TEST(RoceFabric, OptionsAreChecked) {
  const auto make = [](RoceOptions options) {
    options.ip = options.ip.empty() ? "10.0.0.1" : options.ip;
    return MakeRoceFabric(std::make_unique<CablePort>(std::make_shared<Cable>(0), 0), options)
        .status();
  };
  EXPECT_TRUE(make({.path_mtu = 4096}).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(make({.path_mtu = 4095})));
  EXPECT_TRUE(absl::IsInvalidArgument(make({.path_mtu = 8192})));
  EXPECT_TRUE(absl::IsInvalidArgument(make({.ip = "10.0.0"})));
  EXPECT_TRUE(
      absl::IsInvalidArgument(OpenRoce({.port = "x", .ip = "10.0.0.1", .mac = "1"}).status()));
}

TEST(RoceFabric, OtherPartitionIsSaid) {
  auto cable = std::make_shared<Cable>(0);
  std::unique_ptr<Fabric> fabrics[2];
  for (size_t side = 0; side < 2; ++side) {
    RoceOptions options;
    options.ip = side == 0 ? "10.0.0.1" : "10.0.0.2";
    options.partition = static_cast<uint16_t>(0x8001 + side);
    fabrics[side] = *MakeRoceFabric(std::make_unique<CablePort>(cable, side), options);
  }
  const uint16_t port = IntroductionListener::Listen("127.0.0.1", 0)->port();
  auto listening = fabrics[1]->Listen("127.0.0.1", port);
  ASSERT_TRUE(listening.ok()) << listening.status();
  std::thread acceptor([&] {
    auto incoming = (*listening)->Next(Soon());
    ASSERT_TRUE(incoming.ok());
    EXPECT_TRUE(absl::IsFailedPrecondition((*incoming)->Accept(Soon()).status()));
  });
  EXPECT_FALSE(fabrics[0]->Connect("127.0.0.1", port, "", Soon()).ok());
  acceptor.join();
}

// Somebody who connects and says nothing, or something else, does not keep others out.
TEST(RoceFabric, StrangersAreDropped) {
  RoceWorld world;
  auto listening = world.fabrics[1]->Listen("127.0.0.1", world.port);
  ASSERT_TRUE(listening.ok());
  auto silent = Introduction::Connect("127.0.0.1", world.port, Soon());
  ASSERT_TRUE(silent.ok());
  std::thread acceptor([&] {
    auto incoming = (*listening)->Next(Soon());
    ASSERT_TRUE(incoming.ok()) << incoming.status();
    EXPECT_EQ((*incoming)->private_data(), "me");
    world.b = *(*incoming)->Accept(Soon());
  });
  auto connected = world.fabrics[0]->Connect("127.0.0.1", world.port, "me", Soon());
  acceptor.join();
  EXPECT_TRUE(connected.ok()) << connected.status();
}

}  // namespace
}  // namespace starling::transport
