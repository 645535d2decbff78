// A page stream whose connections are lost on the way, over the fake network and TCP.

#include "runtime/migration/resuming_lane.h"

#include <dirent.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <set>
#include <thread>

#include "runtime/migration/lane_receiver.h"
#include "runtime/migration/lane_sink.h"
#include "runtime/migration/stream_keys.h"
#include "transport/fake_fabric.h"
#include "transport/tcp_fabric.h"

namespace starling::migration {
namespace {

using checkpoint::AddressSpace;
using checkpoint::kPageSize;
using checkpoint::PageRun;

constexpr AddressSpace kSpace = {AddressSpace::Kind::kProcess, 1000};
constexpr char kToken[] = "a token";
constexpr size_t kTokenSize = sizeof(kToken) - 1;

Deadline Soon() { return Deadline::After(std::chrono::seconds(20)); }

size_t OpenDescriptors() {
  size_t count = 0;
  DIR* const folder = ::opendir("/proc/self/fd");
  while (::readdir(folder) != nullptr) ++count;
  ::closedir(folder);
  return count;
}

TEST(Merge, JoinsWhatOverlapsOrTouches) {
  const AddressSpace other = {AddressSpace::Kind::kProcess, 7};
  const auto merged = Merge({{kSpace, 8 * kPageSize, 2},
                             {kSpace, 0, 4},
                             {other, 2 * kPageSize, 1},
                             {kSpace, 2 * kPageSize, 3},
                             {kSpace, kPageSize, 1},
                             {kSpace, 10 * kPageSize, 1}});
  const std::vector<PageRun> want = {
      {other, 2 * kPageSize, 1}, {kSpace, 0, 5}, {kSpace, 8 * kPageSize, 3}};
  EXPECT_EQ(merged, want);
}

TEST(KeysOfAttempt, AllDifferAndTheFirstIsItself) {
  ChannelKeys first;
  first.to_target.fill(1);
  first.to_source.fill(2);
  EXPECT_EQ(KeysOfAttempt(first, 0)->to_target, first.to_target);
  std::set<transport::CipherKey> seen = {first.to_target, first.to_source};
  for (uint32_t attempt = 1; attempt <= 255; ++attempt) {
    const auto keys = KeysOfAttempt(first, attempt);
    ASSERT_TRUE(keys.ok()) << keys.status();
    EXPECT_TRUE(seen.insert(keys->to_target).second);
    EXPECT_TRUE(seen.insert(keys->to_source).second);
  }
}

// One receiver and its accepting thread, as an agent has them, and a sink that reaches it.
struct Kind {
  const char* name;
  bool sealed;
  bool by_connection;  // each connection is granted its own windows, where the fabric has them
};

class ResumeTest : public testing::TestWithParam<Kind> {
 protected:
  void Open(transport::Fabric& here, transport::Fabric& there, const std::string& address,
            int queue_pairs, Duration patience) {
    const bool sealed = GetParam().sealed;
    LaneReceiver::Options receiving;
    receiving.arena_bytes = 8 << 20;
    receiving.max_arena_bytes = 1 << 30;
    LaneOptions options;
    options.queue_pairs = queue_pairs;
    options.slab_bytes = 64 * 1024;
    options.slabs = 4;
    options.patience = patience;
    const uint32_t slots = static_cast<uint32_t>(queue_pairs) * kRingSlotsPerLane;
    if (sealed) {
      receiving.ring = {slots, options.slab_bytes};
      for (int i = 0; i < queue_pairs; ++i) {
        ChannelKeys& keys = receiving.keys.emplace_back();
        keys.to_target.fill(static_cast<uint8_t>(i + 1));
        keys.to_source.fill(static_cast<uint8_t>(i + 101));
      }
    }
    const StreamKeys keys = receiving.keys;
    receiving.grant_by_connection = GetParam().by_connection;
    if (second_there_ != nullptr) receiving.rails = {second_there_.get()};
    if (second_here_ != nullptr) options.rails = {second_here_.get()};
    receiver_ = *LaneReceiver::Create(there, std::move(receiving));
    EXPECT_EQ(receiver_->windows(), GetParam().by_connection && there.windows());
    Accept(there, address, 0);
    if (second_there_ != nullptr) Accept(*second_there_, address, 1);
    v1::ReserveResponse granted;
    for (const v1::ArenaChunk& chunk : receiver_->chunks()) *granted.add_chunks() = chunk;
    granted.set_data_address(address + ":7461");
    granted.set_grant_by_connection(receiver_->grants_by_connection());
    if (second_there_ != nullptr) granted.add_rail_addresses(address + ":7461");
    granted.set_token(kToken);
    if (const auto ring = receiver_->ring()) {
      *granted.mutable_ring() = *ring;
      granted.set_ring_slots(slots);
    }
    auto sink = LaneSink::Connect(
        here, options, granted, [this](uint64_t bytes) { return receiver_->Grow(bytes); }, keys,
        Soon());
    ASSERT_TRUE(sink.ok()) << sink.status();
    sink_ = *std::move(sink);
  }

