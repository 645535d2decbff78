#include "runtime/loop/host_watch.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "libstarling/starling.h"
#include "runtime/decisions/decide.h"
#include "tests/runtime/scratch.h"

namespace starling::loop {
namespace {

using reservations::Amounts;
using reservations::Resource;
using std::chrono::seconds;

constexpr auto kCpu = static_cast<size_t>(Resource::kCpu);
constexpr auto kMemory = static_cast<size_t>(Resource::kMemory);

// A host of plain files.
class HostWatchTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(MakeDirectories(scratch_ / "proc").ok());
    for (const char* name : {"one", "two"}) {
      ASSERT_TRUE(MakeDirectories(Group(name)).ok());
      Use(name, 0, 0);
    }
    auto listener = hints::HintListener::Start(scratch_ / "hints");
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
    watch_ = std::make_unique<HostWatch>(1, listener_.get(), scratch_ / "proc");
  }
  std::string Group(const std::string& name) { return scratch_ / name; }
  void Write(const std::string& path, const std::string& text) {
    ASSERT_TRUE(WriteFileAtomic(path, text).ok());
  }
  void Use(const std::string& name, int64_t cpu_us, int64_t memory) {
    Write(Group(name) + "/cpu.stat", absl::StrCat("usage_usec ", cpu_us, "\n"));
    Write(Group(name) + "/memory.current", absl::StrCat(memory, "\n"));
  }
  // A second in which the host was busy for `busy` of 100 ticks, with so many KiB in use.
  void Second(int busy, int64_t used_kib) {
    busy_ += busy;
    all_ += 100;
    Write(scratch_ / "proc/stat", absl::StrCat("cpu ", busy_, " 0 0 ", all_ - busy_, " 0 0 0 0\n"));
    Write(scratch_ / "proc/meminfo",
          absl::StrCat("MemTotal: 1000000 kB\nMemAvailable: ", 1000000 - used_kib, " kB\n"));
    now_ += seconds(1);
    time_s_ += 1;
    ASSERT_TRUE(watch_->Step(now_, time_s_).ok());
  }
  decisions::Situation Situation() {
    decisions::Situation situation;
    watch_->Describe(now_, situation);
    return situation;
  }

  Scratch scratch_{InMemory()};
  std::unique_ptr<hints::HintListener> listener_;
  std::unique_ptr<HostWatch> watch_;
  int64_t busy_ = 1000, all_ = 10000;
  TimePoint now_{seconds(5000)};
  double time_s_ = 1.7e9;
};

TEST_F(HostWatchTest, SeesPartsRestAndSum) {
  ASSERT_TRUE(watch_->Add("one", Group("one"), std::nullopt, {}).ok());
  for (int i = 0; i < 30; ++i) {
    Use("one", int64_t{500000} * i, 100 << 20);
    Second(60, 300 << 10);
  }
  const decisions::Situation situation = Situation();
  ASSERT_EQ(situation.components.size(), 1u);
  EXPECT_NEAR(situation.components[0].use[kCpu].now, 500, 1);
  EXPECT_NEAR(situation.components[0].use[kMemory].at[2][2], 100 << 20, 1 << 20);
  EXPECT_EQ(situation.capacity[Resource::kMemory], int64_t{1000000} * 1024);
  // All of the host, its own use included.
  EXPECT_NEAR(situation.demand[kMemory].now, 300 << 20, 1);
  EXPECT_NEAR(situation.demand[kMemory].at[1][0], 300 << 20, 3 << 20);
  EXPECT_NEAR(situation.demand[kCpu].now,
              0.6 * static_cast<double>(situation.capacity[Resource::kCpu]), 1);
  EXPECT_EQ(watch_->Used().at("one")[Resource::kMemory], 100 << 20);
}

