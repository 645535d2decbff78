#include "tools/replay/onset_replay.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "absl/strings/str_cat.h"
#include "predictor/onset.h"
#include "tools/replay/baselines.h"
#include "tools/replay/statistics.h"

namespace starling::replay {
namespace {

using nlohmann::json;
using predictor::kHorizonCount;

constexpr double kRuleLevel = 0.75;
constexpr size_t kPast = 16;  // steps of features kept until their outcome is known
static_assert(kPast > predictor::kLongest);

struct Moment {
  double score = 0;
  bool above = false;  // the outcome
  bool rule = false;   // the rule's alarm
  int machine = 0, step = 0;
};

struct Counts {
  double alarms = 0, right = 0, events = 0;
  double precision() const { return alarms > 0 ? right / alarms : 1; }
  double recall() const { return events > 0 ? right / events : 0; }
};

double Limit(const std::vector<double>& y) {
  std::vector<double> first(y.begin(), y.begin() + static_cast<std::ptrdiff_t>(y.size() / 2));
  std::sort(first.begin(), first.end());
  const double at = 0.99 * static_cast<double>(first.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, first.size() - 1);
  return 0.8 * (first[low] + (at - static_cast<double>(low)) * (first[high] - first[low]));
}

Counts OfRule(const std::vector<Moment>& moments) {
  Counts counts;
  for (const Moment& moment : moments) {
    counts.events += moment.above;
    counts.alarms += moment.rule;
    counts.right += moment.rule && moment.above;
  }
  return counts;
}

// Of the most alarms at which the precision is still reached. `moments` by falling score.
Counts AtPrecision(const std::vector<Moment>& moments, double precision, double* threshold) {
  Counts best, counts;
  for (const Moment& moment : moments) counts.events += moment.above;
  best.events = counts.events;
  if (threshold != nullptr) *threshold = 2;
  for (const Moment& moment : moments) {
    counts.alarms += 1;
    counts.right += moment.above;
    if (counts.right >= precision * counts.alarms && counts.right > best.right) {
      best = counts;
      if (threshold != nullptr) *threshold = moment.score;
    }
  }
  return best;
}

}  // namespace

json ReplayOnsets(const std::vector<Group>& groups) {
  json out;
  Counts ours_all, rule_all;
  double lead_sum = 0, lead_count = 0, onsets_all = 0, warned_all = 0;
  std::vector<std::vector<Moment>> all_moments;
  std::vector<double> precisions;
  size_t machines = 0;
  for (const Group& group : groups) {
    if (!group.onset) continue;
    const auto model = std::make_unique<predictor::OnsetModel>();
    std::vector<const std::vector<double>*> series;
    std::vector<predictor::Forecaster> forecasters;
    std::vector<predictor::OnsetWatch> watches;
    std::vector<Points> rules;
    for (const std::vector<double>& y : group.series) {
      if (MaseScale(y) <= 0) continue;
      predictor::ForecasterOptions options;
      options.step_s = group.step_s;
      series.push_back(&y);
      forecasters.emplace_back(options);
      watches.emplace_back(Limit(y));
      rules.push_back(UpperQuantile(y, BaselineForecasts(y, group.season).at("blend"), kRuleLevel));
    }
    if (series.empty()) continue;
    struct Past {
      predictor::OnsetFeatures x[kHorizonCount];
      bool below = false;
    };
    std::vector<std::vector<Past>> past(series.size(), std::vector<Past>(kPast));
    std::vector<Moment> moments[kHorizonCount];
    const size_t steps = series[0]->size(), half = steps / 2;
    for (size_t t = 0; t < steps; ++t) {
      for (size_t s = 0; s < series.size(); ++s) {
        const double value = (*series[s])[t], limit = watches[s].limit();
        for (int i = 0; i < kHorizonCount; ++i) {
          const size_t h = predictor::kHorizons[i];
          if (t < h) continue;
          if (const Past& one = past[s][(t - h) % kPast]; one.below) {
            model->Learn(i, one.x[i], value > limit);
          }
        }
        forecasters[s].Observe(value);
        watches[s].Step(value);
        Past& now = past[s][t % kPast];
        now.below = value <= limit;
        for (int i = 0; i < kHorizonCount; ++i) {
          const size_t h = predictor::kHorizons[i];
          watches[s].Features(forecasters[s], i, now.x[i]);
          if (t < half || t + h >= steps || !now.below) continue;
          const predictor::OnsetOdds odds = predictor::OddsAbove(forecasters[s], i, limit);
          moments[i].push_back({model->Score(i, now.x[i], odds), (*series[s])[t + h] > limit,
                                rules[s][i][t] > limit, static_cast<int>(machines + s),
                                static_cast<int>(t)});
        }
      }
    }
    // Steps at which an alarm was up, by machine and step.
    std::vector<std::vector<bool>> alarm(series.size(), std::vector<bool>(steps));
    for (int i = 0; i < kHorizonCount; ++i) {
      std::stable_sort(moments[i].begin(), moments[i].end(),
                       [](const Moment& a, const Moment& b) { return a.score > b.score; });
      const Counts rule = OfRule(moments[i]);
      double threshold = 2;
      const Counts ours = AtPrecision(moments[i], rule.precision(), &threshold);
      out["by_group"][group.name][absl::StrCat("h", predictor::kHorizons[i])] = {
          {"events", rule.events},
          {"precision", rule.precision()},
          {"precision_reached", ours.precision()},
          {"recall", ours.recall()},
          {"recall_baseline", rule.recall()},
          // Reacting says nothing of what is below its limit now; an oracle says all.
          {"recall_reactive", 0},
          {"recall_oracle", 1}};
      for (const Moment& moment : moments[i]) {
        if (moment.score >= threshold) alarm[moment.machine - machines][moment.step] = true;
      }
      ours_all.right += ours.right;
      ours_all.alarms += ours.alarms;
      ours_all.events += ours.events;
      rule_all.right += rule.right;
      rule_all.alarms += rule.alarms;
      rule_all.events += rule.events;
      all_moments.push_back(std::move(moments[i]));
      precisions.push_back(rule.precision());
    }
    for (size_t s = 0; s < series.size(); ++s) {
      for (size_t t = half + predictor::kLongest; t < steps; ++t) {
        const double limit = watches[s].limit();
        if (!((*series[s])[t] > limit && (*series[s])[t - 1] <= limit)) continue;
        ++onsets_all;
        int lead = 0;
        for (int back = 1; back <= predictor::kLongest; ++back) {
          if (alarm[s][t - back]) lead = back;
        }
        if (lead == 0) continue;
        ++warned_all;
        ++lead_count;
        lead_sum += lead * group.step_s;
      }
    }
    machines += series.size();
  }
  if (ours_all.events <= 0) return out;
  out["recall"] = ours_all.recall();
  out["precision"] = ours_all.precision();
  out["recall_baseline"] = rule_all.recall();
  out["precision_baseline"] = rule_all.precision();
  out["onsets"] = onsets_all;
  out["onsets_warned_of"] = onsets_all > 0 ? warned_all / onsets_all : 0;
  out["mean_lead_s"] = lead_count > 0 ? lead_sum / lead_count : 0;

  // By machine drawn anew: how often each counts.
  Random random(3);
  std::vector<double> gains;
  for (int k = 0; k < kResamples / 4; ++k) {
    std::vector<double> times(machines);
    for (size_t i = 0; i < machines; ++i) times[random.Below(machines)] += 1;
    double right = 0, rule_right = 0, events = 0;
    for (const std::vector<Moment>& moments : all_moments) {
      double alarms = 0, hits = 0, best = 0, rule_alarms = 0, rule_hits = 0;
      for (const Moment& one : moments) {
        const double n = times[one.machine];
        rule_alarms += n * one.rule;
        rule_hits += n * (one.rule && one.above);
        events += n * one.above;
      }
      const double precision = rule_alarms > 0 ? rule_hits / rule_alarms : 1;
      for (const Moment& one : moments) {
        alarms += times[one.machine];
        hits += times[one.machine] * one.above;
        if (hits >= precision * alarms) best = std::max(best, hits);
      }
      right += best;
      rule_right += rule_hits;
    }
    if (events > 0) gains.push_back((right - rule_right) / events);
  }
  const Interval interval = Middle95(std::move(gains));
  out["gain_95"] = {interval.low, interval.high};
  return out;
}

}  // namespace starling::replay
