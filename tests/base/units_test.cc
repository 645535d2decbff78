#include "base/units.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace starling {
namespace {

TEST(ParseBytes, TakesWhatPeopleWrite) {
  EXPECT_EQ(*ParseBytes("4096"), 4096u);
  EXPECT_EQ(*ParseBytes("64K"), 64 * kKiB);
  EXPECT_EQ(*ParseBytes("1.5G"), kGiB + kGiB / 2);
  EXPECT_EQ(*ParseBytes("256MiB"), 256 * kMiB);
  EXPECT_EQ(*ParseBytes("256 mb"), 256 * kMiB);
}

TEST(ParseBytes, NamesWhatItRefuses) {
  for (const char* text : {"", "K", "-1", "12Q", "nan", "1e30G", "five"}) {
    const auto bytes = ParseBytes(text);
    ASSERT_FALSE(bytes.ok()) << text;
    EXPECT_NE(bytes.status().message().find(text), std::string::npos);
  }
}

TEST(FormatBytes, ReadsWell) {
  EXPECT_EQ(FormatBytes(17), "17 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes(256 * kMiB), "256.0 MiB");
}

TEST(FormatTime, ReadsWell) {
  EXPECT_EQ(FormatTime(0.00085), "850 us");
  EXPECT_EQ(FormatTime(0.0853), "85.3 ms");
  EXPECT_EQ(FormatTime(12.34), "12.3 s");
  EXPECT_EQ(FormatTime(245), "4 min 5 s");
  EXPECT_EQ(FormatTime(3 * 3600 + 120), "3 h 2 min");
  EXPECT_EQ(FormatTime(5 * 86400 + 3600), "5 d 1 h");
  EXPECT_EQ(FormatTime(-1), "?");
  EXPECT_EQ(FormatTime(std::nan("")), "?");
  EXPECT_EQ(FormatTime(std::numeric_limits<double>::infinity()), "?");
}

}  // namespace
}  // namespace starling
