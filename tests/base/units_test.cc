#include "base/units.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace starling
