#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <optional>

#include "runtime/decisions/policy.h"
#include "runtime/decisions/situation.h"
#include "runtime/decisions/staging.h"

// What will be short, by a policy's rules. Part of Decide(); pure.

namespace starling::decisions {

// Of each resource: what a step takes away, or what is used.
using Relief = std::array<double, kResources>;

// What is missing of each resource, and the rule that says so most strongly.
struct Shortage {
  Relief missing = {};
  // Of each resource: the horizon (or, beyond them, the need) and the quantile by which it is
  // missing; of present use, none.
  std::array<std::optional<size_t>, kResources> horizon, level;
  const Rule* rule = nullptr;
  double value = 0, limit = 0, when_s = 0;
  bool now = false;

  bool any() const { return rule != nullptr; }
  // 0 to 1 and more: of the capacity, all resources together.
  double Weight(const Relief& relief, const Amounts& capacity) const {
    double weight = 0;
    for (size_t i = 0; i < kResources; ++i) {
      if (missing[i] <= 0 || capacity.of[i] <= 0) continue;
      weight += std::min(missing[i], relief[i]) / static_cast<double>(capacity.of[i]);
    }
    return weight;
  }
  bool left() const {
    return std::any_of(missing.begin(), missing.end(), [](double m) { return m > 0; });
  }
  void Take(const Relief& relief) {
    for (size_t i = 0; i < kResources; ++i) missing[i] = std::max(0.0, missing[i] - relief[i]);
  }
};

// What a situation has its host expect. Both have to outlive it.
class Expectations {
 public:
  using Levels = std::array<double, kLevelCount>;

  Expectations(const Situation& situation, const Policy& policy) : s_(situation), p_(policy) {}

  // By which quantiles, at most, a shortage has to be expected to count: that what is no farther
  // off than `beyond_s`, or at the nearest horizon, is as likely as `urgent_percent` leaves it, and
  // what is farther off as `percent` does.
  struct Likely {
    double beyond_s = std::numeric_limits<double>::infinity();
    int percent = 100;
    int urgent_percent = 100;
  };
  // What components may be moved for. A shortage that is no farther off than twice what the
  // shortest move takes cannot wait for a surer forecast; but another step's wait costs a step of
  // what is short, if it comes, and a move its blackout, also if it does not. What is farther off
  // has to be expected by the policy's move_percent.
  Likely WorthMoving() const;
  // What the rules find missing: within `within_s` of now, or within each rule's own when 0;
  // thresholds lowered by `lower`. `present`: by rules of present use alone.
  Shortage Expected(double within_s, double lower, bool present, const Likely& likely) const;
  Shortage Expected(double within_s, double lower, bool present) const {
    return Expected(within_s, lower, present, Likely());
  }
  // How likely it is, by the resource that is missing most.
  ForeseenShortage Foreseen(const Shortage& shortage) const;
  // Whether more is in use than a rule of present use bears, for however short a time.
  bool AboveNow() const;

  // Of the capacity, from which on it is short.
  double Threshold(const Rule& rule, double lower) const;
  // What a component uses at a horizon, or at a need beyond them.
  const Levels& UseAt(const ComponentView& component, size_t resource, size_t horizon) const;
  // What the host is spared when a component leaves: of present use what it uses; of a quantile of
  // the sum its median, and of the sum's spread what its own has in it, which is less than both
  // apart, as spreads add up by their squares.
  Relief ReliefOf(const ComponentView& component, const Shortage& shortage) const;

 private:
  double Capacity(size_t resource) const { return static_cast<double>(s_.capacity.of[resource]); }
  // The quantile that counts at a distance. A rule acts by its own; beyond, room is reserved, and
  // the farther off a shortage, the likelier it has to be: more likely than not at the far end. Of
  // a wide interval an upper bound is nearly always above something.
  size_t LevelFor(const Rule& rule, double when_s, const Likely& likely) const;
  // Of all components together.
  const Levels& DemandAt(size_t resource, size_t horizon) const;

  const Situation& s_;
  const Policy& p_;
};

}  // namespace starling::decisions
