#pragma once

#include <array>
#include <optional>
#include <string>

#include "runtime/decisions/decide.h"

namespace starling::decisions {

// Whether the user of a component that runs has been away for long enough, and stays away by the
// policy's probability; not one that may not be touched. `shift`: Situation::idle_shift.
bool UserStaysAway(const ComponentView& component, const Policy& policy, double shift);
// In words.
std::string AwayReason(const ComponentView& component);

// Whether another host has, with a component of this `amount` on it, hardly less left of what that
// uses (`there`) than this one has now (`here`), and clearly more of what is scarcest here, of
// which this host is loaded by Policy::Idle::move_at: then nothing of the kind moves it back.
bool Emptier(const std::array<double, kResources>& here, const Amounts& there,
             const Amounts& amount, const Amounts& capacity, const Policy& policy);

// What the idleness of its user means for a component: to rest (shrunk or parked, as the policy
// says), or, when it rests, to be woken because its user is expected. That the user is there wakes
// it without any decision. Moving it away is no rest here: see UserStaysAway(). Part of Decide();
// pure functions.
std::optional<Step> RestOrWake(const ComponentView& component, const Policy& policy, double shift);

}  // namespace starling::decisions
