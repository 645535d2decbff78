#pragma once

#include <cstdint>
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

// What is known of users and components over weeks: in an SQLite database, exportable, deletable
// and aged out. Nothing of a user is kept without the user's consent, which is off at first; taking
// it back deletes what there is. Not thread-safe.
//
// A subject is a user ("user:NAME") or a component ("component:NAME").
class ProfileStore {
 public:
  static absl::StatusOr<std::unique_ptr<ProfileStore>> Open(const std::string& path);

  // A component's profile needs no consent; a user's does.
  absl::Status SetConsent(absl::string_view user, bool consent);
  absl::StatusOr<bool> Consents(absl::string_view user);

  // kFailedPrecondition: a user without consent. A time on an exceptional day of the user's
  // calendar is not learned from.
  absl::Status Learn(absl::string_view subject, int64_t local_s, bool active);
  absl::StatusOr<predictor::WeekProfile> Load(absl::string_view subject);

  absl::Status Connected(absl::string_view subject, absl::string_view component, int64_t local_s);
  absl::Status Disconnected(absl::string_view subject, absl::string_view component,
                            int64_t local_s);
  absl::StatusOr<std::vector<ProfileVisit>> Visits(absl::string_view subject);

  // Replaces the subject's calendar by that of an iCalendar file.
  absl::Status SetCalendar(absl::string_view subject, absl::string_view icalendar,
                           int64_t utc_offset_s);
  absl::StatusOr<bool> IsExceptionalDay(absl::string_view subject, int64_t local_s);

  // All that is kept of a subject, as JSON.
  absl::StatusOr<std::string> Export(absl::string_view subject);
  absl::Status Delete(absl::string_view subject);
  // Visits and calendar entries that ended before `local_s`, and slots not touched since, go.
  absl::Status AgeOut(int64_t before_local_s);

 private:
  explicit ProfileStore(std::unique_ptr<Sqlite> db) : db_(std::move(db)) {}
  absl::Status MayKeep(absl::string_view subject);

  std::unique_ptr<Sqlite> db_;
};

}  // namespace starling
