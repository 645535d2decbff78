#pragma once

#include <algorithm>
#include <cstdint>

#include "base/clock.h"

namespace starling {

// Holds something to a rate over time, and lets bursts through. Value type, not thread-safe.
class TokenBucket {
 public:
  // `rate_per_s` 0: no limit. `burst` is what may go at once.
  TokenBucket(double rate_per_s, double burst)
      : rate_per_s_(rate_per_s), burst_(burst), tokens_(burst) {}

  // Takes `amount`, and says how long to wait before going on.
  Duration Take(uint64_t amount, TimePoint now) {
    if (rate_per_s_ <= 0) return Duration::zero();
    if (filled_ != TimePoint{}) {
      tokens_ = std::min(burst_, tokens_ + Seconds(now - filled_) * rate_per_s_);
    }
    filled_ = now;
    tokens_ -= static_cast<double>(amount);
    if (tokens_ >= 0) return Duration::zero();
    return std::chrono::duration_cast<Duration>(
        std::chrono::duration<double>(-tokens_ / rate_per_s_));
  }

 private:
  double rate_per_s_;
  double burst_;
  double tokens_;
  TimePoint filled_{};
};

}  // namespace starling
