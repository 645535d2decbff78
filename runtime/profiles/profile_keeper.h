#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/profiles/profile_store.h"

namespace starling {

// What an agent sees of a component in one period.
struct ProfileSeen {
  std::string component;
  std::set<std::string> users;  // connected, as the component says (starling_connected)
  std::string runs_as;          // the user that it runs as, by name; empty: root
  bool input = false;           // it told of input
  bool works = false;           // it has used processors lately
};

// A profile, as people read it.
struct ProfileDetails {
  struct Component {
    std::string name;
    double seen_hours = 0;  // in which the user was active with it, older ones counting less
    bool usual = false;     // at this hour
  };
  ProfileKept kept;
  predictor::WeekProfile week;
  std::vector<Component> components;
  std::vector<ProfileVisit> visits;
  bool exceptional = false;  // today is, by the user's calendar
};

// The agent's profiles: takes what is seen, period by period, writes it down now and then on a
// thread of its own, forgets what is old, and knows which components are usually worked with at
// this hour. Of a user who did not consent it keeps nothing, not even for a moment. Thread-safe.
//
// Times are seconds since 1970-01-01 00:00 by the host's local clock (LocalTime).
class ProfileKeeper {
 public:
  // Without input for so long, a user who is not said to be connected is taken to have gone.
  static constexpr int64_t kGone_s = 15 * 60;

  // `keep_days`: what was not seen for so long is forgotten, 1 or more. Errors: ProfileStore's.
  static absl::StatusOr<std::unique_ptr<ProfileKeeper>> Open(const std::string& path,
                                                             int keep_days);
  ~ProfileKeeper();

  // Writes every kWriteEvery from now on.
  void Start();
  // Writes what is left; nobody is taken to have disconnected.
  absl::Status Stop();

  // All components that are here. Touches memory only.
  void See(int64_t local_s, const std::vector<ProfileSeen>& all);
  // Those that their users usually work with at this hour, as of the last Write.
  std::set<std::string> Usual() const;
  // What the thread does: writes down what was seen, forgets, and asks what is usual.
  absl::Status Write();

  // For people; errors are for them to read. A subject is "user:NAME" or "component:NAME".
  absl::StatusOr<std::vector<ProfileKept>> List();
  // kNotFound: nothing is kept of it.
  absl::StatusOr<ProfileKept> Describe(absl::string_view subject);
  absl::StatusOr<ProfileDetails> Show(absl::string_view subject, int64_t local_s);
  absl::StatusOr<std::string> Export(absl::string_view subject);
  absl::Status Delete(absl::string_view subject);
  absl::Status SetConsent(absl::string_view user, bool consent);
  // kFailedPrecondition: without consent; kInvalidArgument: no calendar, with the line. Answers how
  // many entries there are.
  absl::StatusOr<int64_t> SetCalendar(absl::string_view user, absl::string_view icalendar,
                                      int64_t utc_offset_s);

  // "NAME" is a user's; kInvalidArgument for what names neither a user nor a component.
  static absl::StatusOr<std::string> SubjectOf(absl::string_view name);

 private:
  using Key = std::pair<std::string, std::string>;  // subject and component
  // An hour as it is told: once, and again when it turns out to be an active one.
  struct Hour {
    bool active = false;
    bool told = false;
  };
  struct Visit {
    bool told = false;  // by the component; else by input
    int64_t last_s = 0;
  };
  struct Lesson {
    Key key;
    int64_t local_s = 0;
    bool active = false;
  };
  struct Arrival {
    Key key;
    int64_t local_s = 0;
    bool connected = false;
  };
  static constexpr size_t kMostWaiting = 100000;  // lessons and arrivals that are not written yet

  ProfileKeeper(std::unique_ptr<ProfileStore> store, int keep_days);
  void Mark(const Key& key, int64_t local_s, bool active);
  void Present(const Key& key, int64_t local_s, bool told, bool input);
  void Forget(const std::string& subject);
  absl::Status AskWhatIsUsual(int64_t local_s);
  absl::StatusOr<bool> IsUsual(int64_t local_s, const std::string& subject,
                               const std::string& component);

  const int keep_days_;
  std::mutex store_mutex_;               // taken before mutex_
  std::unique_ptr<ProfileStore> store_;  // guarded by store_mutex_
  int64_t aged_day_ = 0;                 // guarded by store_mutex_

  mutable std::mutex mutex_;  // guards the rest
  int64_t now_s_ = 0, hour_ = 0;
  std::set<std::string> consenting_;
  std::map<std::string, std::set<std::string>> used_;  // by user: components
  std::set<std::string> here_, tells_;                 // components; those that tell of a user
  std::map<Key, Hour> hours_;
  std::map<Key, Visit> visits_;  // that go on
  std::vector<Lesson> lessons_;
  std::vector<Arrival> arrivals_;
  std::set<std::string> usual_;
  int64_t usual_hour_ = -1;  // that it was asked for

  std::jthread thread_;
};

// `time_s` since 1970 by the host's local clock, and by how much that is ahead of UTC.
int64_t LocalTime(double time_s, int64_t* utc_offset_s = nullptr);

}  // namespace starling
