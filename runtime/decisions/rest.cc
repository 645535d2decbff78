#include "runtime/decisions/rest.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace starling::decisions {
namespace {

// So far below the policy's probability a user counts as expected, lest one comes and goes.
constexpr double kExpected = 0.2;
// How far load and mistakes move it: never to a guess, nor out of reach, whatever the policy says.
constexpr double kLowest = 0.5, kHighest = 0.98;

// By so much of this host's capacity another one has to be emptier for who moves for that alone.
// And so much fuller it may be of what else is used: less than that nobody can tell.
constexpr double kEmptier = 0.1, kNoFuller = 0.05;

Step StepOf(Action action, const ComponentView& component, std::string reason) {
  Step step;
  step.action = action;
  step.component = component.name;
  step.reason = std::move(reason);
  return step;
}

// From which probability on a user counts as away.
double Above(const Policy::Idle& idle, double shift) {
  return std::clamp(idle.above + shift, std::min(kLowest, idle.above),
                    std::max(kHighest, idle.above));
}

}  // namespace

bool UserStaysAway(const ComponentView& component, const Policy& policy, double shift) {
  return component.rest == Rest::kNone && !component.usual && component.movable &&
         component.not_now_s <= 0 && component.away_s >= policy.idle.after_s &&
         component.idle_probability >= Above(policy.idle, shift);
}

std::string AwayReason(const ComponentView& component) {
  return absl::StrFormat("its user has been away for %.0f s, and stays away with probability %.2f",
                         component.away_s, component.idle_probability);
}

bool Emptier(const std::array<double, kResources>& here, const Amounts& there,
             const Amounts& amount, const Amounts& capacity, const Policy& policy) {
  std::optional<size_t> scarcest;
  double least = 0;  // of it, the share that is left here
  for (size_t r = 0; r < kResources; ++r) {
    if (capacity.of[r] <= 0 || !policy.Watches(static_cast<Resource>(r))) continue;
    const auto whole = static_cast<double>(capacity.of[r]);
    const auto left = static_cast<double>(there.of[r]);
    if (amount.of[r] > 0 && left < here[r] - kNoFuller * whole) return false;
    if (scarcest && here[r] / whole >= least) continue;
    scarcest = r;
    least = here[r] / whole;
  }
  if (!scarcest || amount.of[*scarcest] <= 0) return false;
  const double left =
      static_cast<double>(there.of[*scarcest]) / static_cast<double>(capacity.of[*scarcest]);
  return least <= 1 - policy.idle.move_at && left >= least + kEmptier;
}

std::optional<Step> RestOrWake(const ComponentView& component, const Policy& policy, double shift) {
  const Policy::Idle& idle = policy.idle;
  const bool rests_here = idle.rest == Rest::kShrunk || idle.rest == Rest::kParked;
  if (component.rest != Rest::kNone) {
    // What a person put to rest is not woken by a guess.
    if (component.rests_by_hand) return std::nullopt;
    if (!rests_here && !component.sent_to_rest) {
      return StepOf(Action::kWake, component, "the policy lets nothing rest any more");
    }
    if (component.usual) {
      return StepOf(Action::kWake, component, "its user usually works with it at this hour");
    }
    // The host that it came from knew its users, and this one's guess is no better.
    if (component.sent_to_rest) return std::nullopt;
    if (component.idle_probability < Above(idle, shift) - kExpected) {
      return StepOf(Action::kWake, component,
                    absl::StrFormat("its user is expected: stays away with probability %.2f",
                                    component.idle_probability));
    }
    return std::nullopt;
  }
  if (!rests_here || !UserStaysAway(component, policy, shift)) return std::nullopt;
  return StepOf(idle.rest == Rest::kParked ? Action::kPark : Action::kShrink, component,
                AwayReason(component));
}

}  // namespace starling::decisions