TEST_F(HostWatchTest, OfTheHostItselfAsMuchCountsAsLasts) {
  ASSERT_TRUE(watch_->Add("one", Group("one"), std::nullopt, {}).ok());
  Use("one", 0, 100 << 20);
  for (int i = 0; i < 30; ++i) Second(10, 200 << 10);
  const double before = Situation().demand[kCpu].now;
  Second(90, 200 << 10);
  EXPECT_NEAR(Situation().demand[kCpu].now, before, 1);
  EXPECT_LT(Situation().demand[kCpu].at[0][2], 2 * before);
  Second(90, 200 << 10);
  EXPECT_NEAR(Situation().demand[kCpu].now, 9 * before, 9);
  Second(10, 200 << 10);
  EXPECT_NEAR(Situation().demand[kCpu].now, before, 1);
  // A component's counts at once.
  Use("one", 500000, 100 << 20);
  Second(60, 200 << 10);
  EXPECT_NEAR(Situation().demand[kCpu].now, before + 500, 1);
}

TEST_F(HostWatchTest, WhatAMoveTakesIsNoDemand) {
  ASSERT_TRUE(watch_->Add("one", Group("one"), std::nullopt, {}).ok());
  for (int i = 0; i < 30; ++i) Second(10, 200 << 10);
  const double before = Situation().demand[kCpu].now;
  EXPECT_EQ(Situation().moving, 0);
  watch_->SetMoving({"one"}, false);
  Second(95, 200 << 10);
  EXPECT_EQ(Situation().moving, 1);
  EXPECT_NEAR(Situation().demand[kCpu].now, before, 1);
  watch_->SetMoving({"one"}, false);
  Second(95, 200 << 10);
  watch_->SetMoving({}, false);
  Second(60, 200 << 10);
  EXPECT_NEAR(Situation().demand[kCpu].now, before, 1);
  EXPECT_LT(Situation().demand[kCpu].at[0][2], 2 * before);
  // What stays when it has gone is demand.
  Second(60, 200 << 10);
  EXPECT_NEAR(Situation().demand[kCpu].now, 6 * before, 6);
}

TEST_F(HostWatchTest, WhatAnArrivalTakesIsNoDemand) {
  for (int i = 0; i < 30; ++i) Second(10, 200 << 10);
  const double before = Situation().demand[kCpu].now;
  watch_->SetMoving({}, true);
  Second(95, 200 << 10);
  EXPECT_EQ(Situation().moving, 0);
  EXPECT_NEAR(Situation().demand[kCpu].now, before, 1);
  watch_->SetMoving({}, false);
  Second(60, 200 << 10);
  Second(60, 200 << 10);
  EXPECT_NEAR(Situation().demand[kCpu].now, 6 * before, 6);
}

TEST_F(HostWatchTest, WhatLeavesIsNotForeseen) {
  ASSERT_TRUE(watch_->Add("one", Group("one"), std::nullopt, {}).ok());
  ASSERT_TRUE(watch_->Add("two", Group("two"), std::nullopt, {}).ok());
  for (int i = 0; i < 30; ++i) {
    Use("one", 0, 100 << 20);
    Use("two", 0, 50 << 20);
    Second(10, 200 << 10);
  }
  EXPECT_NEAR(Situation().demand[kMemory].now, 200 << 20, 1);
  watch_->SetMoving({"one"}, false);
  Second(10, 200 << 10);
  EXPECT_NEAR(Situation().demand[kMemory].now, 100 << 20, 1);
  EXPECT_LT(Situation().demand[kMemory].at[0][2], 120 << 20);
  EXPECT_EQ(Situation().components.size(), 1u);
  // It was called off.
  watch_->SetMoving({}, false);
  Second(10, 200 << 10);
  EXPECT_NEAR(Situation().demand[kMemory].now, 200 << 20, 1);
  watch_->Remove("one");
  watch_->Remove("two");
  Second(10, 200 << 10);
  EXPECT_TRUE(Situation().components.empty());
  EXPECT_NEAR(Situation().demand[kMemory].now, 200 << 20, 1);
}

TEST_F(HostWatchTest, TakesUpWhatWasLearned) {
  ASSERT_TRUE(watch_->Add("one", Group("one"), std::nullopt, {}).ok());
  for (int i = 0; i < 40; ++i) {
    Use("one", 0, 100 << 20);
    Second(10, 200 << 10);
  }
  const auto saved = watch_->Save().at("one");
  HostWatch other(1, nullptr, scratch_ / "proc");
  ASSERT_TRUE(other.Add("one", Group("one"), std::nullopt, saved).ok());
  ASSERT_TRUE(other.Step(now_ + seconds(1), time_s_ + 1).ok());
  const auto shown = other.ShowComponents();
  ASSERT_EQ(shown.size(), 1u);
  EXPECT_GT(shown[0].metrics(0).ahead(0).outcomes(), 30u);
  // What is damaged is learned afresh, and said.
  EXPECT_FALSE(other.Add("one", Group("one"), std::nullopt, {"nonsense"}).ok());
  ASSERT_TRUE(other.Step(now_ + seconds(2), time_s_ + 2).ok());
  EXPECT_EQ(other.ShowComponents()[0].metrics(0).ahead(0).outcomes(), 0u);
}

