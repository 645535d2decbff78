#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "predictor/week_profile.h"
#include "runtime/profiles/calendar.h"
#include "runtime/sqlite.h"

namespace starling {

// Who connected when, and what was used.
struct ProfileVisit {
  int64_t connected_s = 0;
  int64_t disconnected_s = 0;  // 0: still connected, or never told
  std::string component;
};

// How much is kept of a subject.
struct ProfileKept {
  std::string subject;
  bool consent = false;  // users only
  int64_t hours = 0;     // of the week's 168 that something is known of
  int64_t visits = 0;
  int64_t calendar_entries = 0;
  int64_t last_local_s = 0;  // the last time that anything of it was seen; 0: never
  bool any() const { return consent || hours > 0 || visits > 0 || calendar_entries > 0; }
};

// What is known of users and components over weeks: in an SQLite database, exportable, deletable
// and aged out. Nothing of a user is kept without the user's consent, which is off at first; taking
// it back deletes what there is. Not thread-safe.
//
// A subject is a user ("user:NAME") or a component ("component:NAME").
class ProfileStore {
 public:
  // Errors are SQLite's (runtime/sqlite.h), or kFailedPrecondition for another version's file. It
  // is readable to its owner alone, and what is deleted is written over.
  static absl::StatusOr<std::unique_ptr<ProfileStore>> Open(const std::string& path);

  // A component's profile needs no consent; a user's does.
  absl::Status SetConsent(absl::string_view user, bool consent);
  absl::StatusOr<bool> Consents(absl::string_view user);
  // All who do.
  absl::StatusOr<std::vector<std::string>> Users();

  // That the subject was active, or not, in the hour of this time; with a `component`, in that
  // component. An hour may be told in parts: it counts once, and as active when any part was.
  // kFailedPrecondition: a user without consent. A time on an exceptional day of the user's
  // calendar is not learned from.
  absl::Status Learn(absl::string_view subject, int64_t local_s, bool active,
                     absl::string_view component = "");
  absl::StatusOr<predictor::WeekProfile> Load(absl::string_view subject,
                                              absl::string_view component = "");
  // Components that the subject was active in, by name.
  absl::StatusOr<std::vector<std::string>> ComponentsOf(absl::string_view subject);

  absl::Status Connected(absl::string_view subject, absl::string_view component, int64_t local_s);
  absl::Status Disconnected(absl::string_view subject, absl::string_view component,
                            int64_t local_s);
  absl::StatusOr<std::vector<ProfileVisit>> Visits(absl::string_view subject);

  // Replaces the subject's calendar by that of an iCalendar file.
  absl::Status SetCalendar(absl::string_view subject, absl::string_view icalendar,
                           int64_t utc_offset_s);
  absl::StatusOr<bool> IsExceptionalDay(absl::string_view subject, int64_t local_s);

  // All subjects that anything is kept of, by name; and one, of which nothing may be.
  absl::StatusOr<std::vector<ProfileKept>> List();
  absl::StatusOr<ProfileKept> Describe(absl::string_view subject);
  // All that is kept of a subject, as JSON.
  absl::StatusOr<std::string> Export(absl::string_view subject);
  absl::Status Delete(absl::string_view subject);
  // Visits and calendar entries that ended before `local_s`, and slots not touched since, go.
  absl::Status AgeOut(int64_t before_local_s);

  // One transaction of several writes: all of them or none.
  absl::Status Together(const std::function<absl::Status()>& writes);

 private:
  explicit ProfileStore(std::unique_ptr<Sqlite> db) : db_(std::move(db)) {}
  absl::Status MayKeep(absl::string_view subject);
  absl::StatusOr<std::vector<std::string>> Texts(absl::string_view sql,
                                                 absl::string_view parameter);

  std::unique_ptr<Sqlite> db_;
};

}  // namespace starling
