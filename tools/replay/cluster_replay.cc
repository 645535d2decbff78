#include "tools/replay/cluster_replay.h"

#include <time.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "predictor/forecaster.h"
#include "tools/replay/cluster_run.h"
#include "tools/replay/statistics.h"
#include "tools/replay/traces.h"

namespace starling::replay {
namespace {

using nlohmann::json;
using reservations::Resource;

constexpr int kSchema = 1;
// Steps before the day in which hosts already decide, so that all begin it as they would be.
constexpr int kSettling = 24;

double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Rules of present use alone: moved when it has been above for ten seconds.
ClusterRule Reactive(const std::string& name, double above) {
  ClusterRule rule;
  rule.name = name;
  rule.fill = above;
  rule.policy.act = true;
  rule.policy.allow.reserve = false;
  rule.policy.allow.degrade = false;
  rule.policy.rules = {{Resource::kCpu, 0, above, 10}, {Resource::kMemory, 0, above, 10}};
  return rule;
}

// Forecasts as well, and room reserved on other hosts.
ClusterRule Predictive(const std::string& name, ClusterRule::Sees sees) {
  ClusterRule rule = Reactive(name, 0.9);
  rule.sees = sees;
  rule.policy.allow.reserve = true;
  for (const Resource resource : {Resource::kCpu, Resource::kMemory}) {
    rule.policy.rules.push_back({resource, 50, 0.9, 600});
    rule.policy.rules.push_back({resource, 75, 0.95, 600});
  }
  return rule;
}

std::vector<ClusterRule> Rules(bool forecast_only, const std::optional<decisions::Policy>& policy) {
  std::vector<ClusterRule> rules = {Predictive("forecast", ClusterRule::Sees::kForecast)};
  if (policy) rules[0].policy = *policy;
  // Traces do not tell how much of its memory a component writes, which is what a ghost costs.
  rules[0].policy.allow.ghost = false;
  if (forecast_only) return rules;
  rules.push_back(Reactive("reactive", 0.9));
  rules.push_back(Reactive("headroom", 0.7));
  rules.push_back(Predictive("oracle", ClusterRule::Sees::kFuture));
  rules.back().policy = rules[0].policy;
  rules.push_back(Reactive("none", 0.9));
  rules.back().moves = false;
  return rules;
}

// Prices of host pools, over their median: those of the spot traces, or 1.
ClusterPrices PricesOf(const std::vector<Group>& groups, int hours) {
  ClusterPrices prices;
  for (const Group& group : groups) {
    if (group.name != "spot_price_1h") continue;
    prices.host_hour.clear();
    for (const std::vector<double>& series : group.series) {
      const double median = Median(series);
      const size_t first = series.size() > static_cast<size_t>(hours)
                               ? (series.size() - static_cast<size_t>(hours)) / 2
                               : 0;
      std::vector<double> pool;
      for (size_t i = first; i < series.size() && pool.size() < static_cast<size_t>(hours); ++i) {
        pool.push_back(median > 0 ? series[i] / median : 1);
      }
      prices.host_hour.push_back(std::move(pool));
    }
  }
  return prices;
}

// At random, but no host above nine tenths of its capacity by what is used first.
std::vector<int> Place(const ClusterLoad& load) {
  const size_t hosts = static_cast<size_t>(load.shape().hosts);
  std::vector<double> cpu(hosts), memory(hosts);
  std::vector<int> placement;
  Random random(load.shape().seed + 1);
  for (size_t c = 0; c < load.components().size(); ++c) {
    const double wants[2] = {load.Cpu(c, -kSettling), load.Memory(c, -kSettling)};
    size_t host = random.Below(hosts);
    for (int tries = 0; tries < 200; ++tries, host = random.Below(hosts)) {
      if (cpu[host] + wants[0] < 0.9 * load.cpu_capacity() &&
          memory[host] + wants[1] < 0.9 * load.memory_capacity()) {
        break;
      }
    }
    cpu[host] += wants[0];
    memory[host] += wants[1];
    placement.push_back(static_cast<int>(host));
  }
  return placement;
}

void Print(const json& report, std::ostream& text) {
  text << absl::StrFormat(
      "%d hosts, %d components, %d steps of %d s; seconds of violation are components'\n\n",
      report["hosts"].get<int>(), report["components"].get<int>(), report["steps"].get<int>(),
      ClusterLoad::kStep_s);
  text << absl::StrFormat("%-10s %12s %9s %9s %9s %10s %10s %10s %9s %9s\n", "rule", "violation s",
                          "episodes", "moves", "TiB", "host h", "wasted h", "cost", "inverted",
                          "double");
  for (const auto& [name, run] : report["rules"].items()) {
    text << absl::StrFormat(
        "%-10s %12.0f %9d %9d %9.2f %10.0f %10.0f %10.0f %9d %9d\n", name,
        run["violation_component_s"].get<double>(), run["violation_steps"].get<int64_t>(),
        run["migrations"].get<int64_t>(), run["gib_moved"].get<double>() / 1024,
        run["host_hours"].get<double>(), run["wasted_host_hours"].get<double>(),
        run["cost"]["total"].get<double>(), run["priority_inversions"].get<int64_t>(),
        run["double_promises"].get<int64_t>());
  }
  const json& forecast = report["rules"]["forecast"];
  text << absl::StrFormat(
      "\na decision takes %.1f us at the median, %.1f us at P99; %.0f s of processor time in all\n",
      forecast["decision_us"]["median"].get<double>(), forecast["decision_us"]["p99"].get<double>(),
      report["cpu_s"].get<double>());
  if (!report["violation_vs_reactive"].is_number()) return;
  text << absl::StrFormat("violation against reactive %.3f, cost against the oracle %.3f\n",
                          report["violation_vs_reactive"].get<double>(),
                          report["cost_vs_oracle"].get<double>());
}

}  // namespace

absl::Status ReplayCluster(const ClusterOptions& options, std::ostream& text) {
  const double started = CpuSeconds();
  ASSIGN_OR_RETURN(Traces traces, LoadTraces(options.traces));
  if (options.half != 0) KeepHalf(options.half, traces);
  ASSIGN_OR_RETURN(const ClusterLoad load, ClusterLoad::Make(traces.groups, options.shape));
  const ClusterPrices prices = PricesOf(traces.groups, options.shape.steps * 300 / 3600 + 1);
  const std::vector<int> placement = Place(load);
  std::vector<std::unique_ptr<ClusterRun>> runs;
  std::optional<decisions::Policy> policy;
  if (!options.policy.empty()) {
    ASSIGN_OR_RETURN(policy, decisions::LoadPolicy(options.policy));
  }
  const std::vector<ClusterRule> rules = Rules(options.forecast_only, policy);
  for (const ClusterRule& rule : rules) {
    runs.push_back(std::make_unique<ClusterRun>(load, rule, prices, placement));
  }

  const size_t n = load.components().size();
  predictor::ForecasterOptions forecaster;
  forecaster.step_s = ClusterLoad::kStep_s;
  std::vector<predictor::Forecaster> forecasters;
  forecasters.reserve(2 * n);
  for (size_t i = 0; i < 2 * n; ++i) forecasters.emplace_back(forecaster);
  std::vector<ComponentForecast> forecasts(n);
  const int settling = std::min(kSettling, options.known_steps);
  for (int step = -options.known_steps; step < options.shape.steps; ++step) {
    for (size_t c = 0; c < n; ++c) {
      for (size_t r = 0; r < 2; ++r) {
        predictor::Forecaster& own = forecasters[2 * c + r];
        if (2 * c + r + 1 < forecasters.size()) forecasters[2 * c + r + 1].Prefetch();
        const double use = r == 0 ? load.Cpu(c, step) : load.Memory(c, step);
        if (load.Known(c) || step >= 0) own.Observe(use);
        if (step < -settling) continue;
        if (own.steps() == 0) {
          std::fill_n(forecasts[c].of[r], predictor::kHorizonCount,
                      predictor::Forecast{use, use, use});
          continue;
        }
        for (int h = 0; h < predictor::kHorizonCount; ++h) {
          forecasts[c].of[r][static_cast<size_t>(h)] = own.At(h);
        }
      }
    }
    if (step < -settling) continue;
    for (const auto& run : runs) run->Step(step, forecasts, step >= 0);
  }

  json report = {{"schema", kSchema},
                 {"hosts", options.shape.hosts},
                 {"components", options.shape.components},
                 {"steps", options.shape.steps},
                 {"load", options.shape.load},
                 {"seed", options.shape.seed},
                 {"half", options.half},
                 {"machines_in_traces", load.machines()},
                 {"violation_vs_reactive", nullptr},
                 {"cost_vs_oracle", nullptr}};
  for (size_t i = 0; i < runs.size(); ++i) report["rules"][rules[i].name] = runs[i]->Report();
  const json& forecast = report["rules"]["forecast"];
  report["priority_inversions"] = forecast["priority_inversions"];
  report["double_promises"] = forecast["double_promises"];
  report["without_holder"] = forecast["without_holder"];
  if (!options.forecast_only) {
    const auto ratio = [&](const json& a, const json& b) -> json {
      if (b.get<double>() <= 0) return nullptr;
      return a.get<double>() / b.get<double>();
    };
    report["violation_vs_reactive"] = ratio(forecast["violation_component_s"],
                                            report["rules"]["reactive"]["violation_component_s"]);
    report["cost_vs_oracle"] =
        ratio(forecast["cost"]["total"], report["rules"]["oracle"]["cost"]["total"]);
  }
  report["cpu_s"] = CpuSeconds() - started;
  Print(report, text);
  if (options.out.empty()) return absl::OkStatus();
  return WriteFileAtomic(options.out, report.dump(1) + "\n");
}

}  // namespace starling::replay
