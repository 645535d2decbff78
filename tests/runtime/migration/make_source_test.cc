#include "runtime/migration/make_source.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"

namespace starling::migration {
namespace {

TEST(ChooseTrackerTest, AutoTakesWhatWorks) {
  EXPECT_EQ(ChooseTracker("auto", {.soft_dirty = true}).value(), "soft-dirty");
  EXPECT_EQ(ChooseTracker("auto", {}).value(), "criu-predump");
}

TEST(ChooseTrackerTest, AskedForOneIsTakenOrRefused) {
  for (const char* wanted : {"soft-dirty", "hash", "criu-predump"}) {
    EXPECT_EQ(ChooseTracker(wanted, {.soft_dirty = true}).value(), wanted);
  }
  for (const char* wanted : {"soft-dirty", "hash"}) {
    const auto refused = ChooseTracker(wanted, {});
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(absl::StrContains(refused.status().message(), wanted)) << refused.status();
  }
}

}  // namespace
}  // namespace starling::migration
