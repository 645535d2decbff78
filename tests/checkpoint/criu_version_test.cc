#include "checkpoint/criu_version.h"

#include <gtest/gtest.h>

namespace starling::checkpoint {
namespace {

TEST(CriuVersion, ReadsWhatCriuPrints) {
  EXPECT_EQ(ParseCriuVersion("Version: 3.17.1\n").value(), (CriuVersion{3, 17, 1}));
  EXPECT_EQ(ParseCriuVersion("Version: 4.2\nGitID: v4.2\n").value(), (CriuVersion{4, 2, 0}));
  EXPECT_EQ(ParseCriuVersion("3.17").value(), (CriuVersion{3, 17, 0}));
}

TEST(CriuVersion, RefusesEverythingElse) {
  for (const char* text : {"", "Version:", "3", "3.", ".17", "3.17.1.2", "3.x", "-3.17", "3. 17",
                           "4.2-rc1", "0.1", "3.171717", "criu 3.17"}) {
    EXPECT_EQ(ParseCriuVersion(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(CriuVersion, OrdersByNumber) {
  EXPECT_LT((CriuVersion{3, 17, 1}), (CriuVersion{4, 0, 0}));
  EXPECT_LT((CriuVersion{3, 9, 0}), (CriuVersion{3, 17, 0}));
  EXPECT_EQ(FormatCriuVersion({3, 17, 1}), "3.17.1");
  EXPECT_EQ(FormatCriuVersion({4, 2, 0}), "4.2");
}

}  // namespace
}  // namespace starling::checkpoint
