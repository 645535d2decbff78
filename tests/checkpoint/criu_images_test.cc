#include "checkpoint/criu_images.h"

#include <gtest/gtest.h>

namespace starling::checkpoint {
namespace {

Pagemap Sample() {
  return {3, {{0x1000, 2, kPagePresent}, {0x7ffff000, 1, kPagePresent | kPageLazy}}};
}

TEST(CriuImages, PagemapSurvivesARoundTrip) {
  const Pagemap back = DecodePagemap(EncodePagemap(Sample())).value();
  EXPECT_EQ(back.pages_id, 3u);
  EXPECT_EQ(back.entries, Sample().entries);
}

TEST(CriuImages, PagemapIsAsCriuWritesIt) {
  // Written by CRIU 3.17.1: head with pages_id 1, then one present page at 0x400000.
  const char expected[] =
      "\x19\x43\x56\x54\x25\x40\x08\x56"
      "\x02\x00\x00\x00\x08\x01"
      "\x09\x00\x00\x00\x08\x80\x80\x80\x02\x10\x01\x20\x04";
  EXPECT_EQ(EncodePagemap({1, {{0x400000, 1, kPagePresent}}}),
            std::string(expected, sizeof(expected) - 1));
}

TEST(CriuImages, EntriesLongerThan32BitsAreSplit) {
  const uint64_t pages = (uint64_t{1} << 32) + 5;
  const Pagemap back = DecodePagemap(EncodePagemap({1, {{0, pages, kPagePresent}}})).value();
  ASSERT_EQ(back.entries.size(), 2u);
  EXPECT_EQ(back.entries[0].pages + back.entries[1].pages, pages);
  EXPECT_EQ(back.entries[1].address, back.entries[0].pages * kPageSize);
}

TEST(CriuImages, CutOrForeignBytesAreRefused) {
  const std::string good = EncodePagemap(Sample());
  size_t whole = 0;
  for (size_t size = 0; size < good.size(); ++size) {
    const auto result = DecodePagemap(absl::string_view(good).substr(0, size));
    if (result.ok()) {
      // Cut between two messages it is a shorter pagemap.
      EXPECT_LT(result->entries.size(), Sample().entries.size());
      ++whole;
    } else {
      EXPECT_EQ(result.status().code(), absl::StatusCode::kDataLoss);
    }
  }
  EXPECT_EQ(whole, 2u);
  EXPECT_FALSE(DecodePagemap(std::string(100, '\xff')).ok());
  std::string huge = good;
  huge.replace(8, 4, "\xff\xff\xff\xff");
  EXPECT_FALSE(DecodePagemap(huge).ok());
  EXPECT_FALSE(DecodeDumpStats(good).ok());
}

}  // namespace
}  // namespace starling::checkpoint
