#include "runtime/loop/judge.h"

#include <algorithm>
#include <cctype>

#include "absl/strings/str_cat.h"
#include "runtime/decisions/shortage.h"

namespace starling::loop {

using decisions::Decision;
using decisions::Policy;
using decisions::Situation;

namespace {

constexpr size_t kP90 = 2;
static_assert(decisions::kLevels[kP90] == 0.9);
// A shortage of this length, unforeseen, is one ordinary mistake.
constexpr double kOrdinary_s = 10;
// What a user who comes back too soon has to bear, in units of predictor::IdleThreshold.
constexpr double kParkedInVain = 1, kLessInVain = 0.5;

// Demand over capacity of what is scarcest. How full a disk is matters where a rule says so.
double Load(const Situation& situation, const Policy& policy) {
  double load = 0;
  for (size_t r = 0; r < decisions::kResources; ++r) {
    const auto resource = static_cast<decisions::Resource>(r);
    const bool aside =
        std::find(decisions::kMayBeUnmeasured.begin(), decisions::kMayBeUnmeasured.end(),
                  resource) != decisions::kMayBeUnmeasured.end();
    if (situation.capacity.of[r] <= 0 || (aside && !policy.Watches(resource))) continue;
    load = std::max(
        load, situation.demand[r].at[0][kP90] / static_cast<double>(situation.capacity.of[r]));
  }
  return load;
}

// What two decisions have alike that differ in their figures only.
std::string Essence(const Decision& decision) {
  std::string text = decision.reason;
  for (const decisions::Step& step : decision.steps) {
    absl::StrAppend(&text, "\n", decisions::Name(step.action), "\n", step.reason);
  }
  std::erase_if(text, [](unsigned char c) { return std::isdigit(c) || c == '.'; });
  // Names have figures of their own.
  for (const decisions::Step& step : decision.steps) {
    absl::StrAppend(&text, "\n", step.component, "\n", step.host);
  }
  return text;
}

}  // namespace

Decision Judge::Decide(TimePoint now, const Policy& policy, Situation& situation) {
  const double passed_s = before_ ? std::max(0.0, Seconds(now - *before_)) : 0;
  before_ = now;
  const auto since_s = [now](const std::optional<TimePoint>& since) {
    return since ? Seconds(now - *since) : 0;
  };
  const double load = Load(situation, policy);
  situation.threshold_shift = thresholds_.Shift(policy.thresholds, load);
  situation.idle_shift = idle_.Shift(load);
  if (!decisions::Expectations(situation, policy).AboveNow()) {
    above_since_.reset();
  } else if (!above_since_) {
    above_since_ = now;
  }
  situation.short_for_s = since_s(above_since_);
  situation.calm_s = since_s(calm_since_);
  Decision decision = decisions::Decide(situation, policy);
  const bool expected = decision.short_of || decision.short_later;
  if (expected) {
    calm_since_.reset();
  } else {
    if (!calm_since_) calm_since_ = now;
    thresholds_.Calm(passed_s);
  }
  if (decision.short_now && !short_since_) {
    short_since_ = now;
    unforeseen_ = !foreseen_;
  } else if (!decision.short_now && short_since_) {
    if (unforeseen_) thresholds_.Missed(policy.thresholds, since_s(short_since_) / kOrdinary_s);
    short_since_.reset();
  }
  foreseen_ = expected;
  return decision;
}

void Judge::InVain(const Policy& policy) { thresholds_.InVain(policy.thresholds, 1); }

void Judge::CameBack(decisions::Rest rest, Duration after) {
  if (after >= std::chrono::seconds(predictor::IdleModel::kAhead)) {
    idle_.Right();
  } else {
    idle_.Mistake(rest == decisions::Rest::kParked ? kParkedInVain : kLessInVain);
  }
}

bool Judge::Tell(TimePoint now, const Decision& decision) {
  std::string essence = Essence(decision);
  const bool nothing = decision.steps.empty() && !decision.short_of && !decision.short_later;
  const bool again = !nothing && told_at_ && now - *told_at_ >= kTellAgain;
  if (essence == told_ && !again) return false;
  // At the start there is nothing to tell of nothing.
  const bool first = told_.empty();
  told_ = std::move(essence);
  told_at_ = now;
  return !(first && nothing);
}

}  // namespace starling::loop
