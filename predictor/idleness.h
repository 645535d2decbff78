#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "predictor/online_net.h"

// Whether a user will stay inactive: from what the input was like before it stopped, and for how
// long it has.

namespace starling::predictor {

// What came in one second: from the component through the hints library, or seen by its shadow.
struct Activity {
  double moves = 0, drags = 0, clicks = 0, scrolls = 0;  // pointer events
  double distance_px = 0;                                // the pointer's way
  double keys = 0;                                       // key strokes
  double network_bytes = 0;
  double frames = 0;  // rendered
  double gpu = 0;     // share of the GPU in use, 0 to 1
};

inline constexpr int kIdleFeatures = 40;
using IdleFeatures = float[kIdleFeatures];

// One session's input. A second with any pointer or key event is active. About 150 bytes.
class InputActivity {
 public:
  // A second at `time_s` since the session's start, with input. Seconds without need not be told.
  // True when a gap of at least a second lay before it; its length is then last_gap_s().
  bool Step(double time_s, const Activity& activity);
  double last_gap_s() const { return last_gap_s_; }

  // What is known since the last second with input. Until the next Step these do not change: the
  // time since is handed to IdleModel.
  void Features(IdleFeatures& x) const;

 private:
  Activity last_;
  double time_s_ = -1, last_gap_s_ = 0, last_long_s_ = -1000;
  float events10_ = 0, events60_ = 0, events300_ = 0, distance10_ = 0, clicks60_ = 0;
  float drags30_ = 0, scrolls30_ = 0, keys10_ = 0, keys60_ = 0;  // decaying sums
  float network10_ = 0, frames10_ = 0, gpu10_ = 0;
  float gaps5_ = 0,
        gaps30_ = 0;  // gaps of at least so many seconds, decaying over 5 and 20 minutes
  float mean_gap_ = 0, older_gap_s_ = 0, newer_gap_s_ = 0;
  float previous_clicks_ = 0;
  uint32_t run_ = 0;     // active seconds since the last gap
  bool lonely_ = false;  // the last active second stood alone
};

// The probability that no input will come for kAhead seconds more.
class IdleModel {
 public:
  static constexpr int kAhead = 30;  // seconds
  IdleModel();

  double Probability(const IdleFeatures& x, double idle_s) const;
  // A gap ended (or was cut off) after `gap_s` seconds. Learns from one moment of it, chosen by a
  // generator of its own, for all of them. `rate`: 1 for a fit, less for following a user.
  void Learn(const IdleFeatures& x, double gap_s, double rate);

  // What was learned, as bytes of this build; false, and nothing changed, for what is not.
  std::string Save() const;
  bool Restore(std::string_view saved);

 private:
  std::array<OnlineNet<kIdleFeatures, 6>, 3> nets_;
  uint32_t random_ = 5;
};

// The probability from which a component counts as idle. It rises with what recent mistakes cost
// and falls with load: under pressure an idle component's room is worth more.
class IdleThreshold {
 public:
  explicit IdleThreshold(double base = 0.7) : base_(base) {}

  // A component that counted as idle was wanted after all; `cost` in units of an ordinary swap-in.
  void Mistake(double cost);
  // It was right.
  void Right();
  // `load`: demand over capacity of the scarcest resource, 0 to 1 and more.
  double At(double load) const;
  // By how much that is off the base, before it is kept within its bounds.
  double Shift(double load) const;

 private:
  double base_;
  double debt_ = 0;  // recent mistakes' cost beyond what the base allows
};

}  // namespace starling::predictor