TEST_F(HostWatchTest, TakesUpWhatWasLearnedOfTheHost) {
  for (int i = 0; i < 100; ++i) Second(30 + i % 3, 200 << 10);
  const auto saved = watch_->SaveHost();
  HostWatch other(1, nullptr, scratch_ / "proc");
  EXPECT_TRUE(other.RestoreHost(saved).ok());
  EXPECT_EQ(other.SaveHost(), saved);
  HostWatch slower(2, nullptr, scratch_ / "proc");
  EXPECT_FALSE(slower.RestoreHost(saved).ok());
  EXPECT_FALSE(other.RestoreHost({"nonsense", "", "nonsense"}).ok());
  EXPECT_EQ(other.SaveHost(), saved);
  EXPECT_TRUE(other.RestoreHost({}).ok());
}

TEST_F(HostWatchTest, SaysWhichExpertHasWhichShare) {
  watch_ = std::make_unique<HostWatch>(
      1, nullptr, scratch_ / "proc", nullptr,
      predictor::kDefaultExperts & ~predictor::Only(predictor::kRegression));
  ASSERT_TRUE(watch_->Add("one", Group("one"), std::nullopt, {}).ok());
  for (int i = 0; i < 60; ++i) {
    Use("one", 0, (100 + i % 4) << 20);
    Second(10, 200 << 10);
  }
  const auto shown = watch_->ShowComponents(true);
  ASSERT_EQ(shown.size(), 1u);
  for (const v1::MetricForecast& metric : shown[0].metrics()) {
    for (const v1::ForecastAhead& ahead : metric.ahead()) {
      double sum = 0;
      for (const v1::ExpertShare& share : ahead.experts()) {
        EXPECT_NE(share.name(), "regression");
        sum += share.weight();
      }
      EXPECT_NEAR(sum, 1, 1e-6) << metric.metric() << " " << ahead.ahead_s();
    }
  }
  EXPECT_TRUE(watch_->ShowComponents()[0].metrics(0).ahead(0).experts().empty());
  // What other experts learned is not theirs.
  HostWatch all(1, nullptr, scratch_ / "proc");
  EXPECT_FALSE(all.Add("one", Group("one"), std::nullopt, watch_->Save().at("one")).ok());
}

TEST_F(HostWatchTest, AComponentThatIsGoneStopsNothing) {
  ASSERT_TRUE(watch_->Add("one", Group("one"), std::nullopt, {}).ok());
  ASSERT_TRUE(watch_->Add("gone", Group("gone"), std::nullopt, {}).ok());
  for (int i = 0; i < 5; ++i) {
    Use("one", 0, 100 << 20);
    Second(10, 200 << 10);
  }
  EXPECT_NEAR(Situation().components[1].use[kMemory].now, 100 << 20, 1);
  EXPECT_EQ(Situation().components[0].use[kMemory].now, 0);
}

