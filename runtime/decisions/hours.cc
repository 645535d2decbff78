#include "runtime/decisions/hours.h"

#include <algorithm>
#include <array>
#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace starling::decisions {
namespace {

constexpr std::array<absl::string_view, 7> kDays = {"mon", "tue", "wed", "thu",
                                                    "fri", "sat", "sun"};
constexpr int kDay = 24 * 60;
constexpr int kWeek = 7 * kDay;

std::optional<size_t> DayOf(absl::string_view text) {
  const auto found = std::find(kDays.begin(), kDays.end(), text);
  if (found == kDays.end()) return std::nullopt;
  return static_cast<size_t>(found - kDays.begin());
}

// "08:30"; "24:00" is the day's end.
std::optional<int> MinuteOf(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  int hour = 0, minute = 0;
  if (parts.size() != 2 || parts[0].size() != 2 || parts[1].size() != 2 ||
      !absl::SimpleAtoi(parts[0], &hour) || !absl::SimpleAtoi(parts[1], &minute) || hour < 0 ||
      minute < 0 || minute > 59 || hour * 60 + minute > kDay) {
    return std::nullopt;
  }
  return hour * 60 + minute;
}

// "mon", "mon-fri", "sat,sun".
bool ParseDays(absl::string_view text, std::array<bool, 7>& days) {
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const std::vector<absl::string_view> ends = absl::StrSplit(part, '-');
    if (ends.size() > 2) return false;
    const auto from = DayOf(ends.front()), to = DayOf(ends.back());
    if (!from || !to) return false;
    for (size_t day = *from;; day = (day + 1) % 7) {
      days[day] = true;
      if (day == *to) break;
    }
  }
  return true;
}

}  // namespace

absl::Status ParseHours(absl::string_view text, std::vector<Hours>& hours) {
  const auto wrong = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", absl::CHexEscape(text.substr(0, 64)), "\" are no hours"));
  };
  const std::vector<absl::string_view> words = absl::StrSplit(text, ' ', absl::SkipEmpty());
  if (words.empty() || words.size() > 2) return wrong();
  std::array<bool, 7> days;
  days.fill(words.size() == 1);
  if (words.size() == 2 && !ParseDays(words[0], days)) return wrong();
  const std::vector<absl::string_view> ends = absl::StrSplit(words.back(), '-');
  if (ends.size() != 2) return wrong();
  const auto from = MinuteOf(ends[0]), to = MinuteOf(ends[1]);
  if (!from || !to || *from == *to || *from == kDay) return wrong();
  for (int day = 0; day < 7; ++day) {
    if (!days[static_cast<size_t>(day)]) continue;
    const int end = *to > *from ? *to : *to + kDay;
    // A week that ends with Sunday keeps its end: 0 would be its beginning.
    const int last = day * kDay + end;
    hours.push_back({day * kDay + *from, last > kWeek ? last - kWeek : last});
  }
  return absl::OkStatus();
}

}  // namespace starling::decisions
