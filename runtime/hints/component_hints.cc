#include "runtime/hints/component_hints.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "libstarling/wire.h"
#include "runtime/names.h"

namespace starling::hints {
namespace {

// A good moment that is said to last longer is no moment.
constexpr double kMostGoodMoment_s = 600;
constexpr double kFarthestNeed_s = 86400;

}  // namespace

void ComponentHints::NotNow(TimePoint now, double seconds) {
  const double most = Seconds(kMostNotNow);
  if (budget_at_ != TimePoint{}) {
    not_now_budget_s_ =
        std::min(most, not_now_budget_s_ + kNotNowShare * Seconds(now - budget_at_));
  }
  budget_at_ = now;
  // What was granted before and not used comes back.
  not_now_budget_s_ = std::min(most, not_now_budget_s_ + Seconds(NotNowLeft(now)));
  const double granted = std::clamp(seconds, 0.0, not_now_budget_s_);
  not_now_budget_s_ -= granted;
  not_now_until_ =
      now + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(granted));
}

bool ComponentHints::Take(TimePoint now, absl::string_view datagram) {
  // A flood costs what it costs to look at the clock; it is not worked off later.
  if (now < full_until_) {
    ++refused_;
    return false;
  }
  const Duration wait = rate_.Take(1, now);
  if (wait > Duration::zero()) full_until_ = now + wait;
  starling_wire hint;
  ++refused_;
  if (datagram.size() != sizeof(hint)) return false;
  std::memcpy(&hint, datagram.data(), sizeof(hint));
  if (hint.magic != STARLING_WIRE_MAGIC || !std::isfinite(hint.amount) ||
      !std::isfinite(hint.seconds) || hint.seconds < 0 || hint.amount < 0) {
    return false;
  }
  switch (hint.kind) {
    case STARLING_WIRE_NEED: {
      if (hint.resource >= reservations::kResources || hint.seconds > kFarthestNeed_s) return false;
      const auto resource = static_cast<reservations::Resource>(hint.resource);
      const bool counted =
          resource == reservations::Resource::kCpu || resource == reservations::Resource::kGpu;
      const double at = AxisSeconds(now);
      predictor::Hint need;
      need.time_s = at + hint.seconds;
      need.amount = counted ? 1000 * hint.amount : hint.amount;
      if (!needs(resource).Add(at, need)) return false;
      break;
    }
    case STARLING_WIRE_ACTIVITY:
      activity_.moves += hint.moves;
      activity_.clicks += hint.clicks;
      activity_.scrolls += hint.scrolls;
      activity_.keys += hint.keys;
      activity_.frames += hint.frames;
      activities_ += hint.moves > 0 || hint.clicks > 0 || hint.scrolls > 0 || hint.keys > 0;
      break;
    case STARLING_WIRE_GOOD_MOMENT:
      good_until_ = now + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(
                              std::min(hint.seconds, kMostGoodMoment_s)));
      break;
    case STARLING_WIRE_NOT_NOW:
      NotNow(now, hint.seconds);
      break;
    case STARLING_WIRE_PHASE: {
      // It is shown to people: nothing that a terminal obeys.
      const absl::string_view name(hint.phase, strnlen(hint.phase, sizeof(hint.phase)));
      if (name.size() == sizeof(hint.phase) ||
          !std::all_of(name.begin(), name.end(), [](char c) { return absl::ascii_isprint(c); })) {
        return false;
      }
      phase_ = std::string(name);
      break;
    }
    case STARLING_WIRE_CONNECTED:
    case STARLING_WIRE_DISCONNECTED: {
      const std::string user(hint.phase, strnlen(hint.phase, sizeof(hint.phase)));
      if (!CheckProfileUser(user).ok()) return false;
      if (hint.kind == STARLING_WIRE_DISCONNECTED) {
        users_.erase(user);
      } else if (users_.size() < kMostUsers || users_.contains(user)) {
        users_.insert(user);
      } else {
        return false;
      }
      break;
    }
    default:
      return false;
  }
  --refused_;
  ++taken_;
  return true;
}

predictor::Activity ComponentHints::TakeActivity() { return std::exchange(activity_, {}); }

}  // namespace starling::hints
