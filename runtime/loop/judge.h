#pragma once

#include <optional>
#include <string>

#include "base/clock.h"
#include "predictor/idleness.h"
#include "runtime/decisions/decide.h"
#include "runtime/decisions/thresholds.h"

namespace starling::loop {

// What one decision needs to know of those before it: for how long it has been calm or short, what
// was foreseen and what was not, and what was told already. No I/O, no clock. Not thread-safe.
class Judge {
 public:
  // Fills in `situation` what it knows, and decides.
  decisions::Decision Decide(TimePoint now, const decisions::Policy& policy,
                             decisions::Situation& situation);
  // A reservation was for a shortage that did not come.
  void InVain(const decisions::Policy& policy);
  // The user of a component that rested came back after so long: too soon, and it takes more from
  // now on to be put to rest; or not.
  void CameBack(decisions::Rest rest, Duration after);

  // Whether the last decision is another one than the last that was told, or was told long ago;
  // remembers that it was when it says yes. That there is nothing to do is told once.
  bool Tell(TimePoint now, const decisions::Decision& decision);

 private:
  static constexpr Duration kTellAgain = std::chrono::seconds(60);

  decisions::Thresholds thresholds_;
  predictor::IdleThreshold idle_;
  std::optional<TimePoint> before_, calm_since_, above_since_, short_since_;
  bool foreseen_ = false;    // a shortage was, at the decision before
  bool unforeseen_ = false;  // the shortage that there is now was not
  std::string told_;
  std::optional<TimePoint> told_at_;
};

}  // namespace starling::loop
