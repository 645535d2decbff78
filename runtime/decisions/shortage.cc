#include "runtime/decisions/shortage.h"

#include <cmath>

namespace starling::decisions {
namespace {

// What cannot wait is no farther off than so many times as long as the shortest move takes.
constexpr double kLead = 2;

}  // namespace

using predictor::kHorizonCount;
using predictor::kHorizons;

double Expectations::Threshold(const Rule& rule, double lower) const {
  return std::clamp(rule.above + s_.threshold_shift - lower, 0.05, 1.0);
}

size_t Expectations::LevelFor(const Rule& rule, double when_s, const Likely& likely) const {
  const double span = std::max(1.0, p_.reserve.within_s - rule.within_s);
  const double beyond = std::clamp((when_s - rule.within_s) / span, 0.0, 1.0);
  const int percent = static_cast<int>(rule.percent - beyond * (rule.percent - 50));
  return LevelOf(
      std::min(percent, when_s > likely.beyond_s ? likely.percent : likely.urgent_percent));
}

Expectations::Likely Expectations::WorthMoving() const {
  double move_s = std::numeric_limits<double>::infinity(), blackout_s = move_s;
  for (const ComponentView& component : s_.components) {
    if (!component.may_move()) continue;
    blackout_s = std::min(blackout_s, component.move_blackout_s);
    for (const HostView& host : s_.hosts) {
      const double bytes = std::max(0.0, BytesToMove(s_, component, host.name));
      move_s =
          std::min(move_s, bytes / std::max(1.0, host.bytes_per_s) + component.move_blackout_s);
    }
  }
  const int percent = static_cast<int>(100 * s_.step_s / (s_.step_s + blackout_s));
  return {kLead * move_s, p_.move_percent, std::max(percent, p_.move_percent)};
}

Shortage Expectations::Expected(double within_s, double lower, bool present,
                                const Likely& likely) const {
  Shortage shortage;
  double worst = 0;
  for (const Rule& rule : p_.rules) {
    const auto r = static_cast<size_t>(rule.resource);
    if (s_.capacity.of[r] <= 0 || (present && rule.percent != 0)) continue;
    const double limit = Capacity(r) * Threshold(rule, lower);
    const auto see = [&](double value, double when_s, std::optional<size_t> horizon,
                         std::optional<size_t> level) {
      const double over = value - limit;
      if (over <= 0) return;
      if (over > shortage.missing[r]) {
        shortage.missing[r] = over;
        shortage.horizon[r] = horizon;
        shortage.level[r] = level;
      }
      shortage.now = shortage.now || !horizon;
      if (over / Capacity(r) <= worst && shortage.rule != nullptr) return;
      worst = over / Capacity(r);
      shortage.rule = &rule;
      shortage.value = value;
      shortage.limit = limit;
      shortage.when_s = when_s;
    };
    const Outlook& demand = s_.demand[r];
    const auto incoming = static_cast<double>(s_.incoming.of[r]);
    if (rule.percent == 0) {
      if (s_.short_for_s >= rule.within_s) see(demand.now, 0, std::nullopt, std::nullopt);
      continue;
    }
    for (int h = 0; h < kHorizonCount; ++h) {
      const double when_s = kHorizons[static_cast<size_t>(h)] * s_.step_s;
      // The nearest horizon is looked at even by a rule that is shorter.
      if (h > 0 && when_s > std::max(rule.within_s, within_s)) break;
      const size_t at = h == 0 ? LevelOf(std::min(rule.percent, likely.urgent_percent))
                               : LevelFor(rule, when_s, likely);
      see(demand.at[static_cast<size_t>(h)][at] + incoming, when_s, static_cast<size_t>(h), at);
    }
    for (size_t n = 0; n < s_.needs.size(); ++n) {
      const NeedView& need = s_.needs[n];
      if (need.resource != r || need.when_s > std::max(rule.within_s, within_s)) continue;
      const size_t at = LevelFor(rule, need.when_s, likely);
      see(need.demand[at] + incoming, need.when_s, kHorizonCount + n, at);
    }
  }
  return shortage;
}

ForeseenShortage Expectations::Foreseen(const Shortage& shortage) const {
  if (!shortage.any()) return {};
  const auto r = static_cast<size_t>(shortage.rule->resource);
  if (!shortage.horizon[r]) return {1, shortage.when_s};
  const auto incoming = static_cast<double>(s_.incoming.of[r]);
  return {ChanceAbove(DemandAt(r, *shortage.horizon[r]), shortage.limit - incoming),
          shortage.when_s};
}

const Expectations::Levels& Expectations::DemandAt(size_t resource, size_t horizon) const {
  if (horizon < kHorizonCount) return s_.demand[resource].at[horizon];
  return s_.needs[horizon - kHorizonCount].demand;
}

const Expectations::Levels& Expectations::UseAt(const ComponentView& component, size_t resource,
                                                size_t horizon) const {
  if (horizon < kHorizonCount) return component.use[resource].at[horizon];
  for (const NeedView::Part& part : s_.needs[horizon - kHorizonCount].parts) {
    if (part.component == component.name) return part.use;
  }
  return component.use[resource].at.back();
}

Relief Expectations::ReliefOf(const ComponentView& component, const Shortage& shortage) const {
  Relief relief = {};
  for (size_t r = 0; r < kResources; ++r) {
    const Outlook& own = component.use[r];
    if (!shortage.horizon[r]) {
      relief[r] = std::max(0.0, own.now);
      continue;
    }
    const size_t h = *shortage.horizon[r], level = *shortage.level[r];
    const Levels& all = DemandAt(r, h);
    const Levels& its = UseAt(component, r, h);
    const double together = std::max(0.0, all[level] - all[0]);
    const double spread = std::clamp(its[level] - its[0], 0.0, together);
    relief[r] = std::max(0.0, its[0]) + together - std::sqrt(together * together - spread * spread);
  }
  return relief;
}

bool Expectations::AboveNow() const {
  return std::any_of(p_.rules.begin(), p_.rules.end(), [&](const Rule& rule) {
    const auto r = static_cast<size_t>(rule.resource);
    return rule.percent == 0 && s_.capacity.of[r] > 0 &&
           s_.demand[r].now > Capacity(r) * Threshold(rule, 0);
  });
}

}  // namespace starling::decisions
