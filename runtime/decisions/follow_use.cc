#include "runtime/decisions/follow_use.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace starling::decisions {
namespace {

using predictor::kHorizonCount;
using predictor::kHorizons;

constexpr size_t kCpu = static_cast<size_t>(Resource::kCpu);
constexpr size_t kMemory = static_cast<size_t>(Resource::kMemory);
// From this share of a limit on, use presses against it, and it grows by so much.
constexpr double kPressed = 0.9, kGrowth = 1.5;
// A limit shrinks when it is too large by more than a fifth, by at most a quarter at once.
constexpr double kTooLarge = 1.25, kShrinkTo = 0.75;
// The first one: so many times what would fit.
constexpr double kFirst = 2;
// Memory in use is not taken by a limit.
constexpr double kBeyondUse = 1.05;
// Weights of components that will use a quarter of the mean, and four times it.
constexpr int kUsualWeight = 100, kLeastWeight = 25, kMostWeight = 400;

double Worst(const Outlook& outlook, size_t level, double step_s, double within_s) {
  double worst = std::max(0.0, outlook.now);
  for (size_t h = 0; h < kHorizonCount; ++h) {
    if (h > 0 && kHorizons[h] * step_s > within_s) break;
    worst = std::max(worst, outlook.at[h][level]);
  }
  return worst;
}

// 0: none.
int64_t Limit(const ComponentView& component, const Situation& s, const Policy::Limits& limits,
              size_t r) {
  const Outlook& use = component.use[r];
  const auto has = static_cast<double>(component.limit.of[r]);
  const auto capacity = static_cast<double>(s.capacity.of[r]);
  double want = limits.headroom * Worst(use, LevelOf(limits.percent), s.step_s, limits.within_s);
  want = std::max(want,
                  r == kCpu ? 1000 * limits.least_processors : limits.least_memory_mib * 1048576.0);
  if (has > 0 && use.now > kPressed * has) want = std::max(want, kGrowth * has);
  const auto least = static_cast<double>(component.least.of[r]);
  if (component.most.of[r] > 0) {
    want = std::min(want, static_cast<double>(component.most.of[r]));
  }
  want = std::max({want, least, kBeyondUse * use.now});
  double limit = has;
  if (has == 0) {
    // Of what is not known yet nothing is held back.
    if (!component.settled) return 0;
    limit = kFirst * want;
  } else if (want > has) {
    limit = want;
  } else if (component.settled && kTooLarge * want < has) {
    limit = std::max(want, kShrinkTo * has);
  }
  return capacity > 0 && limit < capacity ? static_cast<int64_t>(std::ceil(limit)) : 0;
}

int Weight(const ComponentView& component, const Situation& s, const Policy::Limits& limits,
           double mean_cpu) {
  // One that is degraded has half of what it gets here; others wait until they are known.
  if (!component.settled || mean_cpu <= 0 || s.components.size() < 2) return component.weight;
  const double will = Worst(component.use[kCpu], 0, s.step_s, limits.within_s);
  const int weight = std::clamp(static_cast<int>(std::lround(kUsualWeight * will / mean_cpu)),
                                kLeastWeight, kMostWeight);
  const double has = component.weight == 0 ? kUsualWeight : component.weight;
  return weight > kTooLarge * has || kTooLarge * weight < has ? weight : component.weight;
}

std::string ShowProcessors(int64_t limit) {
  return limit == 0 ? "all" : absl::StrFormat("%.2f", static_cast<double>(limit) / 1000);
}

std::string ShowMiB(int64_t limit) {
  return limit == 0 ? "no limit"
                    : absl::StrFormat("%.0f MiB", static_cast<double>(limit) / 1048576);
}

}  // namespace

std::optional<Step> FollowUse(const ComponentView& component, const Situation& situation,
                              const Policy& policy, double mean_cpu) {
  const bool fitted = component.limit.AnyAboveZero() || component.weight != 0;
  if (!policy.allow.limits && !fitted) return std::nullopt;
  Step step;
  step.action = Action::kLimits;
  step.component = component.name;
  if (!policy.allow.limits) {
    step.reason = "limits are not to follow use any more";
    return step;
  }
  // What it uses while it rests says nothing of what it needs.
  if (component.rest != Rest::kNone) return std::nullopt;
  for (const size_t r : {kCpu, kMemory}) {
    step.amount.of[r] = Limit(component, situation, policy.limits, r);
  }
  step.weight = Weight(component, situation, policy.limits, mean_cpu);
  if (step.amount == component.limit && step.weight == component.weight) return std::nullopt;
  step.reason = absl::StrFormat(
      "use is %.2f processors and %.0f MiB: processors %s -> %s, memory %s -> %s, weight %d",
      component.use[kCpu].now / 1000, component.use[kMemory].now / 1048576,
      ShowProcessors(component.limit.of[kCpu]), ShowProcessors(step.amount.of[kCpu]),
      ShowMiB(component.limit.of[kMemory]), ShowMiB(step.amount.of[kMemory]),
      step.weight == 0 ? kUsualWeight : step.weight);
  return step;
}

}  // namespace starling::decisions
