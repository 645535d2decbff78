#include "runtime/migration/ghost_value.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace starling::migration {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kMiB = 1 << 20;

KeptGhost Cold(uint64_t mib, double age_s = 0, int priority = 0) {
  return {.priority = priority, .bytes = mib * kMiB, .age_s = age_s};
}
KeptGhost Warm(uint64_t mib, double age_s = 0, int priority = 0) {
  return {.priority = priority, .warm = true, .bytes = mib * kMiB, .age_s = age_s};
}
KeptGhost WithInstants(uint64_t mib, bool silent = false) {
  return {.warm = true, .instants = true, .silent = silent, .bytes = mib * kMiB};
}

TEST(GhostValueTest, WhatSavesMoreIsWorthMore) {
  EXPECT_LT(ValueOf(Cold(10)), ValueOf(Warm(10)));
  EXPECT_LT(ValueOf(Warm(10)), ValueOf(WithInstants(10)));
  EXPECT_EQ(ValueOf(Warm(0)), 0);
}

TEST(GhostValueTest, HalfOfItIsGoneForEachDay) {
  EXPECT_DOUBLE_EQ(ValueOf(Warm(10, 86400)), ValueOf(Warm(10)) / 2);
  EXPECT_DOUBLE_EQ(ValueOf(Warm(10, 2 * 86400)), ValueOf(Warm(10)) / 4);
  // A clock that went back makes nothing worth more.
  EXPECT_DOUBLE_EQ(ValueOf(Warm(10, -5)), ValueOf(Warm(10)));
  // A cold one of today against a warm one of a week ago.
  EXPECT_GT(ValueOf(Cold(10)), ValueOf(Warm(10, 7 * 86400)));
}

struct Row {
  const char* what;
  std::vector<KeptGhost> ghosts;
  uint64_t needed_mib;
  int priority;
  std::vector<size_t> dropped;
};

TEST(GhostValueTest, TheCheapestGoFirst) {
  const Row rows[] = {
      {"nothing is kept", {}, 10, 0, {}},
      {"one that does", {Warm(20)}, 10, 0, {0}},
      {"cold before warm", {Warm(20), Cold(20)}, 10, 0, {1}},
      {"old before young", {Warm(20), Warm(20, 86400)}, 10, 0, {1}},
      {"as many as it takes", {Warm(20), Cold(5), Cold(6)}, 10, 0, {1, 2}},
      {"no more than it takes", {Cold(20), Cold(20)}, 20, 0, {0}},
      {"all of them would not do: none goes", {Warm(20), Cold(5)}, 100, 0, {}},
      {"of a component that matters more", {Warm(20, 0, 1)}, 10, 0, {}},
      {"of one that matters less, before a cold one", {Cold(20), Warm(20, 0, -1)}, 10, 0, {1}},
      {"of one that matters as much", {Warm(20, 0, 3)}, 10, 3, {0}},
      {"with instants, and its source is there", {WithInstants(20)}, 10, 0, {0}},
      {"it may be all that is left", {WithInstants(20, true)}, 10, 0, {}},
      {"one without any room does not help", {Cold(0)}, 10, 0, {}},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(ChooseToDrop(row.ghosts, row.needed_mib * kMiB, row.priority), row.dropped)
        << row.what;
  }
}

}  // namespace
}  // namespace starling::migration
