#include "runtime/migration/arena_slots.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>

#include "base/units.h"

namespace starling::migration {
namespace {

using checkpoint::AddressSpace;
using checkpoint::kPageSize;
using checkpoint::PageRun;

// A target that grants what it is asked for, and takes its time.
class Target {
 public:
  ArenaSlots::Grow Grow() {
    return [this](uint64_t bytes) -> absl::StatusOr<std::vector<v1::ArenaChunk>> {
      EXPECT_FALSE(asked_.exchange(true)) << "asked by two threads at a time";
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      asked_ = false;
      const std::lock_guard lock(mutex_);
      asks_.push_back(bytes);
      if (full_) return absl::ResourceExhaustedError("no room");
      v1::ArenaChunk chunk;
      chunk.set_address(asks_.size() << 40);
      chunk.set_rkey(7);
      chunk.set_bytes(bytes);
      return std::vector<v1::ArenaChunk>{chunk};
    };
  }
  std::vector<uint64_t> asks() const {
    const std::lock_guard lock(mutex_);
    return asks_;
  }
  void Fill() { full_ = true; }

 private:
  std::atomic<bool> asked_ = false;
  std::atomic<bool> full_ = false;
  mutable std::mutex mutex_;
  std::vector<uint64_t> asks_;
};

PageRun Pages(uint64_t bytes) {
  return {{AddressSpace::Kind::kProcess, 1}, 1 << 30, bytes / kPageSize};
}

TEST(ArenaSlotsTest, WhoNeedsRoomWaitsForWhatIsAskedForAhead) {
  Target target;
  ArenaSlots slots(target.Grow());
  slots.GrowAhead(100 * kMiB);
  uint64_t pages = 0;
  const auto placed = slots.Assign(Pages(98 * kMiB));
  ASSERT_TRUE(placed.ok()) << placed.status();
  for (const checkpoint::SlotRun& run : *placed) pages += run.pages;
  EXPECT_EQ(pages * kPageSize, 98 * kMiB);
  const std::vector<uint64_t> asks = target.asks();
  EXPECT_EQ(std::accumulate(asks.begin(), asks.end(), uint64_t{0}), 100 * kMiB);
  EXPECT_EQ(asks.size(), 4u) << "in parts";
  EXPECT_TRUE(slots.Locate(0, 1).ok());
}

TEST(ArenaSlotsTest, WhatIsNeededBeyondIsAskedFor) {
  Target target;
  ArenaSlots slots(target.Grow());
  slots.GrowAhead(32 * kMiB);
  ASSERT_TRUE(slots.Assign(Pages(80 * kMiB)).ok());
  EXPECT_EQ(target.asks(), (std::vector<uint64_t>{32 * kMiB, 48 * kMiB}));
}

TEST(ArenaSlotsTest, WhoNeedsRoomIsToldThatThereIsNone) {
  Target target;
  target.Fill();
  ArenaSlots slots(target.Grow());
  slots.GrowAhead(64 * kMiB);
  EXPECT_EQ(slots.Assign(Pages(kMiB)).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(ArenaSlotsTest, EndsWhileItGrows) {
  Target target;
  {
    ArenaSlots slots(target.Grow());
    slots.GrowAhead(kGiB);
    slots.StopGrowing();
  }
  EXPECT_LT(target.asks().size(), 32u);
}

}  // namespace
}  // namespace starling::migration
