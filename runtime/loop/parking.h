#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "base/clock.h"
#include "runtime/decisions/situation.h"
#include "runtime/loop/limits.h"

namespace starling::loop {

// Components that rest while their users are away: shrunk (little memory and weight) or parked
// (frozen, their memory paged out). Each is as it was again as soon as its user is seen, which is
// looked for twenty times a second: an activity hint, which for a parked component comes from
// somebody who acts for it (it cannot speak itself), or, when parked, a packet for its address.
//
// A parked component does not depend on this agent: its keeper lets it run on by itself a while
// after nobody has renewed the freeze any more. Thread-safe.
class Parking {
 public:
  struct Parts {
    // The keeper's: freezes it for so many seconds, or anew; thaws it.
    std::function<absl::Status(const std::string& component, double term_s)> freeze;
    std::function<absl::Status(const std::string& component)> thaw;
    // Grow when its user does something, and when a packet comes for it.
    std::function<uint64_t(const std::string&component)> activities, packets;
    std::function<void(const std::string& component, absl::string_view kind,
                       absl::string_view text)>
        event;
    // Its user came back, after so long.
    std::function<void(decisions::Rest rest, Duration after)> came_back;
  };
  // All that is referred to outlives it.
  Parking(Limits& limits, Parts parts, Duration term = std::chrono::seconds(30));
  // Whoever rests stays as it is, but for the keepers' terms; see WakeAll().
  ~Parking();

  // Who wants a component to rest.
  enum class By : uint8_t {
    kPolicy,  // this host's
    kHost,    // the one that it came from
    kPerson,
  };
  // Frozen when this returns; its memory is paged out after that. Again is fine, and makes one that
  // is shrunk parked; whoever is the surest of those who want it counts.
  absl::Status Park(const std::string& component, const std::string& cgroup, By by,
                    absl::string_view why);
  // No more than so many bytes of memory before it is slowed down.
  absl::Status Shrink(const std::string& component, const std::string& cgroup, int64_t bytes,
                      absl::string_view why);
  // It runs, and has its limits back, when this returns; its memory is brought in after that. Fine
  // for one that does not rest.
  absl::Status Wake(const std::string& component, absl::string_view why);
  // `others_too`: those as well that rest for another reason than this host's policy.
  void WakeAll(absl::string_view why, bool others_too);

  struct State {
    decisions::Rest rest = decisions::Rest::kNone;
    By by = By::kPolicy;
  };
  State Of(const std::string& component) const;
  // What is known of others is forgotten: they are not here any more.
  void KeepOnly(const std::function<bool(const std::string& component)>& lives);

 private:
  struct Resting {
    std::string cgroup;
    State state;
    uint64_t activities = 0, packets = 0;  // when it was put to rest
    TimePoint since{}, renewed{};
    int64_t to_page_out = 0;  // bytes
  };
  static constexpr Duration kLook = std::chrono::milliseconds(50);

  void Watch(const std::stop_token& stop);
  // Why it is to wake; empty: it is not.
  std::string Seen(const std::string& component, const Resting& resting) const;
  void Renew(const std::string& component, TimePoint now);
  // A piece of what parked components still have in memory. False: there is nothing to do.
  bool PageOutSome();

  Limits& limits_;
  const Parts parts_;
  const Duration term_;
  // Held while one is put to rest or woken, so that neither overtakes the other.
  std::mutex doing_;
  mutable std::mutex mutex_;
  std::condition_variable_any wake_;
  std::map<std::string, Resting> resting_;  // guarded by mutex_
  std::jthread thread_;
};

}  // namespace starling::loop
