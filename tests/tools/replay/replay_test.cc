#include "tools/replay/replay.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

#include "nlohmann/json.hpp"
#include "tests/runtime/scratch.h"
#include "tools/replay/baselines.h"
#include "tools/replay/traces.h"

namespace starling::replay {
namespace {

// A wave of 24 steps with noise and spikes.
std::vector<double> Wave() {
  std::vector<double> y;
  uint32_t state = 1;
  for (int t = 0; t < 600; ++t) {
    state = state * 1664525u + 1013904223u;
    const double noise = static_cast<double>(state >> 8) / 16777216.0;
    y.push_back(50 + 20 * std::sin(t * 2 * M_PI / 24) + 10 * noise + (t % 97 == 0 ? 40 : 0));
  }
  return y;
}

// What baselines.py itself gives for Wave(): MASE, coverage and width of the adaptive interval for
// each horizon.
TEST(Baselines, AreThoseOfTheProtocol) {
  const std::map<std::string, std::array<std::array<double, 3>, 3>> expected = {
      {"naive", {{{1.008, 0.893, 3.6372}, {3.5877, 0.8946, 11.9218}, {4.9917, 0.8993, 15.8155}}}},
      {"snaive", {{{0.7644, 0.893, 2.6903}, {0.7671, 0.8912, 2.7118}, {0.7735, 0.8889, 2.9678}}}},
      {"ses", {{{1.0127, 0.893, 3.6471}, {3.5987, 0.8946, 11.9097}, {4.9882, 0.8993, 15.7043}}}},
      {"hw", {{{0.609, 0.8963, 2.0249}, {0.6104, 0.8912, 2.0354}, {0.6186, 0.8924, 2.0472}}}},
      {"ar12", {{{0.655, 0.8997, 2.2147}, {0.6419, 0.8946, 2.3808}, {0.6477, 0.8924, 2.1377}}}},
      {"rls", {{{0.6988, 0.8997, 2.4813}, {0.6934, 0.898, 2.4629}, {0.6911, 0.8924, 2.5171}}}},
      {"mean3", {{{0.7027, 0.8997, 2.3626}, {1.287, 0.898, 4.6786}, {1.7446, 0.8993, 6.0164}}}},
      {"blend", {{{0.6948, 0.8997, 2.3023}, {0.7022, 0.8946, 2.4509}, {0.683, 0.9062, 2.3306}}}},
  };
  const std::vector<double> y = Wave();
  const auto all = BaselineForecasts(y, 24);
  ASSERT_EQ(all.size(), expected.size());
  for (const auto& [name, horizons] : expected) {
    const Scores scores = ScoreForecast(y, all.at(name), AciBands(y, all.at(name)));
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_NEAR(scores[i].mase, horizons[i][0], 1e-4) << name << i;
      EXPECT_NEAR(scores[i].coverage, horizons[i][1], 1e-4) << name << i;
      EXPECT_NEAR(scores[i].width, horizons[i][2], 1e-4) << name << i;
    }
  }
}

TEST(Baselines, ASeriesThatDoesNotVaryIsNotScored) {
  EXPECT_EQ(MaseScale(std::vector<double>(100, 5.0)), 0);
  EXPECT_EQ(MaseScale({1}), 0);
  EXPECT_GT(MaseScale(Wave()), 0);
}

TEST(Halves, AreOfWholeMachinesAndUsers) {
  const auto make = [] {
    Traces traces;
    traces.groups = {{"a", 1, 1, false, {"m1", "m2", "m3"}, {{1}, {2}, {3}}},
                     {"b", 1, 1, false, {"m1"}, {{4}}}};
    traces.functions = {{"f1", 1, {}}, {"f2", 1, {}}};
    for (const char* user : {"u1", "u1", "u2", "u3"}) traces.sessions.push_back({user, "s", {}});
    return traces;
  };
  Traces first = make(), second = make();
  KeepHalf(1, first);
  KeepHalf(2, second);
  ASSERT_EQ(first.groups.size(), 2u);
  EXPECT_EQ(first.groups[0].units, (std::vector<std::string>{"m1", "m3"}));
  EXPECT_EQ(first.groups[0].series, (std::vector<std::vector<double>>{{1}, {3}}));
  EXPECT_EQ(first.functions.size(), 1u);
  ASSERT_EQ(first.sessions.size(), 3u);
  EXPECT_EQ(first.sessions[2].user, "u3");
  ASSERT_EQ(second.groups.size(), 1u);  // of b nothing is left
  EXPECT_EQ(second.groups[0].units, std::vector<std::string>{"m2"});
  ASSERT_EQ(second.functions.size(), 1u);
  EXPECT_EQ(second.functions[0].name, "f2");
  ASSERT_EQ(second.sessions.size(), 1u);
  EXPECT_EQ(second.sessions[0].user, "u2");
}

class ReplayTest : public testing::Test {
 protected:
  void Write(const std::string& folder, const std::string& name, const std::string& content) {
    ASSERT_TRUE(MakeDirectories(scratch_ / folder).ok());
    ASSERT_TRUE(WriteFileAtomic(scratch_ / (folder + "/" + name), content).ok());
  }
  // Four functions with timers of their own, as reference numbers are known for.
  void WriteFunctions() {
    std::ostringstream text;
    text << "owner,app,fn,avg_mem_mb,avg_dur_ms";
    for (int i = 1; i <= 1440; ++i) text << ",minute_" << i;
    text << "\n";
    const int periods[] = {5, 7, 60, 13}, memory[] = {512, 1024, 2048, 256};
    for (int k = 0; k < 4; ++k) {
      text << "o,a,f" << k << "," << memory[k] << ",1";
      for (int i = 0; i < 1440; ++i) {
        text << "," << ((i + k) % periods[k] == 0 || (k == 3 && i % 29 == 0));
      }
      text << "\n";
    }
    Write("azure_functions", "invocations_per_minute.csv", text.str());
  }
  void WriteMachines() {
    std::ostringstream text;
    text << "step,vm_a,vm_b,vm_c\n";
    uint32_t state = 3;
    const auto noise = [&state] {
      state = state * 1664525u + 1013904223u;
      return (state >> 8) % 20;
    };
    for (int t = 0; t < 288; ++t) {
      text << t << "," << 20 + noise() + (t % 40 < 6 ? 50 : 0) << "," << noise() << "," << 5
           << "\n";
    }
    Write("planetlab", "cpu.csv", text.str());
  }
  nlohmann::json Run() {
    ReplayOptions options;
    options.traces = scratch_.path();
    options.out = scratch_ / "out.json";
    options.plots = scratch_ / "plots";
    std::ostringstream text;
    const absl::Status status = Replay(options, text);
    EXPECT_TRUE(status.ok()) << status;
    std::ifstream in(options.out);
    return nlohmann::json::parse(in, nullptr, false);
  }
  Scratch scratch_{InMemory()};
};

TEST_F(ReplayTest, ScoresFixedPoliciesAsTheProtocolDoes) {
  WriteFunctions();
  const nlohmann::json report = Run();
  const nlohmann::json& prestage = report["prestage"];
  EXPECT_EQ(prestage["activations"], 331);
  const auto expect = [&prestage](const char* policy, double hit_rate, double waste) {
    EXPECT_NEAR(prestage["policies"][policy]["hit_rate"], hit_rate, 1e-4) << policy;
    EXPECT_NEAR(prestage["policies"][policy]["waste_gb_min"], waste, 0.06) << policy;
  };
  expect("keep 1", 0.0121, 217.5);
  expect("keep 5", 0.4894, 1006.2);
  expect("keep 10", 0.855, 1288.0);
  expect("keep 20", 0.9637, 1545.5);
  expect("keep 60", 1, 2481.5);
  expect("histogram, else 10", 1, 474.2);
  expect("oracle", 1, 216.0);
  // Timers are easily known.
  EXPECT_LT(prestage["waste_gb_min_at_hit_978"], 400);
  EXPECT_EQ(prestage["priority_inversions"], 0);
}

TEST_F(ReplayTest, WritesWhatWasAskedFor) {
  WriteFunctions();
  WriteMachines();
  const nlohmann::json report = Run();
  for (const char* path :
       {"/forecast/by_group", "/forecast/coverage/overall", "/forecast/coverage/worst_series",
        "/prestage/waste_gb_min_at_hit_978", "/prestage/priority_inversions", "/onset/recall",
        "/onset/recall_baseline"}) {
    EXPECT_TRUE(report.contains(nlohmann::json::json_pointer(path))) << path;
  }
  // vm_c does not vary.
  EXPECT_EQ(report["forecast"]["by_group"]["planetlab_cpu"]["series"], 2);
  EXPECT_TRUE(ReadFile(scratch_ / "plots/prestage.svg").ok());
  EXPECT_TRUE(ReadFile(scratch_ / "plots/forecast.svg").ok());
}

TEST_F(ReplayTest, SaysWhatIsWrongWithAFile) {
  Write("planetlab", "cpu.csv", "step,vm_a\n0,1\n1\n");
  const auto traces = LoadTraces(scratch_.path());
  EXPECT_EQ(traces.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(traces.status().message()).find("cpu.csv"), std::string::npos);
}

TEST_F(ReplayTest, AnEmptyFolderHoldsNoTraces) {
  EXPECT_EQ(LoadTraces(scratch_.path()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(LoadTraces(scratch_ / "nothing").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace starling::replay
