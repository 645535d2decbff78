#pragma once

#include <algorithm>

#include "base/clock.h"

namespace starling::transport {

// How long to poll before going to sleep, from how long the last waits took. A sleep costs two
// switches of the thread, and a processor that falls idle is slow to wake up: much beside a round
// trip, nothing beside a long transfer. Not thread-safe.
class SpinTime {
 public:
  // Polled for in any case, since that costs less than a sleep.
  static constexpr Duration kLeast = std::chrono::microseconds(20);
  // Where waits usually take longer, they are slept through.
  static constexpr Duration kLongestUsual = std::chrono::milliseconds(2);
  // So many times the usual wait: a sleep in one round trip delays the peer's next look as well.
  static constexpr int kPatience = 8;
  static constexpr Duration kMost = std::chrono::milliseconds(8);

  Duration Next() const {
    return usual_ <= kLongestUsual ? std::clamp<Duration>(kPatience * usual_, kLeast, kMost)
                                   : kLeast;
  }

  // From the first look that found nothing to what was waited for.
  void Waited(Duration took) {
    // Clipped, so that a pause in which nothing was to come is forgotten after some messages.
    usual_ += (std::min<Duration>(took, kMost) - usual_) / 8;
  }

 private:
  Duration usual_ = kMost;
};

}  // namespace starling::transport