// With the stand-in of tests/runtime/shadow/fake_nvml.c: there is no GPU here.
TEST_F(HostWatchTest, SeesGpus) {
  setenv("FAKE_NVML", (scratch_ / "nvml").c_str(), 1);
  auto nvml = shadow::Nvml::Load(FAKE_NVML_LIBRARY);
  ASSERT_TRUE(nvml.ok()) << nvml.status();
  watch_ = std::make_unique<HostWatch>(1, nullptr, scratch_ / "proc", *std::move(nvml));
  ASSERT_TRUE(watch_->Add("one", Group("one"), std::nullopt, {}).ok());
  ASSERT_TRUE(watch_->Add("two", Group("two"), std::nullopt, {}).ok());
  Write(Group("one") + "/cgroup.procs", "11\n12\n");
  Write(Group("two") + "/cgroup.procs", "13\n");
  const std::string working =
      "gpu 0 90 1000 800\ngpu 1 0 1000 0\nprocess 0 11 200 30\nprocess 0 12 100 20\n"
      "process 0 99 400 40\n";
  Write(scratch_ / "nvml", working);
  for (int i = 0; i < 40; ++i) Second(10, 200 << 10);
  constexpr auto kGpu = static_cast<size_t>(Resource::kGpu);
  constexpr auto kGpuMemory = static_cast<size_t>(Resource::kGpuMemory);
  decisions::Situation situation = Situation();
  EXPECT_EQ(situation.capacity[Resource::kGpu], 2000);
  EXPECT_EQ(situation.capacity[Resource::kGpuMemory], 2000);
  EXPECT_NEAR(situation.components[0].use[kGpu].at[2][0], 500, 10);
  EXPECT_NEAR(situation.components[0].use[kGpuMemory].now, 300, 1);
  EXPECT_EQ(situation.components[1].use[kGpu].now, 0);
  // All that is used, by whoever.
  EXPECT_NEAR(situation.demand[kGpu].now, 900, 1);
  EXPECT_NEAR(situation.demand[kGpuMemory].at[2][0], 800, 10);
  EXPECT_EQ(watch_->AllUsed()[Resource::kGpuMemory], 800);
  EXPECT_EQ(watch_->ShowAll().metrics_size(), 4);
  EXPECT_EQ(watch_->ShowAll().metrics(2).metric(), "gpu");
  EXPECT_TRUE(watch_->gpu_status().ok());
  // A driver that stops answering is said, and stops nothing.
  Write(scratch_ / "nvml", "gpu 0 0 1000 0\nbroken 0\n");
  Second(10, 200 << 10);
  EXPECT_FALSE(watch_->gpu_status().ok());
  EXPECT_NEAR(Situation().demand[kMemory].now, 200 << 20, 1);
  Write(scratch_ / "nvml", working);
  Second(10, 200 << 10);
  EXPECT_TRUE(watch_->gpu_status().ok());
  EXPECT_NEAR(Situation().components[0].use[kGpu].now, 500, 1);
}

TEST_F(HostWatchTest, HasNoGpusWhereThereAreNone) {
  ASSERT_TRUE(watch_->Add("one", Group("one"), std::nullopt, {}).ok());
  Second(10, 200 << 10);
  EXPECT_EQ(Situation().capacity[Resource::kGpu], 0);
  EXPECT_EQ(watch_->ShowAll().metrics_size(), 2);
}

TEST_F(HostWatchTest, ListensToHints) {
  ASSERT_TRUE(watch_->Add("one", Group("one"), std::nullopt, {}).ok());
  ASSERT_TRUE(listener_->Add("one", ::getuid()).ok());
  for (int i = 0; i < 30; ++i) {
    Use("one", 0, 100 << 20);
    Second(10, 200 << 10);
  }
  const double before = Situation().demand[kMemory].at[2][2];
  // The component has no other clock than the host's, so the need is counted from now as well.
  now_ = Clock::now();
  ASSERT_EQ(
      setenv("STARLING_HINTS", hints::HintListener::PathOf(scratch_ / "hints", "one").c_str(), 1),
      0);
  EXPECT_EQ(starling_need(STARLING_MEMORY, 400 << 20, 12), 0);
  EXPECT_EQ(starling_not_now(30), 0);
  EXPECT_EQ(starling_phase("solving"), 0);
  const auto heard = [&] {
    uint64_t taken = 0;
    listener_->With("one", [&](hints::ComponentHints& hints) { taken = hints.taken(); });
    return taken;
  };
  while (heard() < 3) usleep(1000);
  Second(10, 200 << 10);
  EXPECT_GT(Situation().demand[kMemory].at[2][2], before + (100 << 20));
  EXPECT_GT(Situation().components[0].not_now_s, 0);
  EXPECT_EQ(watch_->ShowComponents()[0].phase(), "solving");
}

// "In five minutes", sampled every second: twenty times as far as the farthest horizon.
class FarHintsTest : public HostWatchTest {
 protected:
  static constexpr int64_t kUsual = 100 << 20, kNeeded = 400 << 20;

