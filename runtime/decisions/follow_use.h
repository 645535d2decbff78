#pragma once

#include <optional>

#include "runtime/decisions/decide.h"

namespace starling::decisions {

// Limits of one component by what it uses and will use: a step to others when those that it has do
// not fit, nothing otherwise. Part of Decide(); a pure function.
//
// A limit is room beyond the quantile that the policy names, never less than what a lease promises
// the component, and never more than its specification and what is promised to others leave, but
// for what it uses already. It grows at once, and by half when use presses against it, since what
// is held back cannot be foreseen; it shrinks by a quarter a step at most, once the component has
// been watched for long enough, until it fits. `mean_cpu`: of the medians of all components here,
// in thousandths of a processor; weights stand in proportion to it.
std::optional<Step> FollowUse(const ComponentView& component, const Situation& situation,
                              const Policy& policy, double mean_cpu);

}  // namespace starling::decisions
