#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/transport/cable.h"
#include "tests/transport/fake_world.h"
#include "transport/roce_fabric.h"
#include "transport/tcp_fabric.h"
#include "transport/verbs_fabric.h"

// What every provider promises, in one suite: the fake network, whole and lossy; TCP over loopback;
// RoCEv2 in user space over a cable inside the process; and, when STARLING_CONTRACT_VERBS names an
// address of an RDMA device, that device with itself, when STARLING_CONTRACT_ROCE names two ports
// that are joined ("af_packet:a af_packet:b"), RoCEv2 between them.

namespace starling::transport {
namespace {

using ::testing::HasSubstr;

using Fabrics = std::array<std::unique_ptr<Fabric>, 2>;

struct Provider {
  std::string name;
  std::string address;
  std::function<Fabrics(const ConnectionTuning&)> open;
  std::shared_ptr<FakeNetwork> network;  // of a fake one
  bool tunable = true;                   // takes the tuning of a test
};

Provider Fake(const std::string& name, const FakeFaults& faults) {
  const auto network = std::make_shared<FakeNetwork>(faults);
  return {name, "host",
          [network](const ConnectionTuning& tuning) {
            return Fabrics{network->Open("host", tuning), network->Open("host", tuning)};
          },
          network};
}

std::unique_ptr<Fabric> Opened(absl::StatusOr<std::unique_ptr<Fabric>> fabric) {
  EXPECT_TRUE(fabric.ok()) << fabric.status();
  return fabric.ok() ? *std::move(fabric) : nullptr;
}

std::vector<Provider> Providers() {
  std::vector<Provider> providers = {
      Fake("fake", {}),
      Fake("fake_lossy", {.seed = 7,
                          .delay_max = std::chrono::microseconds(300),
                          .loss = 0.1,
                          .retry_after = std::chrono::microseconds(200),
                          .retries = -1}),
      {"tcp", "127.0.0.1",
       [](const ConnectionTuning& tuning) {
         return Fabrics{OpenTcp(tuning), OpenTcp(tuning)};
       }},
      {"roce", "127.0.0.1",
       [](const ConnectionTuning& tuning) {
         const auto cable = std::make_shared<Cable>(0);
         return Fabrics{Opened(MakeRoceFabric(std::make_unique<CablePort>(cable, 0),
                                              {.ip = "10.0.0.1"}, tuning)),
                        Opened(MakeRoceFabric(std::make_unique<CablePort>(cable, 1),
                                              {.ip = "10.0.0.2"}, tuning))};
       }},
  };
  if (const char* address = std::getenv("STARLING_CONTRACT_VERBS"); address != nullptr) {
    providers.push_back({"verbs", address,
                         [](const ConnectionTuning&) {
                           return Fabrics{Opened(OpenVerbs()), Opened(OpenVerbs())};
                         },
                         /*network=*/nullptr, /*tunable=*/false});
  }
  if (const char* named = std::getenv("STARLING_CONTRACT_ROCE"); named != nullptr) {
    const std::vector<std::string> ports = absl::StrSplit(named, ' ');
    providers.push_back({"roce_dpdk", "127.0.0.1",
                         [ports](const ConnectionTuning&) {
                           return Fabrics{Opened(OpenRoce({.port = ports[0], .ip = "10.0.0.1"})),
                                          Opened(OpenRoce({.port = ports[1], .ip = "10.0.0.2"}))};
                         },
                         /*network=*/nullptr, /*tunable=*/false});
  }
  return providers;
}

class FabricContract : public ::testing::TestWithParam<Provider> {
 protected:
  ~FabricContract() override {
    a.reset();
    b.reset();
    listener.reset();
    // Everything is gone, no message ever met an empty receive queue, and the network agrees.
    if (const FakeNetwork* const network = GetParam().network.get()) {
      EXPECT_EQ(network->counts().queue_pairs, 0u);
      EXPECT_EQ(network->counts().regions, 0u);
      EXPECT_EQ(network->counts().receiver_not_ready, 0u);
    }
  }

