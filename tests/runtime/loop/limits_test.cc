#include "runtime/loop/limits.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/runtime/scratch.h"

namespace starling::loop {
namespace {

// Cgroups of plain files.
class LimitsTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"one", "two"}) {
      ASSERT_TRUE(MakeDirectories(scratch_ / name).ok());
      Write(name, "100\n");
    }
    Open();
  }
  void Open() {
    auto limits = Limits::Open(scratch_ / "limits.json");
    ASSERT_TRUE(limits.ok()) << limits.status();
    limits_ = *std::move(limits);
  }
  void Write(const std::string& name, const std::string& weight) {
    ASSERT_TRUE(WriteFileAtomic(scratch_ / (name + "/cpu.weight"), weight).ok());
  }
  // A file of the kernel's has what was written last and nothing else; this one may be longer.
  std::string Weight(const std::string& name) {
    return ReadFile(scratch_ / (name + "/cpu.weight")).value_or("").substr(0, 2);
  }

  Scratch scratch_{InMemory()};
  std::unique_ptr<Limits> limits_;
};

TEST_F(LimitsTest, TakesAndGivesBack) {
  ASSERT_TRUE(limits_->Degrade("one", scratch_ / "one").ok());
  EXPECT_EQ(Weight("one"), "50");
  EXPECT_TRUE(limits_->degraded("one"));
  EXPECT_FALSE(limits_->degraded("two"));
  ASSERT_TRUE(limits_->Degrade("one", scratch_ / "one").ok());
  EXPECT_EQ(Weight("one"), "50") << "once only";
  ASSERT_TRUE(limits_->Restore("one").ok());
  EXPECT_EQ(Weight("one"), "10");
  EXPECT_FALSE(limits_->degraded("one"));
  EXPECT_TRUE(limits_->Restore("two").ok());
}

TEST_F(LimitsTest, TheNextAgentKnows) {
  ASSERT_TRUE(limits_->Degrade("one", scratch_ / "one").ok());
  Open();
  EXPECT_TRUE(limits_->degraded("one"));
  ASSERT_TRUE(limits_->Degrade("two", scratch_ / "two").ok());
  ASSERT_TRUE(limits_->RestoreAll().ok());
  EXPECT_EQ(Weight("one"), "10");
  EXPECT_EQ(Weight("two"), "10");
  Open();
  EXPECT_FALSE(limits_->degraded("one"));
}

