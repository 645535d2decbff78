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
  struct How {
    uint64_t slab_bytes = 64 * 1024;
    bool sealed = false;
    bool by_tag = false;
    bool ring = false;
  };
  void Open(const transport::FakeFaults& faults, uint64_t arena_bytes, int queue_pairs) {
    Open(faults, arena_bytes, queue_pairs, How());
  }
  void Open(const transport::FakeFaults& faults, uint64_t arena_bytes, int queue_pairs,
            const How& how) {
    network_ = std::make_unique<transport::FakeNetwork>(faults);
    here_ = network_->Open("10.0.0.1");
    there_ = network_->Open("10.0.0.2");
    LaneReceiver::Options receiving;
    receiving.arena_bytes = arena_bytes;
    receiving.max_arena_bytes = 1 << 30;  // tsan does not allow for more address space
    if (how.ring || how.sealed) {
      receiving.ring = {static_cast<uint32_t>(queue_pairs) * kRingSlotsPerLane, how.slab_bytes};
    }
    for (int i = 0; how.sealed && i < queue_pairs; ++i) {
      ChannelKeys& keys = receiving.keys.emplace_back();
      keys.to_target.fill(static_cast<uint8_t>(i + 1));
      keys.to_source.fill(static_cast<uint8_t>(i + 101));
    }
    receiving.by_tag = how.by_tag;
    const StreamKeys keys = receiving.keys;
    auto receiver = LaneReceiver::Create(*there_, std::move(receiving));
    ASSERT_TRUE(receiver.ok()) << receiver.status();
    receiver_ = *std::move(receiver);
    auto listener = there_->Listen("10.0.0.2", 7401);
    ASSERT_TRUE(listener.ok()) << listener.status();
    std::thread acceptor([&] {
      for (int i = 0; i < queue_pairs; ++i) {
        auto incoming = (*listener)->Next(Deadline::After(std::chrono::seconds(20)));
        if (!incoming.ok()) return;
        const auto number = static_cast<uint32_t>((*incoming)->private_data()[7]);
        EXPECT_TRUE(receiver_->Accept(number, *std::move(incoming)).ok());
      }
    });
    v1::ReserveResponse granted;
    for (const v1::ArenaChunk& chunk : receiver_->chunks()) *granted.add_chunks() = chunk;
    granted.set_data_address("10.0.0.2:7401");
    granted.set_token("a token");
    granted.set_by_tag(how.by_tag);
    LaneOptions options;
    options.queue_pairs = queue_pairs;
    options.slab_bytes = how.slab_bytes;
    options.slabs = 4;
    if (const auto ring = receiver_->ring()) {
      *granted.mutable_ring() = *ring;
      granted.set_ring_slots(static_cast<uint32_t>(queue_pairs) * kRingSlotsPerLane);
    }
    auto sink = LaneSink::Connect(
        *here_, options, granted, [this](uint64_t bytes) { return receiver_->Grow(bytes); }, keys,
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
    const auto flushed = sink_->Flush(Soon());
    ASSERT_TRUE(flushed.ok()) << flushed.status();
    EXPECT_TRUE(flushed->empty());
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
  Open({}, 4 << 20, 2, {.slab_bytes = 1 << 20});
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

// A write for each page would be acknowledged for each page: they go in one piece and are put in
// place by the target.
TEST_F(LaneTest, ScatteredPagesAreStagedWhereThereIsARing) {
  Open({}, 4 << 20, 1, {.ring = true});
  constexpr uint64_t kRounds = 20;
  for (uint64_t round = 0; round < kRounds; ++round) {
    auto span = sink_->Acquire(8);
    ASSERT_TRUE(span.ok()) << span.status();
    std::vector<PageRun> runs;
    for (uint64_t i = 0; i < 8; ++i) {
      const uint64_t address = (round * 8 + i) * 3 * kPageSize;
      std::byte* const page = span->data() + i * kPageSize;
      std::mt19937_64 random(address);  // not to be compressed
      for (size_t at = 0; at < kPageSize; at += 8) {
        const uint64_t word = random();
        std::memcpy(page + at, &word, sizeof(word));
      }
      std::memcpy(page, &address, sizeof(address));
      want_[address] = static_cast<uint8_t>(page[kPageSize - 1]);
      runs.push_back({kSpace, address, 1});
    }
    ASSERT_TRUE(sink_->PutAll(runs).ok());
  }
  const uint64_t scattered = kRounds * 8;
  ASSERT_TRUE(Put(1 << 30, 64, 5).ok());  // one run
  ASSERT_TRUE(sink_->Flush(Soon()).ok());
  EXPECT_GE(sink_->counts().staged_pages, scattered / 2) << "but for the batches that sample";
  EXPECT_LE(sink_->counts().staged_pages, scattered);
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

class DamagedLaneTest : public LaneTest, public testing::WithParamInterface<const char*> {};

TEST_P(DamagedLaneTest, ReturnsWhatWasDamagedOnItsWay) {
  const std::string how = GetParam();
  Open({}, 4 << 20, 2, {.sealed = how != "plain", .by_tag = how == "sealed_by_tag"});
  ASSERT_TRUE(Put(0, 40, 5).ok());
  sink_->DamageNextPage();
  ASSERT_TRUE(Put(100 * kPageSize, 3, 6).ok());
  // Whichever writer made the damaged batch.
  ASSERT_TRUE(Put(200 * kPageSize, 40, 7).ok());
  const auto refused = sink_->Flush(Soon());
  ASSERT_TRUE(refused.ok()) << refused.status();
  ASSERT_FALSE(refused->empty());
  for (const PageRun& run : *refused) {
    for (uint64_t i = 0; i < run.pages; ++i) {
      const uint64_t address = run.address + i * kPageSize;
      ASSERT_TRUE(want_.contains(address));
      ASSERT_TRUE(Put(address, 1, want_[address]).ok());
    }
  }
  const auto again = sink_->Flush(Soon());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->empty());
  EXPECT_GT(sink_->counts().resent_pages, 0u);
  ExpectArenaHasAll();
}

INSTANTIATE_TEST_SUITE_P(Lanes, DamagedLaneTest,
                         testing::Values("plain", "sealed", "sealed_by_tag"),
                         [](const auto& info) { return std::string(info.param); });

TEST_F(LaneTest, AnArenaThatIsKnownByTagsAloneIsNotVerified) {
  Open({}, 4 << 20, 2, {.sealed = true, .by_tag = true});
  ASSERT_TRUE(Put(0, 40, 5).ok());
  const auto flushed = sink_->Flush(Soon());
  ASSERT_TRUE(flushed.ok()) << flushed.status();
  EXPECT_TRUE(flushed->empty());
  ExpectArenaHasAll();
  EXPECT_EQ(receiver_->arena().Verify(1).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(LaneTest, SealedNothingOfAPageIsReadableOnTheWay) {
  Open({}, 4 << 20, 2, {.sealed = true});
  std::mt19937_64 random(7);
  for (int round = 0; round < 4; ++round) {
    for (uint64_t page = 0; page < 400; page += 40) {
      ASSERT_TRUE(Put(page * kPageSize, 1 + random() % 40, static_cast<uint8_t>(random())).ok());
    }
    const auto flushed = sink_->Flush(Soon());
    ASSERT_TRUE(flushed.ok()) << flushed.status();
    EXPECT_TRUE(flushed->empty());
    ExpectArenaHasAll();
  }
}

TEST_F(LaneTest, ManyThreadsUseItsLanesAtOnce) {
  Open({}, 8 << 20, 3, {.ring = true});
  std::vector<std::thread> threads;
  for (size_t i = 0; i < 3; ++i) {
    threads.emplace_back([this, i] {
      checkpoint::PageLane& lane = *sink_->lanes()[i];
      for (uint64_t page = 0; page < 300; ++page) {
        auto span = lane.Acquire(1);
        ASSERT_TRUE(span.ok()) << span.status();
        std::memset(span->data(), static_cast<int>(i + 1), kPageSize);
        const uint64_t address = (page * 3 + i) * kPageSize;
        std::memcpy(span->data(), &address, sizeof(address));
        ASSERT_TRUE(lane.Put({kSpace, address, 1}).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (uint64_t page = 0; page < 900; ++page) {
    want_[page * kPageSize] = static_cast<uint8_t>(page % 3 + 1);
  }
  ASSERT_TRUE(sink_->Flush(Soon()).ok());
  ExpectArenaHasAll();
}

TEST_F(LaneTest, RepeatedPagesOfABatchAreSentOnce) {
  Open({}, 4 << 20, 1);
  auto span = sink_->Acquire(8);
  ASSERT_TRUE(span.ok());
  std::memset(span->data(), 3, 8 * kPageSize);
  ASSERT_TRUE(sink_->Put({kSpace, 0, 8}).ok());
  ASSERT_TRUE(sink_->Flush(Soon()).ok());
  EXPECT_EQ(sink_->counts().repeated_pages, 7u);
  EXPECT_LT(sink_->bytes_sent(), 2 * kPageSize);
  for (uint64_t page = 0; page < 8; ++page) {
    const auto found = receiver_->arena().Find(kSpace, page * kPageSize);
    ASSERT_TRUE(found.has_value());
    EXPECT_EQ((*receiver_->arena().Slots(found->slot, 1))[77], std::byte{3});
  }
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
