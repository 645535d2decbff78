#include "runtime/migration/make_source.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"

namespace starling::migration {
namespace {

TEST(ChooseTrackerTest, AutoTakesWhatWorks) {
  const TrackerFacts facts{.soft_dirty = true, .async_protection = true};
  EXPECT_EQ(ChooseTracker("auto", facts).value(), "soft-dirty");
  EXPECT_EQ(ChooseTracker("pagemap-scan", facts).value(), "pagemap-scan");
  EXPECT_EQ(ChooseTracker("auto", {.soft_dirty = true}).value(), "soft-dirty");
  EXPECT_EQ(ChooseTracker("auto", {}).value(), "criu-predump");
}

TEST(ChooseTrackerTest, AutoLeavesMuchSharedMemoryToPreDumps) {
  TrackerFacts facts{.soft_dirty = true, .async_protection = true};
  facts.shared_bytes = kMostSharedBytes;
  EXPECT_EQ(ChooseTracker("auto", facts).value(), "soft-dirty");
  facts.shared_bytes += 4096;
  EXPECT_EQ(ChooseTracker("auto", facts).value(), "criu-predump");
  EXPECT_EQ(ChooseTracker("soft-dirty", facts).value(), "soft-dirty");
}

TEST(ChooseTrackerTest, AskedForOneIsTakenOrRefused) {
  for (const char* wanted : {"soft-dirty", "hash", "criu-predump"}) {
    EXPECT_EQ(ChooseTracker(wanted, {.soft_dirty = true}).value(), wanted);
  }
  EXPECT_FALSE(ChooseTracker("pagemap-scan", {.soft_dirty = true}).ok());
  for (const char* wanted : {"pagemap-scan", "soft-dirty", "hash"}) {
    const auto refused = ChooseTracker(wanted, {});
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(absl::StrContains(refused.status().message(), wanted)) << refused.status();
  }
}

}  // namespace
}  // namespace starling::migration
