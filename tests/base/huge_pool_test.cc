#include "base/huge_pool.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <vector>

namespace starling {
namespace {

TEST(HugePool, BlocksAreAlignedApartAndWritable) {
  HugePool pool;
  std::vector<std::pair<unsigned char*, size_t>> blocks;
  for (const size_t bytes : {1, 64, 24480, 24480, 500000, 600000, 3000000, 64, 1}) {
    auto* const block = static_cast<unsigned char*>(pool.allocate(bytes, 64));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % 64, 0u);
    std::memset(block, static_cast<int>(blocks.size() + 1), bytes);
    blocks.emplace_back(block, bytes);
  }
  for (size_t i = 0; i < blocks.size(); ++i) {
    for (size_t at = 0; at < blocks[i].second; ++at) ASSERT_EQ(blocks[i].first[at], i + 1);
  }
  for (const auto& [block, bytes] : blocks) pool.deallocate(block, bytes, 64);
}

TEST(HugePool, WhatWasGivenBackIsUsedAgain) {
  HugePool pool;
  std::set<void*> seen;
  for (int round = 0; round < 10; ++round) {
    std::vector<void*> blocks;
    for (int i = 0; i < 500; ++i) blocks.push_back(pool.allocate(24480, 16));
    seen.insert(blocks.begin(), blocks.end());
    for (void* const block : blocks) pool.deallocate(block, 24480, 16);
  }
  EXPECT_EQ(seen.size(), 500u);
}

TEST(HugePool, WhatCannotBeIsSaid) {
  HugePool pool;
  EXPECT_THROW((void)pool.allocate(64, 4096), std::bad_alloc);
  EXPECT_THROW((void)pool.allocate(size_t{1} << 62, 64), std::bad_alloc);
}

}  // namespace
}  // namespace starling