  void SetUp() override {
    HostWatchTest::SetUp();
    ASSERT_TRUE(watch_->Add("one", Group("one"), std::nullopt, {}).ok());
    ASSERT_TRUE(listener_->Add("one", ::getuid()).ok());
    setenv("STARLING_HINTS", hints::HintListener::PathOf(scratch_ / "hints", "one").c_str(), 1);
    Pass(30, kUsual);
  }
  void Pass(int steps, int64_t memory) {
    for (int i = 0; i < steps; ++i) {
      Use("one", 0, memory);
      Second(10, (memory + kUsual) >> 10);
    }
  }
  void Need(double in_s) {
    const auto heard = [&] {
      uint64_t taken = 0;
      listener_->With("one", [&](hints::ComponentHints& hints) { taken = hints.taken(); });
      return taken;
    };
    const uint64_t before = heard();
    // The listener has no other clock than the host's.
    now_ = Clock::now();
    EXPECT_EQ(starling_need(STARLING_MEMORY, kNeeded, in_s), 0);
    while (heard() == before) usleep(1000);
    Pass(1, kUsual);
  }
  static const v1::MetricForecast& Memory(const v1::ForecastOf& of) {
    for (const v1::MetricForecast& metric : of.metrics()) {
      if (metric.metric() == "memory") return metric;
    }
    ADD_FAILURE() << "no memory";
    return of.metrics(0);
  }
  double Trust(HostWatch& watch) {
    const auto shown = watch.ShowComponents();
    return shown.at(0).trust().empty() ? -1 : shown[0].trust(0).reliability();
  }
};

TEST_F(FarHintsTest, ShowInTheForecastOfTheirTime) {
  const decisions::Situation before = Situation();
  EXPECT_TRUE(before.needs.empty());
  Need(300);
  const v1::ForecastOf one = watch_->ShowComponents()[0];
  const v1::MetricForecast& memory = Memory(one);
  ASSERT_EQ(memory.ahead_size(), predictor::kHorizonCount + 1);
  const v1::ForecastAhead& then = memory.ahead(predictor::kHorizonCount);
  EXPECT_TRUE(then.hinted());
  EXPECT_NEAR(then.ahead_s(), 300, 5);
  // Of a source that nothing is known of, half.
  EXPECT_NEAR(then.p50(), (kUsual + kNeeded) / 2, 5 << 20);
  EXPECT_GE(then.p99(), kNeeded);
  // The horizons say what they said.
  EXPECT_NEAR(memory.ahead(predictor::kHorizonCount - 1).p50(), kUsual, 5 << 20);
  const v1::ForecastOf all_of_host = watch_->ShowAll();
  const v1::MetricForecast& all = Memory(all_of_host);
  ASSERT_EQ(all.ahead_size(), predictor::kHorizonCount + 1);
  EXPECT_NEAR(all.ahead(predictor::kHorizonCount).p50(), kUsual + (kUsual + kNeeded) / 2, 10 << 20);
  const decisions::Situation situation = Situation();
  ASSERT_EQ(situation.needs.size(), 1u);
  EXPECT_EQ(situation.needs[0].resource, kMemory);
  ASSERT_EQ(situation.needs[0].parts.size(), 1u);
  EXPECT_EQ(situation.needs[0].parts[0].component, "one");
  // As its time comes it is a horizon's, and no need of its own any more.
  Pass(280, kUsual);
  EXPECT_TRUE(Situation().needs.empty());
  EXPECT_GT(Situation().components[0].use[kMemory].at[2][0], 200 << 20);
}

TEST_F(FarHintsTest, ALyingSourceLosesItsWeight) {
  for (int time = 0; time < 3; ++time) {
    Need(300);
    EXPECT_EQ(Situation().needs.size(), time < 2 ? 1u : 0u) << time;
    Pass(440, kUsual);
  }
  EXPECT_LT(Trust(*watch_), 0.3);
}

