#pragma once

#include <cstdint>

namespace starling::predictor {

// When in the week somebody (or something) is active: weekday by hour, in local time, old weeks
// counting less. Plain memory, 1.4 KiB.
class WeekProfile {
 public:
  static constexpr int kSlots = 7 * 24;
  static constexpr double kKeep = 0.9;  // of a week's weight, a week later

  // Slot 0 is Monday, 0 to 1 o'clock. `local_s`: seconds since 1970-01-01 00:00, by the local
  // clock.
  static int SlotOf(int64_t local_s);

  // One hour that has passed, or part of it: whether there was activity. An exceptional day
  // (holiday, absence) is not to be learned from.
  void Learn(int64_t local_s, bool active);
  // Probability of activity in the hour of that time; `neighbours` are taken in where little is
  // known.
  double Probability(int64_t local_s) const;
  // Hours seen in that slot, discounted.
  double seen(int slot) const { return seen_[slot]; }
  double active(int slot) const { return active_[slot]; }
  // For a store: what was learned before.
  void Restore(int slot, double seen, double active);

 private:
  float seen_[kSlots] = {};
  float active_[kSlots] = {};
};

}  // namespace starling::predictor