  void Accept(transport::Fabric& there, const std::string& address, size_t rail) {
    auto listening = there.Listen(address, 7461);
    ASSERT_TRUE(listening.ok()) << listening.status();
    transport::Listener& listener = *listeners_.emplace_back(*std::move(listening));
    acceptors_.emplace_back([this, &listener, rail](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        auto incoming = listener.Next(Deadline::After(std::chrono::milliseconds(20)));
        if (!incoming.ok() || !known_) continue;
        const auto shown = [data = std::string((*incoming)->private_data())](size_t at) {
          return at < data.size() ? static_cast<uint8_t>(data[at]) : 0u;
        };
        const absl::Status accepted =
            receiver_->Accept(shown(kTokenSize), *std::move(incoming), shown(kTokenSize + 1), rail);
        if (accepted.ok()) ++accepted_[rail];
      }
    });
  }

  // The source may know of it first.
  void ExpectAccepted(size_t rail, int connections) {
    const Deadline deadline = Soon();
    while (accepted_[rail] != connections && !deadline.Passed())
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_EQ(accepted_[rail], connections);
  }

  void OpenFake(int queue_pairs, Duration patience) {
    network_ = std::make_unique<transport::FakeNetwork>(transport::FakeFaults());
    here_ = network_->Open("10.0.0.1");
    there_ = network_->Open("10.0.0.2");
    Open(*here_, *there_, "10.0.0.2", queue_pairs, patience);
  }

  void Close() {
    sink_.reset();
    acceptors_.clear();
    listeners_.clear();
    receiver_.reset();
  }

  void TearDown() override {
    Close();
    here_.reset();
    there_.reset();
    second_here_.reset();
    second_there_.reset();
  }

  absl::Status Put(uint64_t address, uint8_t byte) {
    auto span = sink_->Acquire(1);
    if (!span.ok()) return span.status();
    std::memset(span->data(), byte, kPageSize);
    std::memcpy(span->data(), &address, sizeof(address));
    want_[address] = byte;
    return sink_->Put({kSpace, address, 1});
  }

  // Until nothing is refused any more, as a migration does it.
  void FlushAll() {
    for (int attempt = 0; attempt < 10; ++attempt) {
      const auto refused = sink_->Flush(Soon());
      ASSERT_TRUE(refused.ok()) << refused.status();
      if (refused->empty()) return;
      for (const PageRun& run : *refused) {
        for (uint64_t i = 0; i < run.pages; ++i) {
          const uint64_t address = run.address + i * kPageSize;
          ASSERT_TRUE(want_.contains(address)) << "a page that was never put is to be sent again";
          ++again_;
          ASSERT_TRUE(Put(address, want_[address]).ok());
        }
      }
    }
    FAIL() << "it never came through";
  }

  void ExpectArenaHasAll() {
    for (const auto& [address, byte] : want_) {
      const auto found = receiver_->arena().Find(kSpace, address);
      ASSERT_TRUE(found.has_value()) << address;
      const auto memory = receiver_->arena().Slots(found->slot, 1);
      ASSERT_TRUE(memory.ok());
      uint64_t stamp = 0;
      std::memcpy(&stamp, memory->data(), sizeof(stamp));
      ASSERT_EQ(stamp, address);
      ASSERT_EQ(static_cast<uint8_t>((*memory)[kPageSize - 1]), byte);
    }
  }