TEST_F(FarHintsTest, AnHonestSourceIsBelievedMoreAndMore) {
  double expected = 0;
  for (int time = 0; time < 3; ++time) {
    Need(300);
    ASSERT_EQ(Situation().needs.size(), 1u);
    const double now = Situation().needs[0].parts[0].use[0];
    EXPECT_GT(now, expected) << time;
    expected = now;
    Pass(310, kUsual);
    Pass(130, kNeeded);
    Pass(60, kUsual);
  }
  EXPECT_GT(Trust(*watch_), 0.75);
  // What was learned goes with the component, an open hint as well.
  Need(300);
  const auto saved = watch_->Save().at("one");
  auto listener = hints::HintListener::Start(scratch_ / "other");
  ASSERT_TRUE(listener.ok());
  HostWatch other(1, listener->get(), scratch_ / "proc");
  ASSERT_TRUE(other.Add("one", Group("one"), std::nullopt, saved).ok());
  ASSERT_TRUE((*listener)->Add("one", ::getuid()).ok());
  for (int i = 1; i <= 3; ++i) ASSERT_TRUE(other.Step(now_ + seconds(i), time_s_ + i).ok());
  EXPECT_EQ(Trust(other), Trust(*watch_));
  decisions::Situation there;
  other.Describe(now_ + seconds(3), there);
  ASSERT_EQ(there.needs.size(), 1u);
  EXPECT_NEAR(there.needs[0].when_s, 297, 5);
  // Damage costs what was learned of hints, and nothing else.
  auto damaged = saved;
  damaged.back().resize(damaged.back().size() / 2);
  HostWatch third(1, nullptr, scratch_ / "proc");
  EXPECT_TRUE(third.Add("one", Group("one"), std::nullopt, damaged).ok());
}

// With a long period the hint's time lies between two horizons.
TEST_F(FarHintsTest, AreSeenWhateverThePeriod) {
  for (const double period : {0.2, 1.0, 30.0, 100.0}) {
    watch_ = std::make_unique<HostWatch>(period, listener_.get(), scratch_ / "proc");
    ASSERT_TRUE(watch_->Add("one", Group("one"), std::nullopt, {}).ok());
    Pass(5, kUsual);
    Need(300);
    const v1::ForecastOf one = watch_->ShowComponents()[0];
    double most = 0;
    for (const v1::ForecastAhead& ahead : Memory(one).ahead()) most = std::max(most, ahead.p50());
    EXPECT_GT(most, 200 << 20) << period;
    listener_->Remove("one");
    ASSERT_TRUE(listener_->Add("one", ::getuid()).ok());
  }
}

TEST_F(HostWatchTest, KnowsAnIdleUser) {
  ASSERT_TRUE(watch_->Add("one", Group("one"), std::nullopt, {}).ok());
  ASSERT_TRUE(listener_->Add("one", ::getuid()).ok());
  Second(10, 200 << 10);
  EXPECT_EQ(Situation().components[0].idle_probability, 0);
  ASSERT_EQ(
      setenv("STARLING_HINTS", hints::HintListener::PathOf(scratch_ / "hints", "one").c_str(), 1),
      0);
  struct starling_activity input = {};
  input.keys = 3;
  EXPECT_EQ(starling_activity(&input), 0);
  const auto heard = [&] {
    uint64_t taken = 0;
    listener_->With("one", [&](hints::ComponentHints& hints) { taken = hints.taken(); });
    return taken;
  };
  EXPECT_EQ(starling_connected("ann"), 0);
  while (heard() < 2) usleep(1000);
  Second(10, 200 << 10);
  const auto seen = watch_->Presence();
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_TRUE(seen[0].input);
  EXPECT_EQ(seen[0].users, std::set<std::string>{"ann"});
  EXPECT_FALSE(seen[0].works);
  const double soon = Situation().components[0].idle_probability;
  EXPECT_GT(soon, 0);
  for (int i = 0; i < 120; ++i) Second(10, 200 << 10);
  EXPECT_NE(Situation().components[0].idle_probability, soon);
  // Another host, and the next agent, know since when.
  shadow::ModelShelf::Models saved = watch_->Save().at("one");
  const auto told = [&](const shadow::ModelShelf::Models& models) {
    HostWatch other(1, listener_.get(), scratch_ / "proc");
    EXPECT_TRUE(other.Add("one", Group("one"), std::nullopt, models).ok());
    EXPECT_TRUE(other.Step(now_ + seconds(1), time_s_ + 1).ok());
    decisions::Situation situation;
    other.Describe(now_ + seconds(1), situation);
    return situation.components[0];
  };
  EXPECT_NEAR(told(saved).away_s, 121, 0.1);
  EXPECT_NEAR(told(saved).idle_probability, Situation().components[0].idle_probability, 0.05);
  // What was not taken up yet is kept.
  HostWatch untouched(1, nullptr, scratch_ / "proc");
  ASSERT_TRUE(untouched.Add("one", Group("one"), std::nullopt, saved).ok());
  EXPECT_EQ(untouched.Save().at("one").size(), saved.size());
  // What makes no sense is not.
  for (std::string& model : saved) {
    if (model.substr(0, 8) != "STUSER01") continue;
    const std::string good = model;
    model.resize(20);
    EXPECT_LT(told(saved).away_s, 0);
    model = good;
    std::fill(model.end() - 4, model.end(), '\xff');
    EXPECT_LT(told(saved).away_s, 0) << "not-a-number";
  }
  EXPECT_FALSE(watch_->Presence()[0].input);
  EXPECT_EQ(watch_->Presence()[0].users, std::set<std::string>{"ann"});
  EXPECT_EQ(starling_disconnected("ann"), 0);
  while (heard() < 3) usleep(1000);
  // One that works although nobody touches it.
  for (int i = 1; i <= 60; ++i) {
    Use("one", int64_t{200000} * i, 100 << 20);
    Second(10, 200 << 10);
  }
  EXPECT_TRUE(watch_->Presence()[0].users.empty());
  EXPECT_TRUE(watch_->Presence()[0].works);
}

