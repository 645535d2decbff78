#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "base/file.h"
#include "nlohmann/json.hpp"
#include "runtime/decisions/decision_log.h"
#include "tests/runtime/scratch.h"
#include "tools/replay/cluster_load.h"
#include "tools/replay/cluster_replay.h"
#include "tools/replay/decision_replay.h"

namespace starling::replay {
namespace {

constexpr int kDay = 288;

// Machines that are busy by day, each at hours of its own, for four days.
void WriteTraces(const Scratch& scratch) {
  ASSERT_TRUE(MakeDirectories(scratch / "bitbrains").ok());
  uint32_t random = 1;
  for (int machine = 0; machine < 6; ++machine) {
    std::ofstream file(scratch / ("bitbrains/m" + std::to_string(machine) + ".csv"));
    file << "ts,cpu_pct,mem_kb,net_rx_kbs,disk_w_kbs\n";
    for (int t = 0; t < 4 * kDay; ++t) {
      random = random * 1664525u + 1013904223u;
      const double noise = static_cast<double>(random >> 8) / 16777216.0;
      const double wave = std::sin(2 * M_PI * (t + 20 * machine) / kDay);
      const double cpu = 10 + 10 * wave + 5 * noise + (wave > 0.6 ? 70 : 0);
      file << 300 * t << "," << cpu << "," << 500000 + 200000 * wave << ",0,0\n";
    }
  }
}

TEST(DecisionReplayTest, MakesEachAgainAndFailsWhenOneDiffers) {
  Scratch scratch;
  const std::string file = scratch / "decisions.jsonl";
  decisions::DecisionLog log(file);
  decisions::LoggedDecision logged;
  logged.situation.capacity[reservations::Resource::kCpu] = 1000;
  logged.decision = decisions::Decide(logged.situation, logged.policy);
  ASSERT_TRUE(log.Append(logged).ok());
  std::ostringstream text;
  EXPECT_TRUE(ReplayDecisions(file, text).ok());
  EXPECT_EQ(text.str(), "1 decisions with 0 steps were made again, 0 came out differently\n");
  logged.decision.reason = "a whim";
  ASSERT_TRUE(log.Append(logged).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(ReplayDecisions(file, text)));
  EXPECT_NE(text.str().find("decision 2"), std::string::npos) << text.str();
  EXPECT_FALSE(ReplayDecisions(scratch / "none", text).ok());
}

TEST(ClusterLoadTest, IsOfTheSizeAskedFor) {
  Scratch scratch;
  WriteTraces(scratch);
  const auto traces = LoadTraces(scratch.path());
  ASSERT_TRUE(traces.ok()) << traces.status();
  ClusterShape shape;
  shape.hosts = 10;
  shape.components = 200;
  shape.load = 0.5;
  const auto load = ClusterLoad::Make(traces->groups, shape);
  ASSERT_TRUE(load.ok()) << load.status();
  EXPECT_EQ(load->machines(), 6u);
  ASSERT_EQ(load->components().size(), 200u);
  double cpu = 0;
  for (int step = 0; step < kDay; ++step) {
    for (size_t c = 0; c < 200; ++c) cpu += load->Cpu(c, step);
  }
  EXPECT_NEAR(cpu / kDay, 0.5 * 10 * load->cpu_capacity(), 0.02 * 10 * load->cpu_capacity());
  EXPECT_FALSE(ClusterLoad::Make({}, shape).ok());
}

TEST(ClusterReplayTest, ForecastsKeepPromisesAndSpareViolations) {
  Scratch scratch;
  WriteTraces(scratch);
  ClusterOptions options;
  options.traces = scratch.path();
  options.out = scratch / "cluster.json";
  options.shape.hosts = 16;
  options.shape.components = 320;
  options.shape.steps = 144;
  std::ostringstream text;
  const absl::Status status = ReplayCluster(options, text);
  ASSERT_TRUE(status.ok()) << status;
  const auto written = ReadFile(options.out);
  ASSERT_TRUE(written.ok());
  const auto report = nlohmann::json::parse(*written);
  EXPECT_EQ(report["priority_inversions"], 0);
  EXPECT_EQ(report["double_promises"], 0);
  EXPECT_EQ(report["without_holder"], 0);
  EXPECT_GT(report["rules"]["forecast"]["reservations"], 0);
  const auto& rules = report["rules"];
  const double none = rules["none"]["violation_component_s"];
  const double reactive = rules["reactive"]["violation_component_s"];
  const double forecast = rules["forecast"]["violation_component_s"];
  EXPECT_GT(none, 0);
  EXPECT_EQ(rules["none"]["migrations"], 0);
  EXPECT_LT(reactive, none);
  EXPECT_LT(forecast, reactive);
  EXPECT_GT(rules["forecast"]["migrations"], 0);
  EXPECT_NE(text.str().find("violation against reactive"), std::string::npos);

  // The same again comes out the same.
  ASSERT_TRUE(ReplayCluster(options, text).ok());
  auto again = nlohmann::json::parse(*ReadFile(options.out));
  EXPECT_EQ(again["rules"]["forecast"]["violation_component_s"], forecast);
  EXPECT_EQ(again["rules"]["forecast"]["cost"], rules["forecast"]["cost"]);
}

}  // namespace
}  // namespace starling::replay