TEST_F(LimitsTest, ConfinesAndGivesTheFirstPlaceBack) {
  const std::string knob = scratch_ / "one/cpuset.cpus";
  EXPECT_EQ(limits_->Confine("one", scratch_ / "one", "2,3").code(),
            absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(WriteFileAtomic(knob, "0-1\n").ok());
  ASSERT_TRUE(limits_->Confine("one", scratch_ / "one", "2,3").ok());
  EXPECT_EQ(ReadFile(knob).value_or("").substr(0, 3), "2,3");
  EXPECT_FALSE(limits_->degraded("one"));
  ASSERT_TRUE(limits_->Confine("one", scratch_ / "one", "4,5").ok());
  ASSERT_TRUE(limits_->Degrade("one", scratch_ / "one").ok());
  // Each by itself, and over a killed agent.
  Open();
  ASSERT_TRUE(limits_->Restore("one").ok());
  EXPECT_EQ(Weight("one"), "10");
  EXPECT_EQ(ReadFile(knob).value_or("").substr(0, 3), "4,5");
  ASSERT_TRUE(limits_->RestoreAll().ok());
  EXPECT_EQ(ReadFile(knob).value_or("").substr(0, 3), "0-1");
}

TEST_F(LimitsTest, WhoIsGoneHasNone) {
  ASSERT_TRUE(limits_->Degrade("one", scratch_ / "one").ok());
  limits_->KeepOnly([](const std::string&) { return false; });
  EXPECT_FALSE(limits_->degraded("one"));
  ASSERT_TRUE(limits_->Degrade("two", scratch_ / "two").ok());
  ASSERT_TRUE(RemoveTree(scratch_ / "two").ok());
  EXPECT_TRUE(limits_->Restore("two").ok());
}

TEST_F(LimitsTest, WithoutTheControllerNothingIsTaken) {
  EXPECT_EQ(limits_->Degrade("one", scratch_ / "none").code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(limits_->degraded("one"));
}

TEST_F(LimitsTest, DamageIsPassedOver) {
  for (const char* text :
       {"", "nonsense", "[]", "{\"schema\":2}", "{\"schema\":1}", "{\"schema\":2,\"taken\":[1]}",
        "{\"schema\":2,\"taken\":{\"one\":{\"cgroup\":\"../"
        "x\",\"before\":{\"cpu.weight\":\"100\"}}}}",
        "{\"schema\":2,\"taken\":{\"one\":{\"cgroup\":\"/"
        "x\",\"before\":{\"cpu.weight\":\"much\"}}}}",
        "{\"schema\":2,\"taken\":{\"one\":{\"cgroup\":\"/x\",\"before\":{\"../x\":\"1\"}}}}",
        "{\"schema\":2,\"taken\":{\"one\":{\"cgroup\":\"/x\",\"before\":{\"io.max "
        "../x\":\"rbps=1\"}}}}",
        "{\"schema\":2,\"taken\":{\"one\":{\"cgroup\":\"/x\",\"before\":{\"io.max 8:0\":\"8:0 "
        "rbps=1\"}}}}"}) {
    ASSERT_TRUE(WriteFileAtomic(scratch_ / "limits.json", text).ok());
    Open();
    EXPECT_FALSE(limits_->degraded("one")) << text;
  }
}

// What was written last; a plain file keeps the rest of what was longer.
std::string Begins(const std::string& path, const std::string& with) {
  return ReadFile(path).value_or("").substr(0, with.size());
}

TEST_F(LimitsTest, FollowUseAndAreGivenBack) {
  const std::string quota = scratch_ / "one/cpu.max", memory = scratch_ / "one/memory.high";
  EXPECT_EQ(limits_->Fit("one", scratch_ / "one", {1500, 0, 0}).code(),
            absl::StatusCode::kFailedPrecondition)
      << "there is no such file";
  EXPECT_EQ(limits_->fitted("one"), FittedLimits());
  ASSERT_TRUE(WriteFileAtomic(quota, "max 100000\n").ok());
  ASSERT_TRUE(WriteFileAtomic(memory, "max\n").ok());
  ASSERT_TRUE(limits_->Fit("one", scratch_ / "one", {1500, 1 << 30, 0}).ok());
  EXPECT_EQ(Begins(quota, "150000 100000"), "150000 100000");
  EXPECT_EQ(Begins(memory, "1073741824"), "1073741824");
  EXPECT_EQ(Weight("one"), "10") << "is left alone";
  // Over a killed agent; one grows, the other is its own again.
  Open();
  EXPECT_EQ(limits_->fitted("one"), (FittedLimits{1500, 1 << 30, 0}));
  ASSERT_TRUE(limits_->Fit("one", scratch_ / "one", {2500, 0, 200}).ok());
  EXPECT_EQ(Begins(quota, "250000 100000"), "250000 100000");
  EXPECT_EQ(Begins(memory, "max"), "max");
  EXPECT_EQ(Begins(scratch_ / "one/cpu.weight", "200"), "200");
  ASSERT_TRUE(limits_->RestoreAll().ok());
  EXPECT_EQ(Begins(quota, "max 100000"), "max 100000");
  EXPECT_EQ(Begins(scratch_ / "one/cpu.weight", "100"), "100");
  EXPECT_EQ(limits_->fitted("one"), FittedLimits());
}

TEST_F(LimitsTest, AWeightHasAllItsReasons) {
  const std::string weight = scratch_ / "one/cpu.weight", memory = scratch_ / "one/memory.high";
  ASSERT_TRUE(WriteFileAtomic(memory, "max\n").ok());
  ASSERT_TRUE(limits_->Fit("one", scratch_ / "one", {0, 0, 400}).ok());
  ASSERT_TRUE(limits_->Degrade("one", scratch_ / "one").ok());
  EXPECT_EQ(Begins(weight, "200"), "200") << "half of what it has";
  ASSERT_TRUE(limits_->Shrink("one", scratch_ / "one", 4096).ok());
  EXPECT_EQ(Begins(weight, "20"), "20");
  EXPECT_EQ(Begins(memory, "4096"), "4096");
  Open();
  EXPECT_TRUE(limits_->degraded("one"));
  ASSERT_TRUE(limits_->Shrink("one", scratch_ / "one", 0).ok());
  EXPECT_EQ(Begins(weight, "200"), "200");
  EXPECT_EQ(Begins(memory, "max"), "max");
  ASSERT_TRUE(limits_->Restore("one").ok());
  EXPECT_EQ(Begins(weight, "400"), "400");
  ASSERT_TRUE(limits_->Fit("one", scratch_ / "one", {}).ok());
  EXPECT_EQ(Begins(weight, "100"), "100");
}

TEST_F(LimitsTest, WhatElseIsTakenDoesNotKeepItDegraded) {
  ASSERT_TRUE(WriteFileAtomic(scratch_ / "one/cpuset.cpus", "0-1\n").ok());
  ASSERT_TRUE(limits_->Confine("one", scratch_ / "one", "2,3").ok());
  ASSERT_TRUE(limits_->Degrade("one", scratch_ / "one").ok());
  ASSERT_TRUE(limits_->Restore("one").ok());
  EXPECT_FALSE(limits_->degraded("one"));
  Open();
  EXPECT_FALSE(limits_->degraded("one"));
}

TEST_F(LimitsTest, AnOlderAgentsAreTakenOver) {
  ASSERT_TRUE(WriteFileAtomic(scratch_ / "limits.json",
                              "{\"schema\":2,\"taken\":{\"one\":{\"cgroup\":\"" +
                                  (scratch_ / "one") + "\",\"before\":{\"cpu.weight\":\"100\"}}}}")
                  .ok());
  Write("one", "50\n");
  Open();
  EXPECT_TRUE(limits_->degraded("one"));
  ASSERT_TRUE(limits_->Restore("one").ok());
  EXPECT_EQ(Begins(scratch_ / "one/cpu.weight", "100"), "100");
}

TEST_F(LimitsTest, ProtectsMemoryAndTheGroupThatItIsIn) {
  const std::string one = scratch_ / "one/memory.low", two = scratch_ / "two/memory.low";
  const std::string all = scratch_ / "memory.low";
  EXPECT_EQ(limits_->Protect("one", scratch_ / "one", 1000).code(),
            absl::StatusCode::kFailedPrecondition)
      << "there is no such file";
  EXPECT_TRUE(limits_->Protect("one", scratch_ / "one", 0).ok()) << "nothing is asked for";
  for (const std::string& path : {one, two, all}) {
    ASSERT_TRUE(WriteFileAtomic(path, "0000\n").ok());
  }
  ASSERT_TRUE(limits_->Protect("one", scratch_ / "one", 4000).ok());
  ASSERT_TRUE(limits_->Protect("two", scratch_ / "two", 2000).ok());
  EXPECT_EQ(Begins(one, "4000"), "4000");
  EXPECT_EQ(Begins(all, "6000"), "6000");
  // The next agent knows; another size is another one; what else is taken goes by itself.
  Open();
  ASSERT_TRUE(limits_->Degrade("one", scratch_ / "one").ok());
  ASSERT_TRUE(limits_->Protect("one", scratch_ / "one", 5000).ok());
  EXPECT_EQ(Begins(all, "7000"), "7000");
  ASSERT_TRUE(limits_->Restore("one").ok());
  EXPECT_EQ(Begins(one, "5000"), "5000");
  limits_->KeepOnly([](const std::string& name) { return name == "one"; });
  EXPECT_EQ(Begins(all, "5000"), "5000") << "two has ended";
  ASSERT_TRUE(limits_->RestoreAll().ok());
  EXPECT_EQ(Begins(one, "0000"), "0000");
  EXPECT_EQ(Begins(all, "0"), "0");
  Open();
  ASSERT_TRUE(limits_->Protect("one", scratch_ / "one", 3000).ok());
  EXPECT_EQ(Begins(one, "3000"), "3000");
}

TEST_F(LimitsTest, HoldsStorageToALimitForEachDevice) {
  const std::string knob = scratch_ / "one/io.max";
  const auto hold = [&](int64_t bytes_per_s, const std::vector<std::string>& devices) {
    return limits_->HoldIo("one", scratch_ / "one", bytes_per_s, devices);
  };
  EXPECT_EQ(hold(1000, {"8:0"}).code(), absl::StatusCode::kFailedPrecondition) << "no such file";
  ASSERT_TRUE(WriteFileAtomic(knob, "7:0 rbps=5 wbps=max riops=max wiops=max\n").ok());
  const absl::Status without = hold(1000, {});
  EXPECT_EQ(without.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(without.message().find("resources.storage_devices"), absl::string_view::npos);
  ASSERT_TRUE(hold(1000, {"254:0"}).ok());
  EXPECT_EQ(Begins(knob, "254:0 rbps=1000 wbps=1000"), "254:0 rbps=1000 wbps=1000");
  Open();
  ASSERT_TRUE(hold(2000, {"254:0"}).ok());
  EXPECT_EQ(Begins(knob, "254:0 rbps=2000"), "254:0 rbps=2000");
  ASSERT_TRUE(hold(0, {"254:0"}).ok());
  EXPECT_EQ(Begins(knob, "254:0 rbps=max wbps=max"), "254:0 rbps=max wbps=max");
  // One that was limited before has that again.
  ASSERT_TRUE(WriteFileAtomic(knob, "7:0 rbps=5 wbps=max riops=max wiops=max\n").ok());
  ASSERT_TRUE(hold(1000, {"7:0"}).ok());
  ASSERT_TRUE(limits_->RestoreAll().ok());
  EXPECT_EQ(Begins(knob, "7:0 rbps=5 wbps=max"), "7:0 rbps=5 wbps=max");
  // Another device, in the place of one that is gone.
  ASSERT_TRUE(hold(1000, {"7:0"}).ok());
  ASSERT_TRUE(hold(1000, {"8:16"}).ok());
  EXPECT_EQ(Begins(knob, "8:16 rbps=1000 wbps=1000"), "8:16 rbps=1000 wbps=1000");
}

TEST_F(LimitsTest, PagesOut) {
  ASSERT_TRUE(WriteFileAtomic(scratch_ / "one/memory.reclaim", "").ok());
  ASSERT_TRUE(Limits::PageOut(scratch_ / "one", 4096).ok());
  EXPECT_EQ(ReadFile(scratch_ / "one/memory.reclaim").value_or(""), "4096");
  EXPECT_FALSE(Limits::PageOut(scratch_ / "none", 4096).ok());
}

}  // namespace
}  // namespace starling::loop
