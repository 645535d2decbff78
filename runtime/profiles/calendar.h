#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace starling {

// A stretch of time from a calendar, in local time: seconds since 1970-01-01 00:00 by the user's
// clock.
struct CalendarEntry {
  int64_t begin_s = 0;
  int64_t end_s = 0;  // exclusive
  bool whole_day = false;
  bool busy = true;  // TRANSP is not TRANSPARENT
  std::string summary;
};

// The events of an iCalendar file (RFC 5545): DTSTART with DTEND or DURATION, whole days, RRULE
// with FREQ=DAILY or WEEKLY (INTERVAL, COUNT, UNTIL; repeated up to two years), STATUS and TRANSP.
// Times with "Z" are moved by `utc_offset_s`; a time zone by name is taken as the user's own.
// Cancelled events are left out; properties that are not known are passed over. At most 10,000
// entries. kInvalidArgument (with the line) for what is no calendar.
absl::StatusOr<std::vector<CalendarEntry>> ParseCalendar(absl::string_view text,
                                                         int64_t utc_offset_s);

// Whether the day on which `local_s` lies is an exception, not to be taken for an ordinary one: a
// whole-day entry lies on it.
bool IsException(const std::vector<CalendarEntry>& entries, int64_t local_s);

}  // namespace starling
