#pragma once

#include <chrono>

namespace starling {

// Time for durations and deadlines: CLOCK_MONOTONIC. Wall-clock time appears in events and reports
// only.
using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;
using Duration = Clock::duration;

// A point in time after which an operation gives up. Value type.
class Deadline {
 public:
  static Deadline After(Duration timeout) { return Deadline(Clock::now() + timeout); }
  static Deadline Never() { return Deadline(TimePoint::max()); }

  explicit Deadline(TimePoint at) : at_(at) {}

  TimePoint at() const { return at_; }
  bool Passed() const { return Clock::now() >= at_; }

  // What is left, never negative; clamped to an hour so that it fits every system call's timeout.
  std::chrono::milliseconds Left() const {
    using std::chrono::milliseconds;
    const auto now = Clock::now();
    if (at_ <= now) return milliseconds(0);
    if (at_ - now > std::chrono::hours(1)) return milliseconds(std::chrono::hours(1));
    // Rounded up, so that a poll() with it does not spin through the last fraction of a
    // millisecond.
    return std::chrono::ceil<milliseconds>(at_ - now);
  }

 private:
  TimePoint at_;
};

inline double Seconds(Duration d) { return std::chrono::duration<double>(d).count(); }
inline double Milliseconds(Duration d) {
  return std::chrono::duration<double, std::milli>(d).count();
}

}  // namespace starling
