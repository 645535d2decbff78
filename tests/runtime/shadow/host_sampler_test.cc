#include "runtime/shadow/host_sampler.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/file.h"
#include "tests/runtime/scratch.h"

namespace starling::shadow {
namespace {

TEST(HostSampler, SeesProcessorsAndMemory) {
  Scratch scratch(InMemory());
  const auto write = [&](const char* name, const std::string& text) {
    ASSERT_TRUE(WriteFileAtomic(scratch / name, text).ok());
  };
  write("meminfo", "MemTotal: 1000 kB\nMemAvailable: 400 kB\nSwapFree: 8 kB\n");
  write("stat", "cpu  100 0 0 100 0 0 0 0 0 0\n");
  HostSampler sampler(scratch.path());
  auto use = sampler.Take();
  ASSERT_TRUE(use.ok()) << use.status();
  EXPECT_TRUE(std::isnan(use->processors_used));
  EXPECT_EQ(use->memory, 1000u * 1024);
  EXPECT_EQ(use->memory_used, 600u * 1024);
  EXPECT_EQ(use->swap_free, 8u * 1024);
  write("stat", "cpu  125 0 0 175 0 0 0 0 0 0\n");
  use = sampler.Take();
  ASSERT_TRUE(use.ok());
  EXPECT_DOUBLE_EQ(use->processors_used, use->processors / 4);
  // No time passed between two looks.
  use = sampler.Take();
  ASSERT_TRUE(use.ok());
  EXPECT_TRUE(std::isnan(use->processors_used));
}

TEST(HostSampler, RefusesAProcThatIsNone) {
  Scratch scratch(InMemory());
  EXPECT_FALSE(HostSampler(scratch.path()).Take().ok());
  ASSERT_TRUE(WriteFileAtomic(scratch / "meminfo", "nonsense").ok());
  ASSERT_TRUE(WriteFileAtomic(scratch / "stat", "nonsense").ok());
  EXPECT_EQ(HostSampler(scratch.path()).Take().status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(HostSampler, WorksOnThisHost) {
  HostSampler sampler;
  const auto use = sampler.Take();
  ASSERT_TRUE(use.ok()) << use.status();
  EXPECT_GE(use->processors, 1);
  EXPECT_GT(use->memory, use->memory_used);
}

}  // namespace
}  // namespace starling::shadow
