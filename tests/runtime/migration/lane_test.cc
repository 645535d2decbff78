// The lane from a source's pages to a target's arena, over the fake network.

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <thread>

#include "runtime/migration/lane_receiver.h"
#include "runtime/migration/lane_sink.h"
#include "transport/fake_fabric.h"

namespace starling::migration {
namespace {

using checkpoint::AddressSpace;
using checkpoint::kPageSize;
using checkpoint::PageRun;

constexpr AddressSpace kSpace = {AddressSpace::Kind::kProcess, 1000};

class LaneTest : public testing::Test {
 protected:
  void Open(const transport::FakeFaults& faults, uint64_t arena_bytes, int queue_pairs,
            uint64_t slab_bytes = 64 * 1024) {
    network_ = std::make_unique<transport::FakeNetwork>(faults);
    here_ = network_->Open("10.0.0.1");
    there_ = network_->Open("10.0.0.2");
    auto receiver = LaneReceiver::Create(*there_, arena_bytes, "");
    ASSERT_TRUE(receiver.ok()) << receiver.status();
    receiver_ = *std::move(receiver);
    auto listener = there_->Listen("10.0.0.2", 7401);
    ASSERT_TRUE(listener.ok()) << listener.status();
    std::thread acceptor([&] {
      for (int i = 0; i < queue_pairs; ++i) {
        auto incoming = (*listener)->Next(Deadline::After(std::chrono::seconds(20)));
        if (!incoming.ok()) return;
        EXPECT_TRUE(receiver_->Accept(*std::move(incoming)).ok());
      }
    });
    v1::ReserveResponse granted;
    for (const v1::ArenaChunk& chunk : receiver_->chunks()) *granted.add_chunks() = chunk;
    granted.set_data_address("10.0.0.2:7401");
    granted.set_token("a token");
    LaneOptions options;
    options.queue_pairs = queue_pairs;
    options.slab_bytes = slab_bytes;
    options.slabs = 4;
    auto sink = LaneSink::Connect(
        *here_, options, granted, [this](uint64_t bytes) { return receiver_->Grow(bytes); },
        Deadline::After(std::chrono::seconds(20)));
    acceptor.join();
    ASSERT_TRUE(sink.ok()) << sink.status();
    sink_ = *std::move(sink);
  }

  void TearDown() override {
    sink_.reset();
    receiver_.reset();
    here_.reset();
    there_.reset();
  }

  absl::Status Put(uint64_t address, uint64_t pages, uint8_t first_byte) {
    while (pages > 0) {
      auto span = sink_->Acquire(pages);
      if (!span.ok()) return span.status();
      const uint64_t now = span->size() / kPageSize;
      for (uint64_t i = 0; i < now; ++i) {
        std::memset(span->data() + i * kPageSize, first_byte, kPageSize);
        std::memcpy(span->data() + i * kPageSize, &address, sizeof(address));
        want_[address] = first_byte;
        address += kPageSize;
      }
      if (absl::Status put = sink_->Put({kSpace, address - now * kPageSize, now}); !put.ok())
        return put;
      pages -= now;
    }
    return absl::OkStatus();
  }

  void ExpectArenaHasAll() {
    for (const auto& [address, byte] : want_) {
      const auto found = receiver_->arena().Find(kSpace, address);
      ASSERT_TRUE(found.has_value()) << address;
      const auto memory = receiver_->arena().Slots(found->slot, 1);
      ASSERT_TRUE(memory.ok());
      uint64_t stamp = 0;
      std::memcpy(&stamp, memory->data(), sizeof(stamp));
      EXPECT_EQ(stamp, address);
      EXPECT_EQ(static_cast<uint8_t>((*memory)[kPageSize - 1]), byte);
    }
  }

  static Deadline Soon() { return Deadline::After(std::chrono::seconds(20)); }

