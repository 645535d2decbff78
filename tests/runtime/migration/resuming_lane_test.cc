// A page stream whose connections are lost on the way, over the fake network and TCP.

#include "runtime/migration/resuming_lane.h"

#include <dirent.h>
#include <gtest/gtest.h>

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
class ResumeTest : public testing::TestWithParam<bool> {
 protected:
  void Open(transport::Fabric& here, transport::Fabric& there, const std::string& address,
            int queue_pairs, Duration patience) {
    const bool sealed = GetParam();
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
    receiver_ = *LaneReceiver::Create(there, std::move(receiving));
    auto listener = there.Listen(address, 7461);
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
    acceptor_ = std::jthread([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        auto incoming = listener_->Next(Deadline::After(std::chrono::milliseconds(20)));
        if (!incoming.ok() || !known_) continue;
        const auto shown = [data = std::string((*incoming)->private_data())](size_t at) {
          return at < data.size() ? static_cast<uint8_t>(data[at]) : 0u;
        };
        (void)receiver_->Accept(shown(kTokenSize), *std::move(incoming), shown(kTokenSize + 1));
      }
    });
    v1::ReserveResponse granted;
    for (const v1::ArenaChunk& chunk : receiver_->chunks()) *granted.add_chunks() = chunk;
    granted.set_data_address(address + ":7461");
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

  void OpenFake(int queue_pairs, Duration patience) {
    network_ = std::make_unique<transport::FakeNetwork>(transport::FakeFaults());
    here_ = network_->Open("10.0.0.1");
    there_ = network_->Open("10.0.0.2");
    Open(*here_, *there_, "10.0.0.2", queue_pairs, patience);
  }

  void Close() {
    sink_.reset();
    acceptor_ = {};
    listener_.reset();
    receiver_.reset();
  }

  void TearDown() override {
    Close();
    here_.reset();
    there_.reset();
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
  std::unique_ptr<transport::Listener> listener_;
  std::atomic<bool> known_{true};  // the migration, to whoever accepts
  std::jthread acceptor_;
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

INSTANTIATE_TEST_SUITE_P(PlainAndSealed, ResumeTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "Sealed" : "Plain"; });

}  // namespace
}  // namespace starling::migration
