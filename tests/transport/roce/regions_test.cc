#include "transport/roce/regions.h"

#include <gtest/gtest.h>

#include <set>

namespace starling::transport::roce {
namespace {

TEST(RoceRegions, OnlyLivingKeysLeadToMemory) {
  RegionTable table(1);
  std::vector<std::byte> memory(1000);
  const auto start = reinterpret_cast<uint64_t>(memory.data());
  const uint32_t key = *table.Add(memory, Access::kRemoteWrite);
  EXPECT_EQ(table.FindRemote(key, start + 10, 990, Access::kRemoteWrite), &memory[10]);
  EXPECT_EQ(table.FindRemote(key, start + 1000, 0, Access::kRemoteWrite), memory.data() + 1000);
  EXPECT_EQ(table.FindRemote(key, start + 10, 991, Access::kRemoteWrite), nullptr);
  EXPECT_EQ(table.FindRemote(key, start - 1, 1, Access::kRemoteWrite), nullptr);
  EXPECT_EQ(table.FindRemote(key, start, UINT64_MAX, Access::kRemoteWrite), nullptr);
  EXPECT_EQ(table.FindRemote(key, UINT64_MAX, 2, Access::kRemoteWrite), nullptr);
  EXPECT_EQ(table.FindRemote(key, start, 1, Access::kRemoteRead), nullptr);
  EXPECT_NE(table.FindLocal(key, start, 1), nullptr);
  EXPECT_EQ(table.FindLocal(0, start, 1), nullptr);
  EXPECT_EQ(table.FindLocal(UINT32_MAX, start, 1), nullptr);
  table.Remove(key);
  EXPECT_EQ(table.FindLocal(key, start, 1), nullptr);
  EXPECT_EQ(table.size(), 0u);
  table.Remove(key);  // twice does no harm
  EXPECT_EQ(table.size(), 0u);
}

TEST(RoceRegions, KeysOfTheSamePlaceDiffer) {
  RegionTable table(1);
  std::vector<std::byte> memory(10);
  uint32_t last = 0;
  for (int i = 0; i < 1000; ++i) {
    const uint32_t key = *table.Add(memory, Access::kLocal);
    EXPECT_NE(key, 0u);
    EXPECT_NE(key, last);
    table.Remove(key);
    last = key;
  }
}

TEST(RoceRegions, FullTableSaysSo) {
  RegionTable table(1);
  std::vector<std::byte> memory(10);
  std::set<uint32_t> keys;
  while (const auto key = table.Add(memory, Access::kLocal)) keys.insert(*key);
  EXPECT_EQ(keys.size(), 16384u);
  table.Remove(*keys.begin());
  EXPECT_TRUE(table.Add(memory, Access::kLocal).has_value());
}

}  // namespace
}  // namespace starling::transport::roce
