#include "runtime/shadow/shadow.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "tests/runtime/scratch.h"

namespace starling::shadow {
namespace {

using Clock = std::chrono::steady_clock;

// A cgroup and a /proc of plain files.
class ShadowTest : public testing::Test {
 protected:
  void Write(const std::string& name, const std::string& content) {
    ASSERT_TRUE(WriteFileAtomic(scratch_ / name, content).ok());
  }
  void SetUp() override {
    ASSERT_TRUE(MakeDirectories(scratch_ / "proc/42/net").ok());
    Set(0, 1000, 0);
  }
  void Set(uint64_t cpu_us, uint64_t memory, uint64_t bytes) {
    Write("cpu.stat", absl::StrCat("usage_usec ", cpu_us, "\n"));
    Write("memory.current", absl::StrCat(memory, "\n"));
    Write("io.stat", absl::StrCat("8:0 rbytes=", bytes, " wbytes=", 2 * bytes, "\n"));
    Write("proc/42/net/dev",
          absl::StrCat("eth0: ", 3 * bytes, " 0 0 0 0 0 0 0 ", 4 * bytes, " 0 0 0 0 0 0 0\n"));
  }
  Sampler MakeSampler() { return Sampler(scratch_.path(), scratch_ / "proc", 42); }

  Scratch scratch_{InMemory()};
};

TEST_F(ShadowTest, RatesNeedTwoReadings) {
  Sampler sampler = MakeSampler();
  const Clock::time_point start;
  auto sample = sampler.Take(start);
  ASSERT_TRUE(sample.ok());
  EXPECT_TRUE(std::isnan(sample->values[kCpu]));
  EXPECT_EQ(sample->values[kMemory], 1000);
  EXPECT_TRUE(std::isnan(sample->cpu_pressure));
  Set(3000000, 2000, 500);
  Write("cpu.pressure", "some avg10=50.00 avg60=0.00 avg300=0.00 total=1\n");
  sample = sampler.Take(start + std::chrono::seconds(2));
  ASSERT_TRUE(sample.ok());
  EXPECT_DOUBLE_EQ(sample->values[kCpu], 1.5);
  EXPECT_DOUBLE_EQ(sample->values[kMemory], 2000);
  EXPECT_DOUBLE_EQ(sample->values[kDiskRead], 250);
  EXPECT_DOUBLE_EQ(sample->values[kDiskWrite], 500);
  EXPECT_DOUBLE_EQ(sample->values[kNetIn], 750);
  EXPECT_DOUBLE_EQ(sample->values[kNetOut], 1000);
  EXPECT_DOUBLE_EQ(sample->cpu_pressure, 0.5);
}

TEST_F(ShadowTest, ACounterThatWentBackIsNotARate) {
  Sampler sampler = MakeSampler();
  const Clock::time_point start;
  Set(5000000, 1000, 900);
  ASSERT_TRUE(sampler.Take(start).ok());
  Set(1000, 1000, 10);
  auto sample = sampler.Take(start + std::chrono::seconds(1));
  ASSERT_TRUE(sample.ok());
  EXPECT_TRUE(std::isnan(sample->values[kCpu]));
  EXPECT_TRUE(std::isnan(sample->values[kNetIn]));
  Set(501000, 1000, 20);
  sample = sampler.Take(start + std::chrono::seconds(2));
  ASSERT_TRUE(sample.ok());
  EXPECT_DOUBLE_EQ(sample->values[kCpu], 0.5);
}

TEST_F(ShadowTest, DoesNotCountCacheThatNobodyUses) {
  Write("memory.stat", "anon 300\ninactive_file 400\n");
  Sampler sampler = MakeSampler();
  auto sample = sampler.Take(Clock::time_point());
  ASSERT_TRUE(sample.ok());
  EXPECT_EQ(sample->values[kMemory], 600);
  // Two files are not read at one moment.
  Write("memory.stat", "inactive_file 4000\n");
  sample = sampler.Take(Clock::time_point());
  ASSERT_TRUE(sample.ok());
  EXPECT_EQ(sample->values[kMemory], 0);
}

TEST_F(ShadowTest, SaysWhenTheComponentIsGone) {
  Sampler sampler("/nonexistent", "/proc", std::nullopt);
  EXPECT_EQ(sampler.Take(Clock::time_point()).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ShadowTest, TellsForecastsAndKeepsModels) {
  Shadow shadow(MakeSampler(), {});
  Clock::time_point now;
  predictor::Summary known[kMetricCount];
  uint64_t cpu_us = 0;
  const auto tell = [&known](Metric metric, const uint8_t* message, size_t size) {
    EXPECT_TRUE(predictor::ReadSummary(message, size, known[metric]));
  };
  for (int i = 0; i < 200; ++i) {
    cpu_us += 500000 + 1000 * (i % 7);
    Set(cpu_us, 1 << 20, static_cast<uint64_t>(i) * 100);
    ASSERT_TRUE(shadow.Step(now += std::chrono::seconds(1), 1.7e9 + i, tell).ok());
  }
  EXPECT_NEAR(known[kCpu].At(0).median, 0.5, 0.02);
  EXPECT_NEAR(known[kMemory].At(2).median, 1 << 20, 1 << 13);
  EXPECT_NEAR(known[kDiskRead].At(0).median, 100, 5);

  Shadow other(MakeSampler(), {});
  ASSERT_TRUE(other.Restore(shadow.Save()).ok());
  EXPECT_EQ(other.forecaster(kCpu).steps(), shadow.forecaster(kCpu).steps());
  EXPECT_EQ(other.forecaster(kCpu).At(1).median, shadow.forecaster(kCpu).At(1).median);
  EXPECT_FALSE(other.Restore({"nonsense"}).ok());
  EXPECT_EQ(other.forecaster(kCpu).steps(), shadow.forecaster(kCpu).steps());
}

}  // namespace
}  // namespace starling::shadow
