#include "tools/witness/recovery.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tools/witness/clock.h"

namespace starling::witness {
namespace {

constexpr int64_t kWindowNs = kNsPerSecond;
constexpr size_t kFewestReplies = 100;
constexpr int kPercent = 99;
constexpr int64_t kWithin = 2;

// How many of `count` may be above their 99th percentile.
size_t Above(size_t count) { return count * (100 - kPercent) / 100; }

int64_t Percentile(std::vector<int64_t> values) {
  const auto place = values.end() - static_cast<ptrdiff_t>(Above(values.size())) - 1;
  std::nth_element(values.begin(), place, values.end());
  return *place;
}

}  // namespace

absl::StatusOr<std::vector<Event>> ParseEvents(absl::string_view text) {
  std::vector<Event> events;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipWhitespace())) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(line, absl::MaxSplits(' ', 1));
    double seconds = 0;
    if (!absl::SimpleAtod(parts.first, &seconds) || !(seconds >= 0) || seconds > 1e9 ||
        (!events.empty() && seconds * kNsPerSecond < static_cast<double>(events.back().at_ns))) {
      return absl::InvalidArgumentError(absl::StrCat(
          "\"", line, "\" is not an event: seconds of the monotonic clock, not before the line "
          "above, and a name"));
    }
    events.push_back({static_cast<int64_t>(seconds * kNsPerSecond), std::string(parts.second)});
  }
  return events;
}

std::optional<Recovery> Recover(const std::vector<Reply>& replies, int64_t from_ns,
                                int64_t event_ns, int64_t until_ns) {
  const auto due = [&](int64_t at_ns) {
    return std::lower_bound(replies.begin(), replies.end(), at_ns,
                            [](const Reply& r, int64_t at) { return r.scheduled_ns < at; });
  };
  const auto event = due(event_ns);
  const auto end = due(until_ns);
  std::vector<int64_t> before;
  for (auto reply = due(from_ns); reply < event; ++reply) {
    // What was under way when it happened is the event's already.
    if (reply->scheduled_ns + reply->took_ns < event_ns) before.push_back(reply->took_ns);
  }
  if (before.size() < kFewestReplies || event == end) return std::nullopt;
  Recovery recovery;
  recovery.p99_before_ns = Percentile(std::move(before));

  // Answers come in the order of their requests.
  int64_t last_ns = event_ns;
  for (auto reply = replies.begin(); reply != end; ++reply) {
    const int64_t answered_ns = reply->scheduled_ns + reply->took_ns;
    if (answered_ns < event_ns) {
      last_ns = answered_ns;
      continue;
    }
    if (answered_ns - last_ns > recovery.gap_ns) {
      recovery.gap_start_ns = last_ns;
      recovery.gap_ns = answered_ns - last_ns;
    }
    last_ns = answered_ns;
  }

  const int64_t limit_ns = kWithin * recovery.p99_before_ns;
  const auto slow = [&](const Reply& reply) { return reply.took_ns > limit_ns; };
  size_t slow_ones = 0;
  auto first = due(recovery.gap_start_ns);
  for (auto past = first; first != end; ++first) {
    for (; past != end && past->scheduled_ns < first->scheduled_ns + kWindowNs; ++past) {
      slow_ones += slow(*past);
    }
    // Of what was never looked at to its end nothing is known.
    if (past == end && until_ns < first->scheduled_ns + kWindowNs) break;
    const auto count = static_cast<size_t>(past - first);
    if (slow_ones <= Above(count)) {
      recovery.p99_back_ns = first->scheduled_ns - recovery.gap_start_ns;
      break;
    }
    slow_ones -= slow(*first);
  }
  return recovery;
}

}  // namespace starling::witness
