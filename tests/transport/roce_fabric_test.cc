#include "transport/roce_fabric.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <future>
#include <mutex>
#include <thread>

#include "base/units.h"
#include "tests/transport/fake_world.h"
#include "transport/address_exchange.h"
#include "transport/roce/packet_port.h"

// The provider over ports that are joined inside the process: threads, rings, introductions over
// TCP and everything above them are the real ones.

namespace starling::transport {
namespace {

using ::testing::HasSubstr;

class Cable {
 public:
  explicit Cable(double loss) : loss_(loss) {}
  void Put(size_t to, std::vector<std::byte> frame) {
    std::lock_guard lock(mutex_);
    if (cut_ || std::uniform_real_distribution<double>(0, 1)(random_) < loss_) return;
    if (frames_[to].size() < 512) frames_[to].push_back(std::move(frame));
  }
  bool Take(size_t at, std::vector<std::byte>& frame) {
    std::lock_guard lock(mutex_);
    if (frames_[at].empty()) return false;
    frame = std::move(frames_[at].front());
    frames_[at].pop_front();
    return true;
  }
  void Cut(bool cut) {
    std::lock_guard lock(mutex_);
    cut_ = cut;
  }

 private:
  const double loss_;
  std::mutex mutex_;
  std::mt19937_64 random_{7};
  bool cut_ = false;
  std::deque<std::vector<std::byte>> frames_[2];
};

class CablePort final : public roce::PacketPort {
 public:
  CablePort(std::shared_ptr<Cable> cable, size_t side)
      : cable_(std::move(cable)), side_(side), mac_{2, 0, 0, 0, 0, static_cast<uint8_t>(side)} {}
  bool HasRoom() override { return true; }
  void Send(const roce::OutgoingFrame& frame) override {
    std::vector<std::byte> bytes(frame.headers.begin(), frame.headers.end());
    for (const auto& part : frame.payload) bytes.insert(bytes.end(), part.begin(), part.end());
    bytes.insert(bytes.end(), frame.trailer.begin(), frame.trailer.end());
    cable_->Put(1 - side_, std::move(bytes));
  }
  size_t Receive(absl::FunctionRef<void(std::span<const std::byte>)> handler) override {
    std::vector<std::byte> frame;
    size_t n = 0;
    for (; n < 32 && cable_->Take(side_, frame); ++n) handler(frame);
    return n;
  }
  void Flush() override {}
  const roce::MacAddress& mac() const override { return mac_; }
  size_t mtu() const override { return 9000; }
  const std::string& name() const override { return name_; }

 private:
  std::shared_ptr<Cable> cable_;
  const size_t side_;
  const roce::MacAddress mac_;
  const std::string name_ = "cable";
};

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

TEST(RoceFabric, RefusalIsSaid) {
  RoceWorld world;
  auto listening = world.fabrics[1]->Listen("127.0.0.1", world.port);
  ASSERT_TRUE(listening.ok());
  std::thread refuser([&] { EXPECT_TRUE((*listening)->Next(Soon()).ok()); });
  const auto connected = world.fabrics[0]->Connect("127.0.0.1", world.port, "token", Soon());
  EXPECT_TRUE(absl::IsPermissionDenied(connected.status())) << connected.status();
  refuser.join();
}

TEST(RoceFabric, NobodyListens) {
  RoceWorld world;
  const auto connected = world.fabrics[0]->Connect("127.0.0.1", world.port, "token", Soon());
  EXPECT_TRUE(absl::IsUnavailable(connected.status())) << connected.status();
  EXPECT_THAT(std::string(connected.status().message()), HasSubstr("nobody listens there"));
}

TEST(RoceFabric, PeerThatEndsIsNoticed) {
  RoceWorld world;
  ASSERT_NO_FATAL_FAILURE(world.Connect());
  const auto sent = world.a->Send("last words", Soon());
  ASSERT_TRUE(sent.ok() && world.a->WaitCompleted(*sent, Soon()).ok());
  world.a.reset();
  EXPECT_EQ(*world.b->Receive(Soon()), "last words");
  const absl::Status end = world.b->Receive(Soon()).status();
  EXPECT_TRUE(absl::IsUnavailable(end)) << end;
}

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
