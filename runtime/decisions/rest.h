#pragma once

#include <optional>

#include "runtime/decisions/decide.h"

namespace starling::decisions {

// What the idleness of its user means for a component: to rest (shrunk or parked, as the policy
// says), or, when it rests, to be woken because its user is expected. That the user is there wakes
// it without any decision. `shift`: Situation::idle_shift. Part of Decide(); a pure function.
std::optional<Step> RestOrWake(const ComponentView& component, const Policy& policy,
                               double shift);

}  // namespace starling::decisions
