#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"

// How much a component is slowed down by being copied, and what is done about it.

namespace starling::migration {

// A cgroup's sums since it was made.
struct ProcessorTimes {
  Duration stalled{};  // some task waited for a processor while it could have run
  Duration used{};     // processor time of all tasks
};

// Of pressure stall information (Documentation/accounting/psi.rst) and cpu.stat. kNotFound on
// kernels without the former.
absl::StatusOr<ProcessorTimes> ReadProcessorTimes(const std::string& cgroup);

// What a component does per second: shares of the time that it waits, and processors that it uses.
struct ProcessorShares {
  double stalled = 0;
  double used = 0;
};

ProcessorShares SharesBetween(const ProcessorTimes& before, const ProcessorTimes& after,
                              Duration elapsed);

// Decides for what share of their time reading threads may work, so that the component has no less
// processor time than before by more than a share of `bound` of it (and a twentieth of a processor)
// where it waits for processors instead. Reading that is slower than a link of a gigabit is not held
// back. One that waits now and then and has as much as before is not slowed down: it was idle in
// between. Pure. One thread at a time.
class SlowdownGovernor {
 public:
  // `usual`: what the component did before; a bound of 1 or more: none.
  SlowdownGovernor(double bound, ProcessorShares usual)
      : bound_(bound), usual_(usual), lately_(usual) {}

  // Is it time to look again?
  bool Due(TimePoint now) const { return bound_ < 1 && now - looked_ >= kEvery; }
  void Look(TimePoint now, const ProcessorTimes& times);
  // How long a thread is to rest that has worked for so long to read so much.
  Duration Rest(uint64_t bytes, Duration worked);

  double share() const { return share_; }  // of the time that is worked
  double lowest_share() const { return lowest_; }

 private:
  static constexpr auto kEvery = std::chrono::milliseconds(50);

  const double bound_;
  const ProcessorShares usual_;
  ProcessorShares lately_;
  double share_ = 1;
  double lowest_ = 1;
  TimePoint looked_{};
  ProcessorTimes times_;
  uint64_t read_ = 0;      // bytes, since it was looked at
  double read_per_s_ = 0;  // lately
};

// The processors that a component may use, in a component that is made to write more slowly.
class Throttle {
 public:
  explicit Throttle(std::string cgroup) : cgroup_(std::move(cgroup)) {}

  // Leaves the component seven tenths of what it used since the last call, or may use now; a
  // twentieth of a processor at least. Returns how many processors that is.
  // kFailedPrecondition where the cgroup has no cpu controller.
  absl::StatusOr<double> Tighten(TimePoint now);
  // Remembers what was used so far.
  void Look(TimePoint now);
  // Lifts any limit of a throttle, also of one made by an agent before this one.
  static void Lift(const std::string& cgroup);

 private:
  const std::string cgroup_;
  TimePoint looked_{};
  Duration used_{};
  double processors_ = 0;  // allowed; 0: all
};

}  // namespace starling::migration
