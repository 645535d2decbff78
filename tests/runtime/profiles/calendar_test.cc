#include "runtime/profiles/calendar.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace starling {
namespace {

constexpr int64_t kDay = 24 * 3600;
constexpr int64_t kNewYear2024 = 1704067200;

std::string Calendar(const std::string& events) {
  return absl::StrCat("BEGIN:VCALENDAR\r\nVERSION:2.0\r\n", events, "END:VCALENDAR\r\n");
}

TEST(ParseCalendar, ReadsEvents) {
  const auto entries = ParseCalendar(
      Calendar("BEGIN:VEVENT\r\nSUMMARY:A long \r\n name\r\nDTSTART:20240101T090000\r\n"
               "DTEND:20240101T103000\r\nBEGIN:VALARM\r\nDURATION:PT5M\r\nEND:VALARM\r\n"
               "END:VEVENT\r\n"
               "BEGIN:VEVENT\r\nDTSTART;VALUE=DATE:20240102\r\nTRANSP:TRANSPARENT\r\nEND:VEVENT\r\n"
               "BEGIN:VEVENT\r\nDTSTART:20240103T080000Z\r\nDURATION:PT1H30M\r\nEND:VEVENT\r\n"
               "BEGIN:VEVENT\r\nDTSTART:20240104T080000\r\nSTATUS:CANCELLED\r\nEND:VEVENT\r\n"),
      3600);
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 3u);
  EXPECT_EQ((*entries)[0].summary, "A long name");
  EXPECT_EQ((*entries)[0].begin_s, kNewYear2024 + 9 * 3600);
  EXPECT_EQ((*entries)[0].end_s, kNewYear2024 + 10 * 3600 + 1800);
  EXPECT_TRUE((*entries)[1].whole_day);
  EXPECT_FALSE((*entries)[1].busy);
  EXPECT_EQ((*entries)[1].end_s - (*entries)[1].begin_s, kDay);
  EXPECT_EQ((*entries)[2].begin_s, kNewYear2024 + 2 * kDay + 9 * 3600);
  EXPECT_EQ((*entries)[2].end_s - (*entries)[2].begin_s, 5400);
}

TEST(ParseCalendar, RepeatsEvents) {
  const auto entries = ParseCalendar(
      Calendar("BEGIN:VEVENT\nDTSTART;VALUE=DATE:20240101\nRRULE:FREQ=WEEKLY;COUNT=3\nEND:VEVENT\n"
               "BEGIN:VEVENT\nDTSTART:20240101T080000\nRRULE:FREQ=DAILY;INTERVAL=2;"
               "UNTIL=20240107T000000\nEND:VEVENT\n"),
      0);
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_EQ(entries->size(), 3u + 3u);
  EXPECT_TRUE(IsException(*entries, kNewYear2024 + 7 * kDay + 3600));
  EXPECT_FALSE(IsException(*entries, kNewYear2024 + 8 * kDay + 3600));
  EXPECT_FALSE(IsException(*entries, kNewYear2024 + 21 * kDay));
}

TEST(ParseCalendar, DoesNotRepeatForEver) {
  const auto entries = ParseCalendar(
      Calendar("BEGIN:VEVENT\nDTSTART:20240101T080000\nRRULE:FREQ=DAILY\nEND:VEVENT\n"), 0);
  ASSERT_TRUE(entries.ok());
  EXPECT_GT(entries->size(), 700u);
  EXPECT_LT(entries->size(), 800u);
}

TEST(ParseCalendar, RefusesWhatIsNone) {
  for (const std::string& text :
       {std::string(), std::string("hello"),
        Calendar("BEGIN:VEVENT\nDTSTART:nonsense\nEND:VEVENT\n"),
        Calendar("BEGIN:VEVENT\nDURATION:P1Y\nEND:VEVENT\n"),
        Calendar("BEGIN:VEVENT\nno colon\nEND:VEVENT\n"),
        std::string("BEGIN:VCALENDAR\nBEGIN:VEVENT\nDTSTART:20240101\n")}) {
    EXPECT_EQ(ParseCalendar(text, 0).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

// Whatever bytes come, it answers.
TEST(ParseCalendar, SurvivesDamage) {
  const std::string good = Calendar(
      "BEGIN:VEVENT\nDTSTART:20240101T080000Z\nDURATION:P1DT2H\n"
      "RRULE:FREQ=DAILY;INTERVAL=2;COUNT=5;UNTIL=20250101\nEND:VEVENT\n");
  uint32_t random = 1;
  const auto next = [&random] { return (random = random * 1664525u + 1013904223u) >> 8; };
  int taken = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string bad = good;
    for (uint32_t i = 0; i <= next() % 4; ++i) bad[next() % bad.size()] = static_cast<char>(next());
    if (round % 3 == 0) bad.resize(next() % bad.size());
    taken += ParseCalendar(bad, 0).ok();
  }
  EXPECT_GT(taken, 0);
}

}  // namespace
}  // namespace starling
