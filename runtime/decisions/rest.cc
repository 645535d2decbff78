#include "runtime/decisions/rest.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace starling::decisions {
namespace {

// So far below the policy's probability a user counts as expected, lest one comes and goes.
constexpr double kExpected = 0.2;
// How far load and mistakes move it: never to a guess, nor out of reach, whatever the policy says.
constexpr double kLowest = 0.5, kHighest = 0.98;

Step StepOf(Action action, const ComponentView& component, std::string reason) {
  Step step;
  step.action = action;
  step.component = component.name;
  step.reason = std::move(reason);
  return step;
}

}  // namespace

std::optional<Step> RestOrWake(const ComponentView& component, const Policy& policy,
                               double shift) {
  const Policy::Idle& idle = policy.idle;
  const double above = std::clamp(idle.above + shift, std::min(kLowest, idle.above),
                                  std::max(kHighest, idle.above));
  if (component.rest != Rest::kNone) {
    // What a person put to rest is not woken by a guess.
    if (component.rests_by_hand) return std::nullopt;
    if (idle.rest == Rest::kNone) {
      return StepOf(Action::kWake, component, "the policy lets nothing rest any more");
    }
    if (component.usual) {
      return StepOf(Action::kWake, component, "its user usually works with it at this hour");
    }
    if (component.idle_probability < above - kExpected) {
      return StepOf(Action::kWake, component,
                    absl::StrFormat("its user is expected: stays away with probability %.2f",
                                    component.idle_probability));
    }
    return std::nullopt;
  }
  if (idle.rest == Rest::kNone || component.usual || !component.movable ||
      component.not_now_s > 0 || component.away_s < idle.after_s ||
      component.idle_probability < above) {
    return std::nullopt;
  }
  return StepOf(idle.rest == Rest::kParked ? Action::kPark : Action::kShrink, component,
                absl::StrFormat("its user has been away for %.0f s, and stays away with "
                                "probability %.2f",
                                component.away_s, component.idle_probability));
}

}  // namespace starling::decisions
