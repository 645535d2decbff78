// C++ for libstarling; see starling.h. Each answers whether the hint was handed over.
#pragma once

#include <chrono>
#include <string>

#include "starling.h"

namespace starling::hint {

using Seconds = std::chrono::duration<double>;
using Activity = struct ::starling_activity;  // the function of that name hides it otherwise

inline bool Need(starling_resource resource, double amount, Seconds in) {
  return starling_need(resource, amount, in.count()) == 0;
}
inline bool Report(const Activity& activity) { return ::starling_activity(&activity) == 0; }
inline bool GoodMoment(Seconds length) { return starling_good_moment(length.count()) == 0; }
inline bool NotNow(Seconds length) { return starling_not_now(length.count()) == 0; }
inline bool Phase(const std::string& name) { return starling_phase(name.c_str()) == 0; }

inline bool Connected(const std::string& user) { return starling_connected(user.c_str()) == 0; }
inline bool Disconnected(const std::string& user) {
  return starling_disconnected(user.c_str()) == 0;
}

// Asks not to be moved while it lives, for at most so long.
class NotNowScope {
 public:
  explicit NotNowScope(Seconds most) { NotNow(most); }
  ~NotNowScope() { NotNow(Seconds(0)); }
  NotNowScope(const NotNowScope&) = delete;
  NotNowScope& operator=(const NotNowScope&) = delete;
};

}  // namespace starling::hint
