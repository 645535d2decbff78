#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// How long a client felt an event, such as a move of its server: until the 99th percentile of its
// reply times was back. Pure functions.

namespace starling::witness {

// One answered request.
struct Reply {
  int64_t scheduled_ns = 0;  // when it was to be sent
  int64_t took_ns = 0;       // from then to its answer
};

// Something that was done to the server, by whoever ran the witness.
struct Event {
  int64_t at_ns = 0;  // monotonic clock
  std::string name;
};

// Lines of "SECONDS NAME", by the monotonic clock of this host, in order of time.
// kInvalidArgument names the line that is not.
absl::StatusOr<std::vector<Event>> ParseEvents(absl::string_view text);

struct Recovery {
  int64_t p99_before_ns = 0;
  // The longest wait between one answer and the next from the event to the next one.
  int64_t gap_start_ns = 0;
  int64_t gap_ns = 0;
  // From the gap's start to the first second in which the 99th percentile of the requests that
  // were due was at most twice what it was before. Nothing: not seen before the next event, or the
  // end.
  std::optional<int64_t> p99_back_ns;
};

// What of an event is felt in `replies`, which are in the order of their times. "Before" is from
// `from_ns` to the event; it is looked at until `until_ns`. Nothing when there were fewer than 100
// replies before, too few to know a 99th percentile.
std::optional<Recovery> Recover(const std::vector<Reply>& replies, int64_t from_ns,
                                int64_t event_ns, int64_t until_ns);

}  // namespace starling::witness
