#include "checkpoint/slot_map.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace starling::checkpoint {
namespace {

constexpr AddressSpace kOne{AddressSpace::Kind::kProcess, 1};
constexpr AddressSpace kTwo{AddressSpace::Kind::kSharedMemory, 1};

PageRun Pages(const AddressSpace& space, uint64_t page, uint64_t pages) {
  return {space, page * kPageSize, pages};
}

TEST(SlotMap, PagesKeepTheirSlots) {
  SlotMap map;
  map.SetCapacity(100);
  EXPECT_EQ(map.Assign(Pages(kOne, 1000, 10)).value(),
            (std::vector<SlotRun>{{1000 * kPageSize, 10, 0}}));
  EXPECT_EQ(map.Assign(Pages(kTwo, 1000, 5)).value(),
            (std::vector<SlotRun>{{1000 * kPageSize, 5, 10}}));
  EXPECT_EQ(map.Assign(Pages(kOne, 1004, 8)).value(),
            (std::vector<SlotRun>{{1004 * kPageSize, 6, 4}, {1010 * kPageSize, 2, 15}}));
  EXPECT_EQ(map.high_water(), 17u);
}

TEST(SlotMap, FullArenaIsSaidAndNothingChanges) {
  SlotMap map;
  map.SetCapacity(10);
  ASSERT_TRUE(map.Assign(Pages(kOne, 0, 8)).ok());
  EXPECT_EQ(map.Shortage(Pages(kOne, 4, 10)), 4u);
  EXPECT_EQ(map.Assign(Pages(kOne, 4, 10)).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(map.Find(kOne, 9 * kPageSize).has_value());
  map.SetCapacity(14);
  EXPECT_TRUE(map.Assign(Pages(kOne, 4, 10)).ok());
}

TEST(SlotMap, WhatIsGivenUpIsUsedAgainOnlyAfterRecycle) {
  SlotMap map;
  map.SetCapacity(10);
  ASSERT_TRUE(map.Assign(Pages(kOne, 0, 10)).ok());
  map.Zero(Pages(kOne, 2, 3));
  EXPECT_EQ(map.Find(kOne, 2 * kPageSize)->slot, kZeroSlot);
  EXPECT_FALSE(map.Assign(Pages(kTwo, 0, 3)).ok());
  map.Recycle();
  EXPECT_EQ(map.Assign(Pages(kTwo, 0, 3)).value(), (std::vector<SlotRun>{{0, 3, 2}}));
  map.Drop(kOne);
  map.Recycle();
  EXPECT_EQ(map.Shortage(Pages(kTwo, 100, 7)), 0u);
}

TEST(SlotMap, NeverGivesOneSlotToTwoPages) {
  for (uint32_t seed = 1; seed <= 6; ++seed) {
    std::mt19937 random(seed);
    SlotMap map, twin;
    std::map<std::pair<AddressSpace, uint64_t>, uint64_t> slots;
    map.SetCapacity(300);
    twin.SetCapacity(300);
    for (int step = 0; step < 2000; ++step) {
      const AddressSpace space = random() % 2 ? kOne : kTwo;
      const PageRun run = Pages(space, random() % 200, 1 + random() % 20);
      switch (random() % 8) {
        case 0:
          map.Drop(space);
          twin.Drop(space);
          std::erase_if(slots, [&](const auto& item) { return item.first.first == space; });
          break;
        case 1:
        case 2:
          map.Zero(run);
          twin.Zero(run);
          for (uint64_t i = 0; i < run.pages; ++i) {
            slots.erase({space, run.address / kPageSize + i});
          }
          break;
        case 3:
          map.Recycle();
          twin.Recycle();
          break;
        default: {
          const auto pieces = map.Assign(run);
          const auto same = twin.Assign(run);
          ASSERT_EQ(pieces.ok(), same.ok());
          if (!pieces.ok()) {
            // More can be given only after a recycle or never: the map must say by how much.
            ASSERT_GT(map.Shortage(run), 0u);
            break;
          }
          ASSERT_EQ(*pieces, *same) << "the same calls, other slots";
          uint64_t address = run.address;
          for (const SlotRun& piece : *pieces) {
            ASSERT_EQ(piece.address, address);
            for (uint64_t i = 0; i < piece.pages; ++i) {
              const uint64_t page = address / kPageSize + i;
              const auto old = slots.find({space, page});
              if (old != slots.end()) {
                ASSERT_EQ(old->second, piece.slot + i) << "a page moved";
              }
              slots[{space, page}] = piece.slot + i;
            }
            address += piece.pages * kPageSize;
          }
          ASSERT_EQ(address, run.address + run.pages * kPageSize);
        }
      }
      std::set<uint64_t> used;
      for (const auto& [page, slot] : slots) {
        ASSERT_TRUE(used.insert(slot).second) << "slot " << slot << " given twice";
        ASSERT_LT(slot, 300u);
      }
    }
  }
}

}  // namespace
}  // namespace starling::checkpoint
