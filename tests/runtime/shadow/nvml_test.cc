#include "runtime/shadow/nvml.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "runtime/shadow/shadow.h"
#include "tests/runtime/scratch.h"

namespace starling::shadow {
namespace {

TEST(NvmlLoad, IsNotMissedWhereItIsNot) {
  const auto nvml = Nvml::Load("libthat-is-not-there.so.1");
  EXPECT_EQ(nvml.status().code(), absl::StatusCode::kNotFound);
  // A library that is there and is not NVML.
  const auto other = Nvml::Load("libm.so.6");
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
  // One that is there, without a driver.
  setenv("FAKE_NVML_DEAD", "1", 1);
  const auto dead = Nvml::Load(FAKE_NVML_LIBRARY);
  unsetenv("FAKE_NVML_DEAD");
  EXPECT_EQ(dead.status().code(), absl::StatusCode::kFailedPrecondition);
}

// Against a library of our own that answers as NVIDIA's header says (fake_nvml.c): a GPU there is
// none here.
class NvmlTest : public testing::Test {
 protected:
  void SetUp() override {
    setenv("FAKE_NVML", (scratch_ / "state").c_str(), 1);
    auto nvml = Nvml::Load(FAKE_NVML_LIBRARY);
    ASSERT_TRUE(nvml.ok()) << nvml.status();
    nvml_ = *std::move(nvml);
  }
  GpuReading Take(const std::string& state) {
    EXPECT_TRUE(WriteFileAtomic(scratch_ / "state", state).ok());
    const auto reading = nvml_->Take();
    EXPECT_TRUE(reading.ok()) << reading.status();
    return reading.value_or(GpuReading());
  }

  Scratch scratch_{InMemory()};
  std::unique_ptr<Nvml> nvml_;
};

TEST_F(NvmlTest, AddsUpWhatAComponentsProcessesUse) {
  const GpuReading reading = Take(
      "gpu 0 80 1000 700\ngpu 1 30 2000 500\n"
      "process 0 11 300 50\nprocess 0 12 100 25\nprocess 1 11 200 30\nprocess 1 99 50 0\n");
  EXPECT_EQ(reading.gpus, 2u);
  EXPECT_EQ(reading.memory, 3000u);
  EXPECT_DOUBLE_EQ(reading.used.share, 1.1);
  EXPECT_EQ(reading.used.memory, 1200u);
  EXPECT_DOUBLE_EQ(reading.Of({11}).share, 0.8);
  EXPECT_EQ(reading.Of({11}).memory, 500u);
  EXPECT_DOUBLE_EQ(reading.Of({11, 12, 13}).share, 1.05);
  EXPECT_EQ(reading.Of({99}).share, 0);
  EXPECT_EQ(reading.Of({99}).memory, 50u);
  EXPECT_EQ(reading.Of({}).memory, 0u);
}

TEST_F(NvmlTest, SharesAGpuWhereTheDriverDoesNot) {
  const GpuReading reading =
      Take("no-samples\ngpu 0 80 1000 700\nprocess 0 11 300 0\ndrawing 0 12 100\n");
  EXPECT_DOUBLE_EQ(reading.Of({11}).share, 0.4);
  EXPECT_DOUBLE_EQ(reading.Of({12}).share, 0.4);
  EXPECT_EQ(reading.Of({12}).memory, 100u);
}

TEST_F(NvmlTest, CountsWhatComputesAndDrawsOnce) {
  const GpuReading reading =
      Take("gpu 0 80 1000 700\nprocess 0 11 300 80\ndrawing 0 11 300\nprocess 0 12 -1 0\n");
  EXPECT_EQ(reading.Of({11}).memory, 300u);
  EXPECT_DOUBLE_EQ(reading.Of({11}).share, 0.8);
  EXPECT_EQ(reading.Of({12}).memory, 0u);  // its driver does not know
}

// What was told once is not told again.
TEST_F(NvmlTest, WhoHasStoppedUsesNothing) {
  EXPECT_DOUBLE_EQ(Take("gpu 0 80 1000 700\nprocess 0 11 300 80\n").Of({11}).share, 0.8);
  EXPECT_DOUBLE_EQ(Take("gpu 0 0 1000 700\nprocess 0 11 300 0\n").Of({11}).share, 0);
  EXPECT_DOUBLE_EQ(Take("gpu 0 40 1000 700\nprocess 0 11 300 40\n").Of({11}).share, 0.4);
}

TEST_F(NvmlTest, TakesManyProcesses) {
  std::string state = "gpu 0 100 100000 90000\n";
  for (int pid = 1; pid <= 300; ++pid) absl::StrAppend(&state, "process 0 ", pid, " 10 1\n");
  const GpuReading reading = Take(state);
  EXPECT_EQ(reading.processes.size(), 300u);
  EXPECT_DOUBLE_EQ(reading.Of({300}).share, 0.01);
}

TEST_F(NvmlTest, AGpuThatIsLostIsLeftOut) {
  const GpuReading reading = Take("gpu 0 80 1000 700\ngpu 1 20 1000 100\nbroken 0\n");
  EXPECT_EQ(reading.gpus, 1u);
  EXPECT_DOUBLE_EQ(reading.used.share, 0.2);
  EXPECT_TRUE(WriteFileAtomic(scratch_ / "state", "gpu 0 80 1000 700\nbroken 0\n").ok());
  EXPECT_EQ(nvml_->Take().status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(NvmlTest, ShadowsForecastIt) {
  const std::string group = scratch_ / "group";
  ASSERT_TRUE(MakeDirectories(group).ok());
  ASSERT_TRUE(WriteFileAtomic(group + "/cpu.stat", "usage_usec 1\n").ok());
  ASSERT_TRUE(WriteFileAtomic(group + "/cgroup.procs", "11\n12\n").ok());
  Shadow::Options options;
  options.gpus = true;
  Shadow shadow(Sampler(group, scratch_ / "proc", std::nullopt), options);
  Shadow without(Sampler(group, scratch_ / "proc", std::nullopt), {});
  ASSERT_EQ(shadow.metrics(), static_cast<int>(kMetricCount));
  ASSERT_EQ(without.metrics(), static_cast<int>(kGpu));
  std::chrono::steady_clock::time_point now;
  const auto tell = [](Metric, const uint8_t*, size_t) {};
  for (int i = 0; i < 60; ++i) {
    const GpuReading reading =
        Take("gpu 0 80 1000 700\nprocess 0 11 300 50\nprocess 0 12 100 25\nprocess 0 13 100 5\n");
    now += std::chrono::seconds(1);
    ASSERT_TRUE(shadow.Step(now, 1.7e9 + i, tell, &reading).ok());
    ASSERT_TRUE(without.Step(now, 1.7e9 + i, tell).ok());
  }
  EXPECT_NEAR(shadow.forecaster(kGpu).At(2).median, 0.75, 0.01);
  EXPECT_NEAR(shadow.forecaster(kGpuMemory).At(2).median, 400, 1);
  EXPECT_TRUE(std::isnan(without.last().values[kGpu]));
  // What was learned goes to a host without GPUs and is not missed there.
  EXPECT_TRUE(without.Restore(shadow.Save()).ok());
  // An earlier second without an answer is a gap, not a zero.
  ASSERT_TRUE(shadow.Step(now += std::chrono::seconds(1), 1.7e9 + 60, tell).ok());
  EXPECT_NEAR(shadow.forecaster(kGpu).At(0).median, 0.75, 0.01);
}

}  // namespace
}  // namespace starling::shadow