// A host whose link carries 100 and whose disk moves 50 MB a second.
class HostIoWatchTest : public HostWatchTest {
 protected:
  void SetUp() override {
    HostWatchTest::SetUp();
    ASSERT_TRUE(MakeDirectories(scratch_ / "proc/net").ok());
    ASSERT_TRUE(MakeDirectories(scratch_ / "proc/7/net").ok());
    ASSERT_TRUE(MakeDirectories(scratch_ / "sys/block/vda").ok());
    shadow::HostIoOptions options;
    options.sys = scratch_ / "sys";
    options.proc = scratch_ / "proc";
    options.network_devices = {"eth0"};
    options.network_bytes_per_s = 100e6;
    options.storage_devices = {"vda"};
    options.storage_bytes_per_s = 50e6;
    watch_ = std::make_unique<HostWatch>(1, listener_.get(), scratch_ / "proc", nullptr,
                                         predictor::kDefaultExperts,
                                         std::make_unique<shadow::HostIo>(options));
    watch_->SetFolders({scratch_ / "sys"});
    ASSERT_TRUE(watch_->Add("one", Group("one"), 7, {}).ok());
  }
  void Counters(const std::string& process, int64_t in, int64_t out) {
    Write(scratch_ / absl::StrCat("proc/", process, "net/dev"),
          absl::StrCat("  eth0: ", in, " 1 0 0 0 0 0 0 ", out, " 1 0 0 0 0 0 0\n"));
  }
  // Of the component's 10 MB come in and 30 go out, 4 are read and 8 written; of all of it in a
  // second 20 and 60, and 10 and 10.
  void Seconds(int count) {
    for (int i = 0; i < count; ++i, ++seconds_) {
      Counters("7/", seconds_ * 10'000'000, seconds_ * 30'000'000);
      Counters("", seconds_ * 20'000'000, seconds_ * 60'000'000);
      Write(Group("one") + "/io.stat", absl::StrCat("254:0 rbytes=", seconds_ * 4'000'000,
                                                    " wbytes=", seconds_ * 8'000'000, "\n"));
      Write(scratch_ / "sys/block/vda/stat",
            absl::StrCat("1 0 ", seconds_ * 19531, " 1 1 0 ", seconds_ * 19531, " 1 0 0 0\n"));
      Second(10, 200 << 10);
    }
  }
  static constexpr auto kDisk = static_cast<size_t>(Resource::kDisk);
  static constexpr auto kNetwork = static_cast<size_t>(Resource::kNetwork);
  static constexpr auto kStorage = static_cast<size_t>(Resource::kStorage);
  int64_t seconds_ = 1;
};

