#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <string>

#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/token_bucket.h"
#include "predictor/hints.h"
#include "predictor/idleness.h"
#include "runtime/reservations/resources.h"

namespace starling::hints {

// What one component says of itself, and how far it is listened to. No I/O, no clock. Whatever it
// is sent, it is of bounded size and time. Not thread-safe.
class ComponentHints {
 public:
  // Heard a second, on average; of what comes beyond, nothing is looked at.
  static constexpr double kPerSecond = 100, kBurst = 200;
  // "Not now" counts for at most a quarter of the time, and so long at once.
  static constexpr double kNotNowShare = 0.25;
  static constexpr Duration kMostNotNow = std::chrono::seconds(60);
  // Connected at once; of more nothing is known.
  static constexpr size_t kMostUsers = 64;

  ComponentHints() : rate_(kPerSecond, kBurst) {}

  // A datagram as it came. False: too many, or none of ours.
  bool Take(TimePoint now, absl::string_view datagram);

  Duration NotNowLeft(TimePoint now) const { return Left(not_now_until_, now); }
  bool GoodMoment(TimePoint now) const { return good_until_ > now; }
  const std::string& phase() const { return phase_; }
  // Who is connected, as far as it told.
  const std::set<std::string>& users() const { return users_; }
  // Sums since the last call.
  predictor::Activity TakeActivity();
  // Grows with each message by which its user did something.
  uint64_t activities() const { return activities_; }
  // What it will need; amounts in the units of reservations::Resource.
  predictor::Hints& needs(reservations::Resource resource) {
    return needs_[static_cast<size_t>(resource)];
  }
  // Seconds on the axis of the needs.
  static double AxisSeconds(TimePoint at) { return Seconds(at.time_since_epoch()); }

  uint64_t taken() const { return taken_; }
  uint64_t refused() const { return refused_; }

 private:
  static Duration Left(TimePoint until, TimePoint now) {
    return until > now ? until - now : Duration::zero();
  }
  void NotNow(TimePoint now, double seconds);

  TokenBucket rate_;
  TimePoint full_until_{};  // too many came: until then nothing is taken
  TimePoint not_now_until_{}, good_until_{};
  double not_now_budget_s_ = Seconds(kMostNotNow);
  TimePoint budget_at_{};
  std::string phase_;
  std::set<std::string> users_;
  predictor::Activity activity_;
  std::array<predictor::Hints, reservations::kResources> needs_;
  uint64_t taken_ = 0, refused_ = 0, activities_ = 0;
};

}  // namespace starling::hints