  std::unique_ptr<transport::FakeNetwork> network_;
  std::unique_ptr<transport::Fabric> here_;
  std::unique_ptr<transport::Fabric> there_;
  std::unique_ptr<LaneReceiver> receiver_;
  std::shared_ptr<LaneSink> sink_;
  std::map<uint64_t, uint8_t> want_;
};

TEST_F(LaneTest, LandsEveryPageOverSeveralConnectionsAndRounds) {
  Open({}, 4 << 20, 2);
  std::mt19937_64 random(7);
  for (int round = 0; round < 5; ++round) {
    // No page twice within a round, as a source promises.
    for (uint64_t page = 0; page < 600;) {
      const uint64_t pages = 1 + random() % 40;
      if (round == 0 || random() % 3 == 0) {
        ASSERT_TRUE(Put(page * kPageSize, pages, static_cast<uint8_t>(random())).ok());
      }
      page += pages;
    }
    const absl::Status flushed = sink_->Flush(Soon());
    ASSERT_TRUE(flushed.ok()) << flushed;
    ExpectArenaHasAll();
  }
  EXPECT_GT(sink_->bytes_sent(), 600 * kPageSize);
}

TEST_F(LaneTest, SendsSingleScatteredPagesBeyondABatch) {
  Open({}, 4 << 20, 1);
  for (uint64_t i = 0; i < 3 * kMaxBatchRuns; ++i)
    ASSERT_TRUE(Put(i * 3 * kPageSize, 1, static_cast<uint8_t>(i)).ok());
  ASSERT_TRUE(sink_->Flush(Soon()).ok());
  ExpectArenaHasAll();
}

TEST_F(LaneTest, SendsARoomFullOfScatteredPagesBeyondABatch) {
  Open({}, 4 << 20, 2, 1 << 20);
  // With long slabs, so that one room has more runs than a batch.
  std::vector<PageRun> runs;
  uint64_t next = 0;
  while (next < 700) {
    auto span = sink_->Acquire(700);
    ASSERT_TRUE(span.ok()) << span.status();
    runs.clear();
    for (size_t at = 0; at < span->size(); at += kPageSize, ++next) {
      const uint64_t address = (next * 3 + 5) * kPageSize;
      std::memset(span->data() + at, 9, kPageSize);
      std::memcpy(span->data() + at, &address, sizeof(address));
      want_[address] = 9;
      runs.push_back({kSpace, address, 1});
    }
    ASSERT_TRUE(sink_->PutAll(runs).ok());
  }
  ASSERT_TRUE(sink_->Flush(Soon()).ok());
  ExpectArenaHasAll();
}

TEST_F(LaneTest, GrowsTheArenaWhenItIsFull) {
  Open({}, 1 << 20, 2);
  const uint64_t before = receiver_->arena().slots();
  ASSERT_TRUE(Put(0, before + 100, 1).ok());
  ASSERT_TRUE(sink_->Flush(Soon()).ok());
  EXPECT_GT(receiver_->arena().slots(), before);
  ExpectArenaHasAll();
}

TEST_F(LaneTest, MakesGivenBackPagesZero) {
  Open({}, 1 << 20, 1);
  ASSERT_TRUE(Put(0, 8, 1).ok());
  ASSERT_TRUE(sink_->Flush(Soon()).ok());
  ASSERT_TRUE(sink_->PutZero({kSpace, 2 * kPageSize, 3}).ok());
  ASSERT_TRUE(sink_->Flush(Soon()).ok());
  EXPECT_EQ(receiver_->arena().Find(kSpace, 3 * kPageSize)->slot, checkpoint::kZeroSlot);
  EXPECT_NE(receiver_->arena().Find(kSpace, 5 * kPageSize)->slot, checkpoint::kZeroSlot);
}

TEST_F(LaneTest, GetsThroughANetworkThatLosesAndDelays) {
  transport::FakeFaults faults;
  faults.loss = 0.3;
  faults.delay_max = std::chrono::microseconds(200);
  faults.retries = -1;
  Open(faults, 4 << 20, 2);
  ASSERT_TRUE(Put(0, 300, 5).ok());
  ASSERT_TRUE(sink_->Flush(Soon()).ok());
  ExpectArenaHasAll();
  EXPECT_GT(network_->counts().lost, 0u);
}

TEST_F(LaneTest, FailsAtItsDeadlineWhenTheNetworkIsCut) {
  transport::FakeFaults faults;
  faults.retries = -1;
  Open(faults, 4 << 20, 2);
  ASSERT_TRUE(Put(0, 10, 5).ok());
  network_->Cut();
  EXPECT_FALSE(sink_->Flush(Deadline::After(std::chrono::milliseconds(50))).ok());
  network_->Heal();
}

TEST_F(LaneTest, EndsAtOnceWhenShutDown) {
  Open({}, 4 << 20, 2);
  network_->Cut();
  std::thread other([&] { sink_->Shutdown(); });
  EXPECT_FALSE(sink_->Flush(Soon()).ok());
  other.join();
  network_->Heal();
}

TEST_F(LaneTest, LeavesNothingBehind) {
  Open({}, 4 << 20, 3);
  ASSERT_TRUE(Put(0, 50, 5).ok());
  ASSERT_TRUE(sink_->Flush(Soon()).ok());
  sink_.reset();
  receiver_.reset();
  EXPECT_EQ(network_->counts().regions, 0u);
  EXPECT_EQ(network_->counts().queue_pairs, 0u);
}

}  // namespace
}  // namespace starling::migration