  // A free port: the tests of one machine may run beside one another.
  uint16_t Listen() {
    static std::atomic<uint16_t> next{static_cast<uint16_t>(20000 + ::getpid() % 20000)};
    for (int i = 0; i < 100; ++i) {
      const uint16_t port = next++;
      auto listening = fabric_b->Listen(GetParam().address, port);
      if (!listening.ok()) continue;
      listener = std::move(*listening);
      return port;
    }
    ADD_FAILURE() << "no free port";
    return 0;
  }

  void Open(const ConnectionTuning& tuning = {}) {
    Fabrics fabrics = GetParam().open(tuning);
    fabric_a = std::move(fabrics[0]);
    fabric_b = std::move(fabrics[1]);
    ASSERT_NE(fabric_a, nullptr);
    ASSERT_NE(fabric_b, nullptr);
  }

  void Connect(const ConnectionTuning& tuning = {}) {
    Open(tuning);
    listening_on = Listen();
    Join();
  }

  // Another connection, to the same listener.
  void Join() {
    std::thread acceptor([this] {
      auto incoming = listener->Next(Soon());
      ASSERT_TRUE(incoming.ok()) << incoming.status();
      auto accepted = (*incoming)->Accept(Soon());
      ASSERT_TRUE(accepted.ok()) << accepted.status();
      b = std::move(*accepted);
    });
    auto connected = fabric_a->Connect(GetParam().address, listening_on, "token", Soon());
    acceptor.join();
    ASSERT_TRUE(connected.ok()) << connected.status();
    a = std::move(*connected);
    ASSERT_NE(b, nullptr);
  }