  std::unique_ptr<transport::FakeNetwork> network_;
  std::unique_ptr<transport::Fabric> here_;
  std::unique_ptr<transport::Fabric> there_;
  std::unique_ptr<LaneReceiver> receiver_;
  std::unique_ptr<transport::FakeNetwork> second_network_;  // of rail 1
  std::unique_ptr<transport::Fabric> second_here_;
  std::unique_ptr<transport::Fabric> second_there_;
  std::vector<std::unique_ptr<transport::Listener>> listeners_;
  std::atomic<bool> known_{true};               // the migration, to whoever accepts
  std::array<std::atomic<int>, 2> accepted_{};  // by rail
  std::vector<std::jthread> acceptors_;
  std::shared_ptr<LaneSink> sink_;
  std::map<uint64_t, uint8_t> want_;
  uint64_t again_ = 0;
};

TEST_P(ResumeTest, GoesOnWhereItWasWhenTheLinkComesBack) {
  OpenFake(2, std::chrono::seconds(20));
  for (uint64_t page = 0; page < 200; ++page) ASSERT_TRUE(Put(page * kPageSize, 1).ok());
  FlushAll();
  EXPECT_EQ(again_, 0u);
  // Twice, once while pages are put and once with all of them waiting for their answers.
  network_->Cut();
  std::thread mender([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    network_->Heal();
  });
  for (uint64_t page = 100; page < 400; ++page) ASSERT_TRUE(Put(page * kPageSize, 2).ok());
  mender.join();
  FlushAll();
  const uint64_t once = sink_->resumed();
  EXPECT_GE(once, 1u);
  // What was answered for before the cut is not repeated.
  EXPECT_GT(again_, 0u);
  EXPECT_LE(again_, 300u);
  ExpectArenaHasAll();

  for (uint64_t page = 50; page < 150; ++page) ASSERT_TRUE(Put(page * kPageSize, 3).ok());
  network_->Cut();
  std::thread again([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    network_->Heal();
  });
  FlushAll();
  again.join();
  EXPECT_GT(sink_->resumed(), once);
  ExpectArenaHasAll();
  EXPECT_TRUE(receiver_->Close().ok());

  Close();
  EXPECT_EQ(network_->counts().regions, 0u);
  EXPECT_EQ(network_->counts().queue_pairs, 0u);
}

TEST_P(ResumeTest, FailsWithinItsPatienceWhenTheLinkStaysAwayAndLeavesNothing) {
  OpenFake(2, std::chrono::milliseconds(400));
  const size_t before = OpenDescriptors();
  for (uint64_t page = 0; page < 50; ++page) ASSERT_TRUE(Put(page * kPageSize, 1).ok());
  network_->Cut();
  absl::Status status = sink_->Flush(Soon()).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_NE(status.message().find("could not be made again"), std::string::npos) << status;
  // And for good.
  EXPECT_FALSE(sink_->Acquire(1).ok());
  network_->Heal();
  Close();
  EXPECT_EQ(network_->counts().regions, 0u);
  EXPECT_EQ(network_->counts().queue_pairs, 0u);
  EXPECT_LE(OpenDescriptors(), before);
}

TEST_P(ResumeTest, EndsAtOnceWhenTheTargetHasGivenUp) {
  OpenFake(1, std::chrono::hours(1));
  ASSERT_TRUE(Put(0, 1).ok());
  known_ = false;
  network_->Cut();
  std::thread mender([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    network_->Heal();
  });
  EXPECT_FALSE(sink_->Flush(Soon()).ok());
  mender.join();
}

TEST_P(ResumeTest, ShutdownEndsTheWaitForALink) {
  OpenFake(1, std::chrono::hours(1));
  ASSERT_TRUE(Put(0, 1).ok());
  network_->Cut();
  std::thread other([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    sink_->Shutdown();
  });
  EXPECT_FALSE(sink_->Flush(Soon()).ok());
  other.join();
  network_->Heal();
}

TEST_P(ResumeTest, NoConnectionComesTwice) {
  OpenFake(1, std::chrono::hours(1));
  const auto come = [this](uint8_t attempt) {
    auto made =
        here_->Connect("10.0.0.2", 7461, std::string(kToken) + '\0' + static_cast<char>(attempt),
                       Deadline::After(std::chrono::seconds(5)));
    return made.status();
  };
  EXPECT_FALSE(come(0).ok());
  EXPECT_TRUE(come(3).ok());
  EXPECT_FALSE(come(3).ok());
  EXPECT_FALSE(come(2).ok());
  EXPECT_TRUE(come(4).ok());
}

TEST_P(ResumeTest, OverTcpWhenTheTargetsEndIsGone) {
  const size_t before = OpenDescriptors();
  here_ = transport::OpenTcp();
  there_ = transport::OpenTcp();
  Open(*here_, *there_, "127.0.0.1", 1, std::chrono::seconds(20));
  for (uint64_t page = 0; page < 100; ++page) ASSERT_TRUE(Put(page * kPageSize, 1).ok());
  FlushAll();
  // A stranger with the token takes the connection's place, and goes: what it does not answer for
  // is sent again over a third one.
  ASSERT_TRUE(here_->Connect("127.0.0.1", 7461, std::string(kToken) + '\0' + '\1', Soon()).ok());
  for (uint64_t page = 50; page < 200; ++page) ASSERT_TRUE(Put(page * kPageSize, 2).ok());
  FlushAll();
  EXPECT_GE(sink_->resumed(), 1u);
  ExpectArenaHasAll();
  Close();
  here_.reset();
  there_.reset();
  EXPECT_LE(OpenDescriptors(), before);
}

TEST_P(ResumeTest, ADeviceThatIsLostLeavesItsConnectionsToTheOthers) {
  if (!GetParam().by_connection) return;  // rails are granted so
  second_network_ = std::make_unique<transport::FakeNetwork>(transport::FakeFaults());
  second_here_ = second_network_->Open("10.0.0.1");
  second_there_ = second_network_->Open("10.0.0.2");
  OpenFake(4, std::chrono::seconds(20));
  EXPECT_EQ(sink_->rails(), 2u);
  ExpectAccepted(0, 2);
  ExpectAccepted(1, 2);
  // More than the arena has at first.
  for (uint64_t page = 0; page < 4000; ++page) ASSERT_TRUE(Put(page * kPageSize, 1).ok());
  FlushAll();
  EXPECT_GT(network_->counts().writes, 10u);
  EXPECT_GT(second_network_->counts().writes, 10u);
  EXPECT_EQ(again_, 0u);

  // For good.
  second_network_->Cut();
  for (uint64_t page = 2000; page < 5000; ++page) ASSERT_TRUE(Put(page * kPageSize, 2).ok());
  FlushAll();
  EXPECT_EQ(sink_->resumed(), 2u);
  ExpectAccepted(0, 4);
  ExpectArenaHasAll();

  // And the first is lost when the second is back.
  second_network_->Heal();
  network_->Cut();
  for (uint64_t page = 0; page < 3000; ++page) ASSERT_TRUE(Put(page * kPageSize, 3).ok());
  FlushAll();
  EXPECT_EQ(sink_->resumed(), 6u);
  ExpectArenaHasAll();
  EXPECT_TRUE(receiver_->Close().ok());

  Close();
  for (const auto* network : {network_.get(), second_network_.get()}) {
    EXPECT_EQ(network->counts().regions, 0u);
    EXPECT_EQ(network->counts().queue_pairs, 0u);
  }
}

TEST_P(ResumeTest, ADeviceThatIsNotThereAtFirstIsDoneWithout) {
  if (!GetParam().by_connection) return;
  second_network_ = std::make_unique<transport::FakeNetwork>(transport::FakeFaults());
  second_here_ = second_network_->Open("10.0.0.1");
  second_there_ = second_network_->Open("10.0.0.2");
  second_network_->PowerOff("10.0.0.1");
  OpenFake(2, std::chrono::seconds(20));
  ExpectAccepted(0, 2);
  for (uint64_t page = 0; page < 500; ++page) ASSERT_TRUE(Put(page * kPageSize, 1).ok());
  FlushAll();
  ExpectArenaHasAll();
}

INSTANTIATE_TEST_SUITE_P(PlainAndSealed, ResumeTest,
                         testing::Values(Kind{"Plain", false, false}, Kind{"Sealed", true, false},
                                         Kind{"PlainByConnection", false, true},
                                         Kind{"SealedByConnection", true, true}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace starling::migration
