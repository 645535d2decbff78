#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "predictor/forecaster.h"

namespace starling::predictor {

// What a component says of itself: "at this time I will need so much". An input, not an order: it
// counts for as much as its source was right before.

// How far a source of hints is to be believed: hits over hints, discounted, from a prior of one
// half.
class Reliability {
 public:
  // `share` of a hint that came true, 0 to 1.
  void Learn(double share);
  double value() const { return (hits_ + kPrior) / (hints_ + 2 * kPrior); }

 private:
  friend class Hints;
  static constexpr double kPrior = 1, kKeep = 0.9;
  double hits_ = 0, hints_ = 0;
};

struct Hint {
  uint32_t source = 0;      // who says it
  double time_s = 0;        // when it will be needed
  double amount = 0;        // in the metric's unit
  double tolerance = 0.25;  // share of the amount, and of the step up to it, that counts as right
};

// The hints for one metric of one component. Open hints are kept in what is reserved once; with
// more of them than that the farthest is dropped.
class Hints {
 public:
  static constexpr size_t kOpen = 16, kSources = 16;
  // A hint is judged by the best value from kEarly before its time to kLate after.
  static constexpr double kEarly_s = 30, kLate_s = 120;
  // Below this its source is not listened to.
  static constexpr double kLeastReliability = 0.3;

  Hints();
  // False: nonsense (not finite, or negative), or in the past: not taken.
  bool Add(double now_s, const Hint& hint);
  // The metric's value; judges hints whose time has come.
  void Observe(double now_s, double value);
  // `forecast` for the time `at_s`, moved towards the hints for then by their sources' reliability.
  Forecast Apply(double at_s, const Forecast& forecast) const;
  double reliability(uint32_t source) const;
  size_t open() const { return open_.size(); }
  // i < open(); in no order.
  const Hint& hint(size_t i) const { return open_[i].hint; }
  // Whether Apply() at this time listens to this hint, as long as its source is believed.
  static bool Covers(const Hint& hint, double at_s) {
    return at_s >= hint.time_s - kEarly_s && at_s <= hint.time_s + kLate_s;
  }

  // Open hints and what was learned of their sources, as bytes, with times relative to `now_s`: to
  // be taken up again on another axis.
  std::string Save(double now_s) const;
  // What was saved `later_s` ago. False, and nothing changed, when it makes no sense.
  bool Restore(std::string_view saved, double now_s, double later_s);

 private:
  struct Open {
    Hint hint;
    double base = 0;     // the value when it was given
    double nearest = 0;  // the value in its time that came nearest to it
    bool seen = false;
  };
  struct Source {
    uint32_t id = 0;
    Reliability reliability;
  };
  Reliability* Find(uint32_t source);

  std::vector<Open> open_;
  std::vector<Source> sources_;
  double last_value_ = 0;
};

}  // namespace starling::predictor
