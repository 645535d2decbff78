#include "tools/replay/prestage_replay.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>

#include "absl/strings/str_cat.h"
#include "predictor/keep_warm.h"
#include "tools/replay/statistics.h"

namespace starling::replay {
namespace {

using nlohmann::json;

constexpr double kHitRate = 0.978;
constexpr int kPriorities = 4;
constexpr int kNever = 1000000;

// ---- The fixed policies, scored by baselines.py's rule: warm during the idle minutes [pre, keep)
// of a gap, a hit when pre <= gap <= keep.
struct Plan {
  int pre = 0, keep = 0;
};
// From the idle times before, and (for the oracle) this one's length; -1 when it never ends.
using Policy = std::function<Plan(const std::vector<int>&, int)>;

struct PolicyScore {
  size_t activations = 0, hits = 0;
  double wasted_gb_min = 0;
  json Json() const {
    return {{"hit_rate", activations > 0 ? static_cast<double>(hits) / activations : 0},
            {"waste_gb_min", wasted_gb_min}};
  }
};

PolicyScore ScorePolicy(const std::vector<Function>& functions, const Policy& policy) {
  PolicyScore score;
  for (const Function& function : functions) {
    std::vector<int> active;
    const int steps = static_cast<int>(function.counts.size()), half = steps / 2;
    for (int t = 0; t < steps; ++t) {
      if (function.counts[t] > 0) active.push_back(t);
    }
    if (active.size() < 2) continue;
    std::vector<int> idle;
    for (size_t j = 1; j <= active.size(); ++j) {
      const bool ends = j < active.size();
      const int begin = active[j - 1], end = ends ? active[j] : steps, gap = end - begin - 1;
      if (end > half && gap > 0) {
        const Plan plan = policy(idle, ends ? gap : -1);
        const int low = std::max({plan.pre, half - begin - 1, 0}), high = std::min(plan.keep, gap);
        score.wasted_gb_min += std::max(0, high - low) * function.memory_mb / 1024;
        if (ends) {
          ++score.activations;
          score.hits += plan.pre <= gap && gap <= plan.keep;
        }
      }
      if (gap > 0) idle.push_back(gap);
    }
  }
  return score;
}

double Quantile(std::vector<int> values, double level) {
  std::sort(values.begin(), values.end());
  const double at = level * static_cast<double>(values.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, values.size() - 1);
  return values[low] + (at - static_cast<double>(low)) * (values[high] - values[low]);
}

// The hybrid histogram policy of Shahrad et al., ATC 2020, as baselines.py has it.
Policy Histogram(int fallback) {
  return [fallback](const std::vector<int>& all, int) -> Plan {
    std::vector<int> idle;
    for (const int one : all) {
      if (one <= 240) idle.push_back(one);
    }
    if (idle.size() < 5) return {0, fallback};
    std::vector<double> bins(241);
    for (const int one : idle) bins[one] += 1;
    const double mean = Mean(bins);
    double square = 0;
    for (const double bin : bins) square += (bin - mean) * (bin - mean);
    if (std::sqrt(square / 241) / mean < 2) return {0, fallback};
    const double early = Quantile(idle, .05), late = Quantile(idle, .99);
    return {early >= 2 ? static_cast<int>(std::floor(.9 * early)) : 0,
            static_cast<int>(std::ceil(1.1 * late)) + 1};
  };
}

json FixedPolicies(const std::vector<Function>& functions) {
  json out;
  for (const int keep : {1, 5, 10, 20, 60}) {
    out[absl::StrCat("keep ", keep)] = ScorePolicy(functions, [keep](const std::vector<int>&, int) {
                                         return Plan{0, keep};
                                       }).Json();
  }
  out["histogram, else 10"] = ScorePolicy(functions, Histogram(10)).Json();
  out["histogram, else 240"] = ScorePolicy(functions, Histogram(240)).Json();
  out["oracle"] = ScorePolicy(functions, [](const std::vector<int>&, int gap) {
                    return gap < 0 ? Plan{kNever, 0} : Plan{std::max(0, gap - 1), gap};
                  }).Json();
  return out;
}

// ---- Ours. A decision about one minute of one function, made when the minute before it ended.
struct Decision {
  int minute = 0, function = 0;
  double probability = 0;
  bool hit = false;    // it was activated in that minute
  bool waste = false;  // it was not
  bool waste_of_lead =
      false;  // had it to be warm a minute earlier: that minute would be wasted too
};

struct Decisions {
  std::vector<Decision> all;
  size_t activations = 0;
};

Decisions Decide(const std::vector<Function>& functions) {
  struct Pending {
    predictor::WarmFeatures x;
    int gap = 0;
    bool made = false;
  };
  Decisions out;
  const auto model = std::make_unique<predictor::KeepWarmModel>();
  std::vector<predictor::Activations> past(functions.size());
  std::vector<Pending> pending(functions.size());
  std::vector<bool> scored(functions.size());
  for (size_t i = 0; i < functions.size(); ++i) {
    // As baselines.py: a function with a single active minute is not scored.
    scored[i] = std::count_if(functions[i].counts.begin(), functions[i].counts.end(),
                              [](double count) { return count > 0; }) >= 2;
  }
  const int steps = static_cast<int>(functions[0].counts.size()), half = steps / 2;
  for (int t = 0; t < steps; ++t) {
    for (size_t i = 0; i < functions.size(); ++i) {
      const bool active = functions[i].counts[t] > 0;
      if (Pending& one = pending[i]; one.made) {
        if (scored[i] && t >= half && !(active && t == half)) {
          Decision decision{t, static_cast<int>(i), model->Probability(one.x), active, !active};
          decision.waste_of_lead = t - 1 >= half;
          out.all.push_back(decision);
          out.activations += active;
        }
        model->Learn(one.x, one.gap, active);
        one.made = false;
      }
      past[i].Step(functions[i].counts[t]);
      if (past[i].ever() && !past[i].active()) {
        past[i].Features(model->pooled(), pending[i].x);
        pending[i].gap = past[i].idle();
        pending[i].made = true;
      }
    }
  }
  return out;
}

double Gb(const std::vector<Function>& functions, const Decision& decision) {
  return functions[decision.function].memory_mb / 1024;
}

// The price at which a decision turns.
double Price(const std::vector<Function>& functions, const Decision& decision) {
  double low = 0, high = 100;  // WorthWarming falls with the price
  for (int i = 0; i < 40; ++i) {
    const double middle = 0.5 * (low + high);
    (predictor::WorthWarming(decision.probability, Gb(functions, decision), middle) ? low : high) =
        middle;
  }
  return low;
}

struct Ranked {
  double price = 0;
  const Decision* decision = nullptr;
};

struct Point {
  double price = 0, hit_rate = 0, waste = 0, waste_with_lead = 0;
};

// Waste at the first price at which the hit rate is reached; a curve on the way.
Point Sweep(const std::vector<Function>& functions, const std::vector<Ranked>& ranked,
            double activations, double hit_rate, std::vector<Point>* curve) {
  Point point;
  double hits = 0, mark = 0.5;
  for (const Ranked& one : ranked) {
    const double gb = Gb(functions, *one.decision);
    if (one.decision->waste) point.waste += gb;
    if (one.decision->waste_of_lead) point.waste_with_lead += gb;
    hits += one.decision->hit;
    point.price = one.price;
    point.hit_rate = hits / activations;
    if (curve != nullptr && point.hit_rate >= mark) {
      curve->push_back(point);
      mark = point.hit_rate + (point.hit_rate < 0.9 ? 0.02 : 0.004);
    }
    if (curve == nullptr && point.hit_rate >= hit_rate) return point;
  }
  return point;
}

int PriorityOf(const std::string& name) {
  uint32_t hash = 2166136261u;
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 16777619u;
  return static_cast<int>((hash >> 16) % kPriorities);
}

// The same decisions with memory for only `share` of the most that was wished for at once.
json Limited(const std::vector<Function>& functions, const Decisions& decisions, double price,
             double share) {
  const int steps = static_cast<int>(functions[0].counts.size());
  std::vector<std::vector<const Decision*>> minutes(steps);
  double peak = 0;
  for (const Decision& one : decisions.all) {
    if (predictor::WorthWarming(one.probability, Gb(functions, one), price)) {
      minutes[one.minute].push_back(&one);
    }
  }
  for (const auto& minute : minutes) {
    double sum = 0;
    for (const Decision* one : minute) sum += Gb(functions, *one);
    peak = std::max(peak, sum);
  }
  size_t hits = 0, inversions = 0;
  double waste = 0;
  std::vector<size_t> hits_of(kPriorities), all_of(kPriorities);
  for (const Decision& one : decisions.all) {
    all_of[PriorityOf(functions[one.function].name)] += one.hit;
  }
  for (const auto& minute : minutes) {
    std::vector<predictor::WarmWish> wishes(minute.size());
    std::vector<predictor::WarmWish*> order;
    for (size_t i = 0; i < minute.size(); ++i) {
      wishes[i] = {PriorityOf(functions[minute[i]->function].name), Gb(functions, *minute[i]),
                   minute[i]->probability};
      order.push_back(&wishes[i]);
    }
    predictor::GrantByPriority(order, share * peak);
    inversions += predictor::CountInversions(order, share * peak);
    for (size_t i = 0; i < minute.size(); ++i) {
      if (!wishes[i].granted) continue;
      if (minute[i]->hit) {
        ++hits;
        ++hits_of[wishes[i].priority];
      } else {
        waste += wishes[i].memory_gb;
      }
    }
  }
  json by_priority;
  for (int i = kPriorities - 1; i >= 0; --i) {
    by_priority.push_back(all_of[i] > 0 ? static_cast<double>(hits_of[i]) / all_of[i] : 0);
  }
  return {{"memory_share", share},
          {"memory_gb", share * peak},
          {"hit_rate", static_cast<double>(hits) / static_cast<double>(decisions.activations)},
          {"hit_rate_by_priority_highest_first", by_priority},
          {"waste_gb_min", waste},
          {"priority_inversions", inversions}};
}

}  // namespace

json ReplayPrestaging(const std::vector<Function>& functions) {
  json out;
  if (functions.empty()) return out;
  const Decisions decisions = Decide(functions);
  if (decisions.activations == 0) return out;
  std::vector<Ranked> ranked;
  for (const Decision& one : decisions.all) ranked.push_back({Price(functions, one), &one});
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const Ranked& a, const Ranked& b) { return a.price > b.price; });
  const auto activations = static_cast<double>(decisions.activations);
  const Point at = Sweep(functions, ranked, activations, kHitRate, nullptr);
  std::vector<Point> curve;
  Sweep(functions, ranked, activations, 1, &curve);
  out["activations"] = decisions.activations;
  out["hit_rate"] = at.hit_rate;
  out["waste_gb_min_at_hit_978"] = at.hit_rate >= kHitRate ? json(at.waste) : json();
  out["waste_gb_min_at_hit_978_with_a_minute_of_lead"] = at.waste_with_lead;
  out["price"] = at.price;
  for (const Point& point : curve) {
    out["curve"].push_back({{"price", point.price},
                            {"hit_rate", point.hit_rate},
                            {"waste_gb_min", point.waste},
                            {"waste_gb_min_with_a_minute_of_lead", point.waste_with_lead}});
  }
  out["policies"] = FixedPolicies(functions);

  // By function drawn anew.
  std::vector<std::vector<Ranked>> of(functions.size());
  for (const Ranked& one : ranked) of[one.decision->function].push_back(one);
  std::vector<double> activations_of(functions.size());
  for (const Decision& one : decisions.all) activations_of[one.function] += one.hit;
  Random random(2);
  std::vector<double> wastes;
  for (int i = 0; i < kResamples / 4; ++i) {
    std::vector<Ranked> drawn;
    double total = 0;
    for (size_t k = 0; k < functions.size(); ++k) {
      const size_t chosen = random.Below(functions.size());
      drawn.insert(drawn.end(), of[chosen].begin(), of[chosen].end());
      total += activations_of[chosen];
    }
    if (total <= 0) continue;
    std::stable_sort(drawn.begin(), drawn.end(),
                     [](const Ranked& a, const Ranked& b) { return a.price > b.price; });
    wastes.push_back(Sweep(functions, drawn, total, kHitRate, nullptr).waste);
  }
  const Interval interval = Middle95(std::move(wastes));
  out["waste_95"] = {interval.low, interval.high};

  size_t inversions = 0;
  for (const double share : {0.25, 0.5, 0.75}) {
    json limited = Limited(functions, decisions, at.price, share);
    inversions += limited["priority_inversions"].get<size_t>();
    out["limited"].push_back(std::move(limited));
  }
  out["priority_inversions"] = inversions;
  return out;
}

}  // namespace starling::replay
