#include "runtime/profiles/calendar.h"

#include <algorithm>
#include <ctime>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace starling {
namespace {

constexpr int64_t kDay = 24 * 3600;
constexpr int64_t kLongestRepeat_s = 2 * 366 * kDay;
constexpr size_t kMostEntries = 10000;
constexpr size_t kMostSummary = 200;

bool Digits(absl::string_view text, int* value) {
  return std::all_of(text.begin(), text.end(), [](char c) { return absl::ascii_isdigit(c); }) &&
         absl::SimpleAtoi(text, value);
}

// "20240131" or "20240131T080000", with a "Z" at its end for UTC.
bool ParseTime(absl::string_view text, int64_t utc_offset_s, int64_t* time_s, bool* whole_day) {
  const bool utc = absl::ConsumeSuffix(&text, "Z");
  if (text.size() != 8 && !(text.size() == 15 && text[8] == 'T')) return false;
  std::tm tm = {};
  int year = 0, month = 0, day = 0;
  if (!Digits(text.substr(0, 4), &year) || !Digits(text.substr(4, 2), &month) ||
      !Digits(text.substr(6, 2), &day)) {
    return false;
  }
  if (year < 1900 || year > 3000 || month < 1 || month > 12 || day < 1 || day > 31) return false;
  tm.tm_year = year - 1900;
  tm.tm_mon = month - 1;
  tm.tm_mday = day;
  *whole_day = text.size() == 8;
  if (!*whole_day) {
    if (!Digits(text.substr(9, 2), &tm.tm_hour) || !Digits(text.substr(11, 2), &tm.tm_min) ||
        !Digits(text.substr(13, 2), &tm.tm_sec) || tm.tm_hour > 23 || tm.tm_min > 59 ||
        tm.tm_sec > 60) {
      return false;
    }
  }
  *time_s = timegm(&tm) + (utc ? utc_offset_s : 0);
  return true;
}

// "P1D", "PT1H30M", "P1W".
bool ParseDuration(absl::string_view text, int64_t* duration_s) {
  if (!absl::ConsumePrefix(&text, "P")) return false;
  *duration_s = 0;
  int64_t number = -1;
  bool time = false;
  for (const char c : text) {
    if (absl::ascii_isdigit(c)) {
      number = std::max<int64_t>(number, 0) * 10 + (c - '0');
      if (number > 100000000) return false;
      continue;
    }
    if (c == 'T' && number < 0) {
      time = true;
      continue;
    }
    if (number < 0) return false;
    const int64_t unit = c == 'W'           ? 7 * kDay
                         : c == 'D'         ? kDay
                         : c == 'H'         ? 3600
                         : c == 'M' && time ? 60
                         : c == 'S'         ? 1
                                            : 0;
    if (unit == 0) return false;
    *duration_s += number * unit;
    number = -1;
  }
  return number < 0 && *duration_s >= 0 && *duration_s < kLongestRepeat_s;
}

struct Rule {
  int64_t step_s = 0;  // 0: does not repeat
  int64_t count = 0;   // 0: not limited
  int64_t until_s = 0;
};

// What it does not know leaves the event unrepeated.
Rule ParseRule(absl::string_view text, int64_t utc_offset_s) {
  Rule rule;
  int interval = 1;
  for (const absl::string_view part : absl::StrSplit(text, ';')) {
    const std::vector<absl::string_view> pair = absl::StrSplit(part, absl::MaxSplits('=', 1));
    if (pair.size() != 2) continue;
    int number = 0;
    bool whole_day = false;
    if (pair[0] == "FREQ") {
      rule.step_s = pair[1] == "DAILY" ? kDay : pair[1] == "WEEKLY" ? 7 * kDay : 0;
    } else if (pair[0] == "INTERVAL" && Digits(pair[1], &number) && number > 0 && number < 1000) {
      interval = number;
    } else if (pair[0] == "COUNT" && Digits(pair[1], &number) && number > 0) {
      rule.count = number;
    } else if (pair[0] == "UNTIL") {
      ParseTime(pair[1], utc_offset_s, &rule.until_s, &whole_day);
      if (whole_day) rule.until_s += kDay - 1;
    }
  }
  rule.step_s *= interval;
  return rule;
}

struct Event {
  CalendarEntry entry;
  bool begins = false, ends = false, cancelled = false;
  int64_t duration_s = -1;
  Rule rule;
};

absl::Status Error(size_t line, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("calendar, line ", line, ": ", what));
}