TEST_F(HostIoWatchTest, SamplesShadowsAndSum) {
  Seconds(40);
  const decisions::Situation situation = Situation();
  EXPECT_EQ(situation.capacity[Resource::kNetwork], 100'000'000);
  EXPECT_EQ(situation.capacity[Resource::kStorage], 50'000'000);
  EXPECT_GT(situation.capacity[Resource::kDisk], 0);
  ASSERT_EQ(situation.components.size(), 1u);
  const decisions::Outlooks& use = situation.components[0].use;
  EXPECT_NEAR(use[kNetwork].now, 30e6, 1e5) << "the busier direction";
  EXPECT_NEAR(use[kNetwork].at[1][0], 30e6, 1e6);
  EXPECT_NEAR(use[kStorage].now, 12e6, 1e5) << "both together";
  EXPECT_NEAR(use[kStorage].at[1][0], 12e6, 1e6);
  EXPECT_EQ(use[kDisk].now, 0);
  EXPECT_NEAR(situation.demand[kNetwork].now, 60e6, 1e5);
  EXPECT_NEAR(situation.demand[kNetwork].at[2][2], 60e6, 3e6);
  EXPECT_NEAR(situation.demand[kStorage].now, 20e6, 1e5);
  EXPECT_GT(situation.demand[kDisk].now, 0);
  EXPECT_NEAR(static_cast<double>(watch_->AllUsed()[Resource::kNetwork]), 60e6, 1e5);
  EXPECT_NEAR(static_cast<double>(watch_->Used().at("one")[Resource::kStorage]), 12e6, 1e5);
  // As people see it.
  std::vector<std::string> shown;
  const v1::ForecastOf all = watch_->ShowAll();
  for (const v1::MetricForecast& metric : all.metrics()) shown.push_back(metric.metric());
  EXPECT_EQ(shown, (std::vector<std::string>{"cpu", "memory", "disk", "network", "storage"}));
}

TEST_F(HostIoWatchTest, ARuleAboutTheLinkMovesWhoUsesIt) {
  Seconds(40);
  decisions::Situation situation = Situation();
  situation.hosts.emplace_back().name = "there";
  decisions::HostView& there = situation.hosts[0];
  there.room = situation.capacity;
  there.room[Resource::kStorage] = Amounts::kMost;  // it does not know what its disk does
  decisions::Policy policy;
  policy.rules = {{Resource::kNetwork, 90, 0.8, 60}};
  EXPECT_TRUE(Decide(situation, policy).steps.empty());
  policy.rules[0].above = 0.5;
  situation.components[0].movable = true;
  const decisions::Decision decision = Decide(situation, policy);
  ASSERT_EQ(decision.steps.size(), 1u);
  EXPECT_EQ(decision.steps[0].action, decisions::Action::kMigrate);
  EXPECT_EQ(decision.steps[0].component, "one");
  EXPECT_NEAR(static_cast<double>(decision.steps[0].amount[Resource::kNetwork]), 30e6, 3e6);
  EXPECT_EQ(decision.steps[0].amount[Resource::kStorage], 0);
  EXPECT_EQ(decision.reason.substr(0, 8), "network:");
  // Where there is no room on the link it does not go.
  there.room[Resource::kNetwork] = 20'000'000;
  const decisions::Decision stays = Decide(situation, policy);
  EXPECT_TRUE(stays.steps.empty());
  EXPECT_GT(stays.left[Resource::kNetwork], 0);
}

TEST_F(HostIoWatchTest, WhatIsNotKnownAnyMoreIsNotForeseen) {
  Seconds(20);
  EXPECT_GT(Situation().components[0].use[kStorage].now, 0);
  ASSERT_TRUE(RemoveTree(scratch_ / "sys/block/vda").ok());
  Counters("7/", seconds_ * 10'000'000, seconds_ * 30'000'000);
  Counters("", seconds_ * 20'000'000, seconds_ * 60'000'000);
  Second(10, 200 << 10);
  EXPECT_EQ(Situation().capacity[Resource::kStorage], 0);
  EXPECT_EQ(Situation().components[0].use[kStorage], decisions::Outlook());
  EXPECT_GT(Situation().components[0].use[kNetwork].now, 0);
}

}  // namespace
}  // namespace starling::loop
