#include "checkpoint/run_map.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "checkpoint/slot_map.h"

namespace starling::checkpoint {
namespace {

using Map = RunMap<SlotValue>;
using Naive = std::map<uint64_t, uint64_t>;

Naive Flatten(const Map& map) {
  Naive flat;
  uint64_t runs = 0;
  std::optional<Map::Run> last;
  map.ForEach([&](const Map::Run& run) {
    EXPECT_GT(run.count, 0u);
    if (last && last->first + last->count == run.first) {
      EXPECT_FALSE(last->value.Plus(last->count) == run.value) << "two runs that are one";
    }
    for (uint64_t i = 0; i < run.count; ++i) flat[run.first + i] = run.value.Plus(i).slot;
    ++runs;
    last = run;
  });
  EXPECT_EQ(runs, map.run_count());
  EXPECT_EQ(flat.size(), map.key_count());
  return flat;
}

TEST(RunMap, JoinsWhatContinues) {
  Map map;
  map.Assign(10, 5, {100});
  map.Assign(20, 5, {110});
  map.Assign(15, 5, {105});
  EXPECT_EQ(map.run_count(), 1u);
  EXPECT_EQ(map.Find(24)->value.slot, 114u);
  EXPECT_EQ(map.Find(12)->count, 13u);
  EXPECT_FALSE(map.Find(25).has_value());
  EXPECT_FALSE(map.Find(9).has_value());
}

TEST(RunMap, SplitsAndSaysWhatWasThere) {
  Map map;
  map.Assign(0, 100, {1000});
  const auto removed = map.Erase(40, 20);
  ASSERT_EQ(removed.size(), 1u);
  EXPECT_EQ(removed[0], (Map::Run{40, 20, {1040}}));
  EXPECT_EQ(map.run_count(), 2u);
  EXPECT_EQ(map.Find(60)->value.slot, 1060u);
  EXPECT_TRUE(map.Assign(0, 40, {1000}).empty());
}

TEST(RunMap, BehavesAsAMapOfKeys) {
  for (uint32_t seed = 1; seed <= 8; ++seed) {
    std::mt19937 random(seed);
    Map map;
    Naive naive;
    auto number = [&](uint64_t limit) { return random() % limit; };
    for (int step = 0; step < 3000; ++step) {
      const uint64_t first = number(400);
      const uint64_t count = 1 + number(step % 3 == 0 ? 60 : 4);
      switch (number(4)) {
        case 0: {
          Naive gone;
          for (const auto& run : map.Erase(first, count)) {
            for (uint64_t i = 0; i < run.count; ++i) gone[run.first + i] = run.value.Plus(i).slot;
          }
          Naive expected;
          for (uint64_t i = first; i < first + count; ++i) {
            if (const auto it = naive.find(i); it != naive.end()) {
              expected.insert(*it);
              naive.erase(it);
            }
          }
          ASSERT_EQ(gone, expected);
          break;
        }
        case 1: {
          const SlotValue zero{kZeroSlot};
          map.Assign(first, count, zero);
          for (uint64_t i = 0; i < count; ++i) naive[first + i] = kZeroSlot;
          break;
        }
        default: {
          // Often a value that continues its neighbours.
          const uint64_t value = number(2) ? first + 1000 : number(5000);
          map.Assign(first, count, {value});
          for (uint64_t i = 0; i < count; ++i) naive[first + i] = value + i;
        }
      }
      ASSERT_EQ(Flatten(map), naive) << "seed " << seed << " step " << step;
      const uint64_t probe = number(480);
      const auto found = map.Find(probe);
      ASSERT_EQ(found.has_value(), naive.count(probe) == 1);
      if (found) {
        ASSERT_EQ(found->value.slot, naive[probe]);
      }
      Naive pieces;
      uint64_t at = first;
      map.ForEachPiece(first, count, [&](uint64_t from, uint64_t n, const SlotValue* value) {
        ASSERT_EQ(from, at);
        at += n;
        for (uint64_t i = 0; value && i < n; ++i) pieces[from + i] = value->Plus(i).slot;
      });
      ASSERT_EQ(at, first + count);
      for (uint64_t i = first; i < first + count; ++i) {
        ASSERT_EQ(pieces.count(i), naive.count(i));
        if (pieces.count(i)) {
          ASSERT_EQ(pieces[i], naive[i]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace starling::checkpoint