void Take(const Event& event, std::vector<CalendarEntry>& entries) {
  if (event.cancelled || !event.begins) return;
  CalendarEntry entry = event.entry;
  if (!event.ends) {
    entry.end_s = entry.begin_s + (event.duration_s >= 0 ? event.duration_s
                                   : entry.whole_day     ? kDay
                                                         : 0);
  }
  if (entry.end_s < entry.begin_s) return;
  const int64_t first_s = entry.begin_s;
  for (int64_t i = 0; entries.size() < kMostEntries; ++i) {
    entries.push_back(entry);
    if (event.rule.step_s <= 0 || (event.rule.count > 0 && i + 1 >= event.rule.count)) break;
    entry.begin_s += event.rule.step_s;
    entry.end_s += event.rule.step_s;
    if (entry.begin_s - first_s > kLongestRepeat_s) break;
    if (event.rule.until_s > 0 && entry.begin_s > event.rule.until_s) break;
  }
}

}  // namespace

absl::StatusOr<std::vector<CalendarEntry>> ParseCalendar(absl::string_view text,
                                                         int64_t utc_offset_s) {
  // Long lines are folded: a line that begins with white space goes on with the one before.
  std::vector<std::pair<size_t, std::string>> lines;
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    absl::ConsumeSuffix(&line, "\r");
    if (line.empty()) continue;
    if ((line[0] == ' ' || line[0] == '\t') && !lines.empty()) {
      absl::StrAppend(&lines.back().second, line.substr(1));
    } else {
      lines.emplace_back(number, std::string(line));
    }
  }
  if (lines.empty() || !absl::EqualsIgnoreCase(lines[0].second, "BEGIN:VCALENDAR")) {
    return Error(lines.empty() ? 1 : lines[0].first, "does not begin with BEGIN:VCALENDAR");
  }
  std::vector<CalendarEntry> entries;
  Event event;
  bool inside = false;
  int nested = 0;  // an alarm within an event has properties of the same names
  for (const auto& [line, content] : lines) {
    const size_t colon = content.find(':');
    if (colon == std::string::npos) return Error(line, "has no colon");
    const absl::string_view head(content.data(), colon);
    const absl::string_view value = absl::string_view(content).substr(colon + 1);
    const std::string name = absl::AsciiStrToUpper(head.substr(0, head.find(';')));
    if (name == "BEGIN") {
      if (inside) {
        ++nested;
      } else if (absl::EqualsIgnoreCase(value, "VEVENT")) {
        inside = true;
        event = Event();
      }
    } else if (name == "END") {
      if (nested > 0) {
        --nested;
      } else if (inside && absl::EqualsIgnoreCase(value, "VEVENT")) {
        inside = false;
        Take(event, entries);
      }
    } else if (!inside || nested > 0) {
      continue;
    } else if (name == "DTSTART") {
      event.begins = ParseTime(value, utc_offset_s, &event.entry.begin_s, &event.entry.whole_day);
      if (!event.begins) return Error(line, absl::StrCat("'", value, "' is no time"));
    } else if (name == "DTEND") {
      bool whole_day = false;
      event.ends = ParseTime(value, utc_offset_s, &event.entry.end_s, &whole_day);
      if (!event.ends) return Error(line, absl::StrCat("'", value, "' is no time"));
    } else if (name == "DURATION") {
      if (!ParseDuration(value, &event.duration_s)) {
        return Error(line, absl::StrCat("'", value, "' is no duration"));
      }
    } else if (name == "RRULE") {
      event.rule = ParseRule(value, utc_offset_s);
    } else if (name == "STATUS") {
      event.cancelled = absl::EqualsIgnoreCase(value, "CANCELLED");
    } else if (name == "TRANSP") {
      event.entry.busy = !absl::EqualsIgnoreCase(value, "TRANSPARENT");
    } else if (name == "SUMMARY") {
      event.entry.summary = std::string(value.substr(0, kMostSummary));
    }
  }
  if (inside) return Error(lines.back().first, "ends inside an event");
  std::sort(entries.begin(), entries.end(),
            [](const CalendarEntry& a, const CalendarEntry& b) { return a.begin_s < b.begin_s; });
  return entries;
}

bool IsException(const std::vector<CalendarEntry>& entries, int64_t local_s) {
  return std::any_of(entries.begin(), entries.end(), [local_s](const CalendarEntry& entry) {
    return entry.whole_day && entry.begin_s <= local_s && local_s < entry.end_s;
  });
}

}  // namespace starling