  std::unique_ptr<Fabric> fabric_a;
  std::unique_ptr<Fabric> fabric_b;
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Connection> a;
  std::unique_ptr<Connection> b;
  uint16_t listening_on = 0;
};

INSTANTIATE_TEST_SUITE_P(All, FabricContract, ::testing::ValuesIn(Providers()),
                         [](const auto& info) { return info.param.name; });

// --- connecting ---

TEST_P(FabricContract, PrivateDataIsSeenBeforeAccepting) {
  Open();
  const uint16_t port = Listen();
  std::thread acceptor([&] {
    auto incoming = listener->Next(Soon());
    ASSERT_TRUE(incoming.ok()) << incoming.status();
    EXPECT_EQ((*incoming)->private_data().substr(0, 11), "wrong token");
  });
  const auto refused = fabric_a->Connect(GetParam().address, port, "wrong token", Soon());
  acceptor.join();
  EXPECT_TRUE(absl::IsPermissionDenied(refused.status())) << refused.status();
}

TEST_P(FabricContract, NobodyListens) {
  Open();
  const uint16_t port = Listen();
  listener.reset();
  const auto connected = fabric_a->Connect(GetParam().address, port, "", Soon());
  EXPECT_TRUE(absl::IsUnavailable(connected.status())) << connected.status();
  EXPECT_THAT(std::string(connected.status().message()), HasSubstr("nobody listens there"));
}

TEST_P(FabricContract, NobodyComes) {
  Open();
  Listen();
  EXPECT_TRUE(absl::IsDeadlineExceeded(listener->Next(InMilliseconds(10)).status()));
}

TEST_P(FabricContract, NobodyAnswers) {
  Open();
  const uint16_t port = Listen();
  const auto connected = fabric_a->Connect(GetParam().address, port, "", InMilliseconds(50));
  EXPECT_TRUE(absl::IsDeadlineExceeded(connected.status())) << connected.status();
}

TEST_P(FabricContract, TooMuchPrivateDataIsRefused) {
  Open();
  const auto connected =
      fabric_a->Connect(GetParam().address, 1, std::string(kMaxPrivateData + 1, 'x'), Soon());
  EXPECT_TRUE(absl::IsInvalidArgument(connected.status())) << connected.status();
}

// --- messages ---

TEST_P(FabricContract, MessagesArriveInOrderAndWhole) {
  Connect();
  const std::string longest(kMaxMessageBytes - 8, 'x');
  ASSERT_TRUE(a->Send("", Soon()).ok());
  ASSERT_TRUE(a->Send("first", Soon()).ok());
  const auto third = a->Send(longest, Soon());
  ASSERT_TRUE(third.ok());
  EXPECT_EQ(*third, 3u);
  EXPECT_EQ(*b->Receive(Soon()), "");
  EXPECT_EQ(*b->Receive(Soon()), "first");
  EXPECT_EQ(*b->Receive(Soon()), longest);
  EXPECT_TRUE(a->WaitCompleted(*third, Soon()).ok());
  EXPECT_EQ(a->completed(), 3u);
  EXPECT_TRUE(absl::IsInvalidArgument(a->Send(longest + "x", Soon()).status()));
  EXPECT_TRUE(a->Send("still usable", Soon()).ok());
  EXPECT_EQ(*b->Receive(Soon()), "still usable");
}

// Both sides send as fast as they may and take what comes at their own pace.
TEST_P(FabricContract, CreditsAreNeverOverrun) {
  for (const uint32_t messages : {2u, 3u, 8u, 64u}) {
    if (!GetParam().tunable && messages != 64) continue;
    Connect({.send_depth = messages == 64 ? 512u : 32u, .messages = messages});
    constexpr int kMessages = 400;
    const auto side = [&](Connection& connection, unsigned seed) {
      std::mt19937 random(seed);
      int sent = 0;
      int received = 0;
      while (sent < kMessages || received < kMessages) {
        // Alternates by chance, with a wait so short that either may be refused.
        if (sent < kMessages && random() % 2 == 0) {
          const auto number = connection.Send(std::to_string(sent), InMilliseconds(0));
          if (number.ok())
            ++sent;
          else
            ASSERT_TRUE(absl::IsDeadlineExceeded(number.status())) << number.status();
        } else if (received < kMessages) {
          const auto message = connection.Receive(sent < kMessages ? InMilliseconds(0) : Soon());
          if (message.ok())
            EXPECT_EQ(*message, std::to_string(received++));
          else
            ASSERT_TRUE(absl::IsDeadlineExceeded(message.status())) << message.status();
        }
      }
    };
    std::thread other([&] { side(*b, 2); });
    side(*a, 1);
    other.join();
    a.reset();
    b.reset();
  }
}

TEST_P(FabricContract, WaitsHaveADeadline) {
  Connect();
  EXPECT_TRUE(absl::IsDeadlineExceeded(a->Receive(InMilliseconds(20)).status()));
  const auto sent = a->Send("still usable", Soon());
  ASSERT_TRUE(sent.ok());
  EXPECT_TRUE(b->Receive(Soon()).ok());
  EXPECT_TRUE(a->WaitCompleted(*sent, Soon()).ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(a->WaitCompleted(*sent + 1, InMilliseconds(20))));
}

TEST_P(FabricContract, ShutdownWakesWaiters) {
  Connect();
  std::thread waiter([&] {
    const absl::Status status = a->Receive(Soon()).status();
    EXPECT_TRUE(absl::IsCancelled(status)) << status;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  a->Shutdown();
  waiter.join();
  EXPECT_TRUE(absl::IsCancelled(a->Receive(Soon()).status()));
  EXPECT_FALSE(a->Send("x", Soon()).ok());
}

// A peer that sends all it has credit for and ends: all of it is still received, also where
// receiving would have to return credit, and only then the end. (Returning credit to a peer that
// had gone once lost a message.)
TEST_P(FabricContract, WhatArrivedBeforeTheEndIsReceived) {
  Connect({.send_depth = 64, .messages = 8});
  uint64_t last = 0;
  for (int i = 0; i < 8; ++i) last = *a->Send(std::to_string(i), Soon());
  ASSERT_TRUE(a->WaitCompleted(last, Soon()).ok());
  a.reset();
  for (int i = 0; i < 8; ++i) {
    const auto received = b->Receive(Soon());
    ASSERT_TRUE(received.ok()) << i << ": " << received.status();
    EXPECT_EQ(*received, std::to_string(i));
  }
  const absl::Status end = b->Receive(Soon()).status();
  EXPECT_TRUE(absl::IsUnavailable(end)) << end;
}

// --- memory ---

// What was written before a message lies there when it arrives.
TEST_P(FabricContract, MessageArrivesAfterTheWritesBeforeIt) {
  Connect();
  constexpr size_t kBatch = 16 * 512;
  constexpr size_t kBatches = 60;
  Registered source(*fabric_a, RandomBytes(kBatch * kBatches, 1), Access::kLocal);
  Registered target(*fabric_b, std::vector<std::byte>(kBatch * kBatches), Access::kRemoteWrite);
  std::thread sender([&] {
    std::mt19937 random(3);
    uint64_t last = 0;
    for (size_t batch = 0; batch < kBatches; ++batch) {
      // In an order in which few writes continue the one before.
      std::vector<size_t> parts(16);
      for (size_t i = 0; i < parts.size(); ++i) parts[i] = i;
      std::shuffle(parts.begin(), parts.end(), random);
      for (const size_t part : parts) {
        const size_t offset = batch * kBatch + part * 512;
        ASSERT_TRUE(
            a->Write(*source.region, offset, 512, target.at(offset), target.key(), Soon()).ok());
      }
      const auto sent = a->Send(std::to_string(batch), Soon());
      ASSERT_TRUE(sent.ok()) << sent.status();
      last = *sent;
    }
    EXPECT_TRUE(a->WaitCompleted(last, Soon()).ok());
  });
  for (size_t batch = 0; batch < kBatches; ++batch) {
    const auto received = b->Receive(Soon());
    ASSERT_TRUE(received.ok()) << received.status();
    EXPECT_EQ(*received, std::to_string(batch));
    EXPECT_EQ(std::memcmp(&source.bytes[batch * kBatch], &target.bytes[batch * kBatch], kBatch), 0)
        << batch;
  }
  sender.join();
  EXPECT_GE(a->bytes_sent(), kBatch * kBatches);
  if (GetParam().name == "fake_lossy") {
    EXPECT_GT(GetParam().network->counts().lost, 0u);
  }
  a.reset();
}

TEST_P(FabricContract, MuchAtOnceArrives) {
  Connect();
  constexpr size_t kBytes = 24 * 1048576 + 12345;
  Registered source(*fabric_a, RandomBytes(kBytes, 1), Access::kLocal);
  Registered target(*fabric_b, std::vector<std::byte>(kBytes), Access::kRemoteWrite);
  ASSERT_TRUE(a->Write(*source.region, 0, kBytes, target.at(0), target.key(), Soon()).ok());
  const auto sent = a->Send("done", Soon());
  ASSERT_TRUE(sent.ok()) << sent.status();
  ASSERT_TRUE(b->Receive(Soon()).ok());
  EXPECT_EQ(source.bytes, target.bytes);
  EXPECT_EQ(a->bytes_sent(), kBytes + 12);
  a.reset();
}

// Writes and reads of both sides cross, and nobody waits for the other's caller.
TEST_P(FabricContract, BothDirectionsAtOnce) {
  Connect();
  constexpr size_t kBytes = 8 << 20;
  Registered from_a(*fabric_a, RandomBytes(kBytes, 1), Access::kLocal);
  Registered from_b(*fabric_b, RandomBytes(kBytes, 2), Access::kLocal);
  Registered at_a(*fabric_a, std::vector<std::byte>(kBytes), Access::kRemoteWrite);
  Registered at_b(*fabric_b, std::vector<std::byte>(kBytes), Access::kRemoteWrite);
  const auto side = [](Connection& connection, Registered& from, Registered& to) {
    for (size_t offset = 0; offset < kBytes; offset += 1 << 20) {
      ASSERT_TRUE(
          connection.Write(*from.region, offset, 1 << 20, to.at(offset), to.key(), Soon()).ok());
    }
    const auto sent = connection.Send("done", Soon());
    ASSERT_TRUE(sent.ok()) << sent.status();
    const auto received = connection.Receive(Soon());
    ASSERT_TRUE(received.ok()) << received.status();
    EXPECT_TRUE(connection.WaitCompleted(*sent, Soon()).ok());
  };
  std::thread other([&] { side(*b, from_b, at_a); });
  side(*a, from_a, at_b);
  other.join();
  EXPECT_EQ(from_a.bytes, at_b.bytes);
  EXPECT_EQ(from_b.bytes, at_a.bytes);
  a.reset();
  b.reset();
}

TEST_P(FabricContract, BytesOutsideTheRegionAreRefused) {
  Connect();
  Registered source(*fabric_a, RandomBytes(4096, 1), Access::kLocal);
  Registered target(*fabric_b, std::vector<std::byte>(4096), Access::kRemoteWrite);
  struct Case {
    size_t offset, bytes;
  };
  for (const Case& c : {Case{0, 4097}, Case{4096, 1}, Case{4000, 97}, Case{SIZE_MAX, 2},
                        Case{1, SIZE_MAX}, Case{0, 0}, Case{5000, 0}}) {
    EXPECT_TRUE(absl::IsOutOfRange(
        a->Write(*source.region, c.offset, c.bytes, target.at(0), target.key(), Soon())))
        << c.offset << " " << c.bytes;
    EXPECT_TRUE(absl::IsOutOfRange(
        a->Read(*source.region, c.offset, c.bytes, target.at(0), target.key(), Soon())))
        << c.offset << " " << c.bytes;
  }
  EXPECT_TRUE(a->Write(*source.region, 4095, 1, target.at(0), target.key(), Soon()).ok());
  EXPECT_TRUE(a->Send("still usable", Soon()).ok());
  EXPECT_TRUE(b->Receive(Soon()).ok());
  EXPECT_EQ(target.bytes[0], source.bytes[4095]);
  a.reset();
}

TEST_P(FabricContract, WritingOutsideTheGrantEndsTheConnection) {
  for (const size_t offset : {size_t{4096}, size_t{4000}, SIZE_MAX - 100}) {
    Connect();
    Registered source(*fabric_a, RandomBytes(4096, 1), Access::kLocal);
    Registered target(*fabric_b, std::vector<std::byte>(4096), Access::kRemoteWrite);
    ASSERT_TRUE(a->Write(*source.region, 0, 200, target.at(offset), target.key(), Soon()).ok());
    const auto sent = a->Send("never", Soon());
    ASSERT_TRUE(sent.ok());
    const absl::Status status = a->WaitCompleted(*sent, Soon());
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    const auto heard = b->Receive(Soon());
    EXPECT_FALSE(heard.ok());
    EXPECT_TRUE(b->refused_peer()) << heard.status();
    EXPECT_FALSE(a->refused_peer());
    EXPECT_EQ(target.bytes, std::vector<std::byte>(4096));
    a.reset();
    b.reset();
  }
}

TEST_P(FabricContract, GrantTakenBackEndsTheConnection) {
  Connect();
  Registered source(*fabric_a, RandomBytes(4096, 1), Access::kLocal);
  Registered target(*fabric_b, std::vector<std::byte>(4096), Access::kRemoteWrite);
  const uint64_t address = target.at(0);
  const uint32_t key = target.key();
  target.region.reset();
  ASSERT_TRUE(a->Write(*source.region, 0, 4096, address, key, Soon()).ok());
  const auto sent = a->Send("never", Soon());
  EXPECT_TRUE(absl::IsUnavailable(a->WaitCompleted(*sent, Soon())));
  EXPECT_EQ(target.bytes, std::vector<std::byte>(4096));
  a.reset();
}

TEST_P(FabricContract, AWindowIsForItsOwnPeerAlone) {
  Connect();
  Registered source(*fabric_a, RandomBytes(4096, 1), Access::kLocal);
  if (!fabric_b->windows()) {
    Registered target(*fabric_b, std::vector<std::byte>(4096), Access::kRemoteWrite);
    EXPECT_TRUE(
        absl::IsUnimplemented(b->Grant(*target.region, Access::kRemoteWrite, Soon()).status()));
    return;
  }
  Registered target(*fabric_b, std::vector<std::byte>(4096), Access::kWindow);
  const auto key = b->Grant(*target.region, Access::kRemoteWrite, Soon());
  ASSERT_TRUE(key.ok()) << key.status();
  const auto write = [&](Connection& from, uint32_t with) -> absl::Status {
    absl::Status written = from.Write(*source.region, 0, 4096, target.at(0), with, Soon());
    if (!written.ok()) return written;
    const auto sent = from.Send("there", Soon());
    return sent.ok() ? from.WaitCompleted(*sent, Soon()) : sent.status();
  };
  ASSERT_TRUE(write(*a, *key).ok());
  EXPECT_EQ(target.bytes, source.bytes);
  std::fill(target.bytes.begin(), target.bytes.end(), std::byte{0});

  // Another connection of the same peer has nothing of it, and the region's own key is of no use.
  std::unique_ptr<Connection> mine = std::move(a);
  std::unique_ptr<Connection> granted = std::move(b);
  for (const uint32_t with : {*key, target.key()}) {
    Join();
    const absl::Status refused = write(*a, with);
    EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
    a.reset();
    b.reset();
  }
  EXPECT_EQ(target.bytes, std::vector<std::byte>(4096));
  // That of the others has done it no harm.
  ASSERT_TRUE(write(*mine, *key).ok());
  EXPECT_EQ(target.bytes, source.bytes);
  mine.reset();
  granted.reset();
}

TEST_P(FabricContract, AWindowEndsWithItsConnectionAndTheRegionStays) {
  Connect();
  if (!fabric_b->windows()) return;
  Registered source(*fabric_a, RandomBytes(4096, 1), Access::kLocal);
  Registered target(*fabric_b, std::vector<std::byte>(4096), Access::kWindow);
  std::vector<uint32_t> keys;
  for (int i = 0; i < 3; ++i) {
    if (i > 0) Join();
    const auto key = b->Grant(*target.region, Access::kRemoteWrite, Soon());
    ASSERT_TRUE(key.ok()) << key.status();
    keys.push_back(*key);
    ASSERT_TRUE(a->Write(*source.region, 0, 4096, target.at(0), *key, Soon()).ok());
    const auto sent = a->Send("there", Soon());
    ASSERT_TRUE(sent.ok() && a->WaitCompleted(*sent, Soon()).ok());
    EXPECT_EQ(target.bytes, source.bytes);
    std::fill(target.bytes.begin(), target.bytes.end(), std::byte{0});
    a.reset();
    b.reset();
  }
  for (const uint32_t key : keys) {
    Join();
    ASSERT_TRUE(a->Write(*source.region, 0, 4096, target.at(0), key, Soon()).ok());
    const auto sent = a->Send("never", Soon());
    EXPECT_FALSE(sent.ok() && a->WaitCompleted(*sent, Soon()).ok());
    a.reset();
    b.reset();
  }
  EXPECT_EQ(target.bytes, std::vector<std::byte>(4096));
}

TEST_P(FabricContract, ReadsWhatThePeerGranted) {
  Connect();
  constexpr size_t kBytes = 3 << 20;
  Registered target(*fabric_a, std::vector<std::byte>(kBytes), Access::kLocal);
  Registered source(*fabric_b, RandomBytes(kBytes, 5), Access::kRemoteRead);
  const absl::Status read =
      a->Read(*target.region, 1000, kBytes - 1000, source.at(500), source.key(), Soon());
  ASSERT_TRUE(read.ok()) << read;
  EXPECT_EQ(std::memcmp(&target.bytes[1000], &source.bytes[500], kBytes - 1000), 0);
  EXPECT_EQ(target.bytes[999], std::byte{0});
  // Readable is not writable.
  ASSERT_TRUE(a->Write(*target.region, 0, 10, source.at(0), source.key(), Soon()).ok());
  const auto sent = a->Send("never", Soon());
  EXPECT_FALSE(a->WaitCompleted(*sent, Soon()).ok());
  a.reset();
}

TEST_P(FabricContract, AWindowToReadThroughIsNotOneToWriteThrough) {
  Connect();
  if (!fabric_b->windows()) return;
  constexpr size_t kBytes = 1 << 20;
  Registered mine(*fabric_a, std::vector<std::byte>(kBytes), Access::kLocal);
  Registered source(*fabric_b, RandomBytes(kBytes, 5), Access::kWindow);
  const std::vector<std::byte> before = source.bytes;
  const auto key = b->Grant(*source.region, Access::kRemoteRead, Soon());
  ASSERT_TRUE(key.ok()) << key.status();
  const absl::Status read = a->Read(*mine.region, 0, kBytes - 100, source.at(100), *key, Soon());
  ASSERT_TRUE(read.ok()) << read;
  EXPECT_EQ(std::memcmp(mine.bytes.data(), &source.bytes[100], kBytes - 100), 0);

  // Nobody else reads through it, and the region's own key is of no use.
  std::unique_ptr<Connection> first = std::move(a);
  std::unique_ptr<Connection> granted = std::move(b);
  for (const uint32_t with : {*key, source.key()}) {
    Join();
    const absl::Status refused = a->Read(*mine.region, 0, 4096, source.at(0), with, Soon());
    EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
    a.reset();
    b.reset();
  }
  ASSERT_TRUE(first->Read(*mine.region, 0, 4096, source.at(0), *key, Soon()).ok());

  ASSERT_TRUE(first->Write(*mine.region, 4096, 4096, source.at(0), *key, Soon()).ok());
  const auto sent = first->Send("never", Soon());
  EXPECT_FALSE(sent.ok() && first->WaitCompleted(*sent, Soon()).ok());
  EXPECT_EQ(source.bytes, before);
  first.reset();
  granted.reset();
}

TEST_P(FabricContract, WritableIsNotReadable) {
  Connect();
  Registered mine(*fabric_a, std::vector<std::byte>(4096), Access::kLocal);
  Registered target(*fabric_b, RandomBytes(4096, 5), Access::kRemoteWrite);
  const absl::Status read = a->Read(*mine.region, 0, 4096, target.at(0), target.key(), Soon());
  EXPECT_TRUE(absl::IsUnavailable(read)) << read;
  EXPECT_EQ(mine.bytes, std::vector<std::byte>(4096));
  EXPECT_FALSE(b->Receive(Soon()).ok());
  EXPECT_TRUE(b->refused_peer());
  a.reset();
}

TEST_P(FabricContract, APeerThatGoesIsNotRefused) {
  Connect();
  a.reset();
  EXPECT_FALSE(b->Receive(Soon()).ok());
  EXPECT_FALSE(b->refused_peer());
}

TEST_P(FabricContract, DescriptionNamesBothEnds) {
  Connect();
  EXPECT_THAT(a->description(), HasSubstr(GetParam().address));
  EXPECT_THAT(a->description(), HasSubstr(" -> "));
  EXPECT_NE(a->description(), b->description());
}

}  // namespace
}  // namespace starling::transport
