#include "tools/replay/forecast_replay.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "predictor/forecaster.h"
#include "predictor/gru.h"
#include "predictor/summary.h"
#include "tools/replay/baselines.h"
#include "tools/replay/statistics.h"

namespace starling::replay {
namespace {

using nlohmann::json;
using predictor::ExpertSet;
using predictor::Forecaster;
using predictor::kExpertCount;
using predictor::kHorizonCount;

constexpr size_t kLeastSeries = 3;      // of a group that counts in the grand mean
constexpr int kLessonEvery = 16;        // steps of a series between lessons of the recurrent expert
constexpr int kWeightEvery = 25;        // steps between looks at the experts' weights
constexpr size_t kRawSampleBytes = 16;  // a time and a value

const char* HorizonName(int horizon) {
  constexpr const char* kNames[] = {"h1", "h6", "h12"};
  return kNames[horizon];
}

// What one series came to.
struct SeriesResult {
  std::string unit;
  Scores ours, blend;
  std::map<std::string, Scores> singles;
  Scores summarised;
  size_t summary_bytes = 0, raw_bytes = 0;
  double weights[kHorizonCount][kExpertCount] = {};
};

struct GroupResult {
  std::string name;
  std::vector<SeriesResult> series;
  double forecast_s = 0, baseline_s = 0;
  uint64_t steps = 0;
};

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

// All series of a group, step by step side by side, so that a net they share learns only from what
// was known by then.
GroupResult RunGroup(const Group& group, const ForecastOptions& options) {
  GroupResult result;
  result.name = group.name;
  const bool recurrent = (options.experts & predictor::Only(predictor::kRecurrent)) != 0;
  predictor::GruNet net;
  predictor::GruTrainer trainer(&net);
  std::vector<const std::vector<double>*> series;
  std::vector<Forecaster> forecasters;
  std::vector<Points> points;
  std::vector<Bands> bands;
  for (size_t i = 0; i < group.series.size(); ++i) {
    const std::vector<double>& y = group.series[i];
    if (MaseScale(y) <= 0) continue;
    predictor::ForecasterOptions forecaster;
    forecaster.step_s = group.step_s;
    forecaster.experts = options.experts;
    forecaster.net = recurrent ? &net : nullptr;
    forecasters.emplace_back(forecaster);
    series.push_back(&y);
    points.push_back({y, y, y});
    bands.push_back({{y, y, y}, {y, y, y}});
    result.series.emplace_back().unit = group.units[i];
  }
  if (series.empty()) return result;
  const size_t steps = series[0]->size(), half = steps / 2;
  const auto started = std::chrono::steady_clock::now();
  for (size_t t = 0; t < steps; ++t) {
    for (size_t s = 0; s < series.size(); ++s) {
      Forecaster& forecaster = forecasters[s];
      forecaster.Observe((*series[s])[t]);
      for (int i = 0; i < kHorizonCount; ++i) {
        const predictor::Forecast forecast = forecaster.At(i);
        points[s][i][t] = forecast.median;
        bands[s].low[i][t] = forecast.low;
        bands[s].high[i][t] = forecast.high;
      }
      if (recurrent && (t + s) % kLessonEvery == 0 && t > 40) {
        trainer.Learn(forecaster.history(), static_cast<float>(forecaster.center()),
                      static_cast<float>(forecaster.scale()));
      }
    }
  }
  result.forecast_s = Seconds(started);
  result.steps = steps * series.size();

  // Once more, for what costs time that is not the forecasts': weights, and what would be sent.
  if (options.summary_tolerance > 0) {
    for (size_t s = 0; s < series.size(); ++s) {
      SeriesResult& one = result.series[s];
      predictor::ForecasterOptions again;
      again.step_s = group.step_s;
      Forecaster forecaster(again);
      predictor::SummaryWriter writer(options.summary_tolerance);
      predictor::Summary known;
      Points held{*series[s], *series[s], *series[s]};
      Bands held_bands{held, held};
      int looks = 0;
      for (size_t t = 0; t < steps; ++t) {
        forecaster.Observe((*series[s])[t]);
        uint8_t message[predictor::Summary::kMostBytes];
        const size_t size = writer.Write(forecaster, (*series[s])[t], message);
        if (size > 0) predictor::ReadSummary(message, size, known);
        if (t >= half) {
          one.summary_bytes += size;
          one.raw_bytes += kRawSampleBytes;
        }
        for (int i = 0; i < kHorizonCount; ++i) {
          const predictor::Forecast forecast = known.At(i);
          held[i][t] = forecast.median;
          held_bands.low[i][t] = forecast.low;
          held_bands.high[i][t] = forecast.high;
        }
        if (t < half || t % kWeightEvery != 0) continue;
        ++looks;
        for (int i = 0; i < kHorizonCount; ++i) {
          for (int k = 0; k < kExpertCount; ++k) one.weights[i][k] += forecaster.Weight(k, i);
        }
      }
      for (auto& row : one.weights) {
        for (double& weight : row) weight /= std::max(looks, 1);
      }
      one.summarised = ScoreForecast(*series[s], held, held_bands);
    }
  }
  for (size_t s = 0; s < series.size(); ++s) {
    result.series[s].ours = ScoreForecast(*series[s], points[s], bands[s]);
  }
  if (!options.baselines) return result;
  const auto baselines_started = std::chrono::steady_clock::now();
  for (size_t s = 0; s < series.size(); ++s) {
    const std::vector<double>& y = *series[s];
    const auto all = BaselineForecasts(y, group.season);
    const Points& blend = all.at("blend");
    result.series[s].blend = ScoreForecast(y, blend, AciBands(y, blend));
    for (const auto& [name, forecast] : all) {
      if (name == "blend" || name == "mean3") continue;
      result.series[s].singles[name] = ScoreForecast(y, forecast, {forecast, forecast});
    }
  }
  result.baseline_s = Seconds(baselines_started);
  return result;
}

using Get = double (*)(const SeriesResult&, int);
double OurMase(const SeriesResult& s, int i) { return s.ours[i].mase; }
double BlendMase(const SeriesResult& s, int i) { return s.blend[i].mase; }
double OurWidth(const SeriesResult& s, int i) { return s.ours[i].width; }
double BlendWidth(const SeriesResult& s, int i) { return s.blend[i].width; }
double SummaryMase(const SeriesResult& s, int i) { return s.summarised[i].mase; }

double GroupMedian(const GroupResult& group, int horizon, Get get) {
  std::vector<double> values;
  for (const SeriesResult& one : group.series) values.push_back(get(one, horizon));
  return Median(std::move(values));
}

bool Counts(const GroupResult& group) { return group.series.size() >= kLeastSeries; }

double Grand(const std::vector<GroupResult>& groups, int horizon, Get get) {
  std::vector<double> values;
  for (const GroupResult& group : groups) {
    if (Counts(group)) values.push_back(GroupMedian(group, horizon, get));
  }
  return Mean(values);
}

// Of all counted groups with their machines drawn anew.
Interval Bootstrap(const std::vector<GroupResult>& groups, int horizon) {
  Random random(1);
  std::vector<double> grands;
  for (int i = 0; i < kResamples; ++i) {
    std::vector<double> medians;
    for (const GroupResult& group : groups) {
      if (!Counts(group)) continue;
      std::vector<double> ratio_ours;
      for (size_t k = 0; k < group.series.size(); ++k) {
        ratio_ours.push_back(group.series[random.Below(group.series.size())].ours[horizon].mase);
      }
      medians.push_back(Median(std::move(ratio_ours)));
    }
    grands.push_back(Mean(medians));
  }
  return Middle95(std::move(grands));
}

json GroupJson(const GroupResult& group, bool baselines) {
  json out;
  out["series"] = group.series.size();
  for (int i = 0; i < kHorizonCount; ++i) {
    json& at = out[HorizonName(i)];
    const double mase = GroupMedian(group, i, OurMase);
    at["mase"] = mase;
    std::vector<double> coverage;
    for (const SeriesResult& one : group.series) coverage.push_back(one.ours[i].coverage);
    at["coverage"] = Mean(coverage);
    at["coverage_worst"] = *std::min_element(coverage.begin(), coverage.end());
    at["width"] = GroupMedian(group, i, OurWidth);
    if (!baselines) continue;
    at["mase_blend"] = GroupMedian(group, i, BlendMase);
    at["width_blend_aci"] = GroupMedian(group, i, BlendWidth);
    double best = INFINITY;
    std::string best_name;
    for (const auto& [name, scores] : group.series[0].singles) {
      std::vector<double> values;
      for (const SeriesResult& one : group.series) values.push_back(one.singles.at(name)[i].mase);
      if (const double median = Median(std::move(values)); median < best) {
        best = median;
        best_name = name;
      }
    }
    at["best_single"] = best_name;
    at["mase_best_single"] = best;
    at["vs_best_single"] = mase / best - 1;
  }
  return out;
}

}  // namespace

json ReplayForecasts(const std::vector<Group>& groups, const ForecastOptions& options) {
  std::vector<GroupResult> results;
  for (const Group& group : groups) {
    GroupResult result = RunGroup(group, options);
    if (!result.series.empty()) results.push_back(std::move(result));
  }
  json out;
  out["mase"] = json::object();
  out["by_group"] = json::object();
  double worst = 1, sum = 0, group_sum = 0, summary_worst = 0;
  size_t count = 0, group_count = 0, summary_bytes = 0, raw_bytes = 0;
  uint64_t steps = 0;
  double forecast_s = 0, baseline_s = 0, worst_vs_single = -1;
  std::string worst_where, worst_group;
  for (const GroupResult& group : results) {
    json one = GroupJson(group, options.baselines);
    steps += group.steps;
    forecast_s += group.forecast_s;
    baseline_s += group.baseline_s;
    std::vector<double> coverages;
    for (const SeriesResult& series : group.series) {
      summary_bytes += series.summary_bytes;
      raw_bytes += series.raw_bytes;
      for (int i = 0; i < kHorizonCount; ++i) {
        const double coverage = series.ours[i].coverage;
        coverages.push_back(coverage);
        if (coverage < worst) {
          worst = coverage;
          worst_where = group.name + " " + series.unit + " " + HorizonName(i);
        }
      }
    }
    sum += Mean(coverages) * static_cast<double>(coverages.size());
    count += coverages.size();
    group_sum += Mean(coverages);
    ++group_count;
    if (options.baselines && Counts(group)) {
      for (int i = 0; i < kHorizonCount; ++i) {
        const double versus = one[HorizonName(i)]["vs_best_single"];
        if (versus > worst_vs_single) {
          worst_vs_single = versus;
          worst_group = group.name + " " + HorizonName(i);
        }
      }
    }
    out["by_group"][group.name] = std::move(one);
  }
  if (results.empty()) return out;
  double width_ours = 0, width_blend = 0, log_width = 0;
  for (int i = 0; i < kHorizonCount; ++i) {
    const char* name = HorizonName(i);
    const double ours = Grand(results, i, OurMase);
    out["mase"][name] = ours;
    const Interval interval = Bootstrap(results, i);
    out["mase_95"][name] = {interval.low, interval.high};
    width_ours += Grand(results, i, OurWidth);
    if (options.summary_tolerance > 0) {
      const double summarised = Grand(results, i, SummaryMase);
      out["summaries"]["mase"][name] = summarised;
      summary_worst = std::max(summary_worst, summarised / ours - 1);
    }
    if (!options.baselines) continue;
    const double blend = Grand(results, i, BlendMase);
    out["mase_blend"][name] = blend;
    out["vs_blend"][name] = ours / blend - 1;
    width_blend += Grand(results, i, BlendWidth);
    out["width_vs_baseline_by_horizon"][name] =
        Grand(results, i, OurWidth) / Grand(results, i, BlendWidth);
    double logs = 0;
    size_t counted = 0;
    for (const GroupResult& group : results) {
      const double base = GroupMedian(group, i, BlendWidth);
      if (!Counts(group) || base <= 0) continue;
      logs += std::log(std::max(GroupMedian(group, i, OurWidth), 1e-12) / base);
      ++counted;
    }
    if (counted > 0) log_width += logs / static_cast<double>(counted) / kHorizonCount;
  }
  out["coverage"] = {{"overall", sum / static_cast<double>(count)},
                     {"mean_over_groups", group_sum / static_cast<double>(group_count)},
                     {"worst_series", worst},
                     {"worst_where", worst_where}};
  out["cost"] = {{"steps", steps},
                 {"seconds", forecast_s},
                 {"us_per_step", 1e6 * forecast_s / static_cast<double>(steps)}};
  if (options.summary_tolerance > 0) {
    out["summaries"]["bytes"] = summary_bytes;
    out["summaries"]["raw_bytes"] = raw_bytes;
    out["summaries"]["share"] =
        static_cast<double>(summary_bytes) / static_cast<double>(std::max<size_t>(raw_bytes, 1));
    out["summaries"]["worst_loss"] = summary_worst;
    for (int i = 0; i < kHorizonCount; ++i) {
      json& weights = out["weights"][HorizonName(i)];
      for (int k = 0; k < kExpertCount; ++k) {
        std::vector<double> groups_mean;
        for (const GroupResult& group : results) {
          double mean = 0;
          for (const SeriesResult& series : group.series) mean += series.weights[i][k];
          groups_mean.push_back(mean / static_cast<double>(group.series.size()));
        }
        if (const double mean = Mean(groups_mean); mean > 0) {
          weights[predictor::ExpertName(k)] = mean;
        }
      }
    }
  }
  if (options.baselines) {
    out["width_vs_baseline"] = width_blend > 0 ? width_ours / width_blend : 0;
    out["width_vs_baseline_geometric"] = std::exp(log_width);
    out["worst_vs_best_single"] = {{"ratio", worst_vs_single}, {"where", worst_group}};
    out["cost"]["baselines_seconds"] = baseline_s;
  }
  return out;
}

json ReplayAblations(const std::vector<Group>& groups) {
  json out;
  const auto run = [&groups](ExpertSet experts) {
    ForecastOptions options;
    options.experts = experts;
    options.baselines = false;
    options.summary_tolerance = 0;
    const json all = ReplayForecasts(groups, options);
    return json{{"mase", all.value("mase", json::object())},
                {"us_per_step", all.contains("cost") ? all["cost"]["us_per_step"] : json()}};
  };
  out["default"] = run(predictor::kDefaultExperts);
  for (int expert = 0; expert < kExpertCount; ++expert) {
    if (expert == predictor::kLastValue) continue;  // the one all fall back on
    const ExpertSet one = predictor::Only(expert);
    const bool in = (predictor::kDefaultExperts & one) != 0;
    out[std::string(in ? "without " : "with ") + predictor::ExpertName(expert)] =
        run(in ? predictor::kDefaultExperts & ~one : predictor::kDefaultExperts | one);
  }
  return out;
}

}  // namespace starling::replay
