#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/decisions/decide.h"

// Decisions with all that they were made of, a JSON object a line, so that any of them can be
// looked at and made again. docs/policy.md describes the fields.

namespace starling::decisions {

struct LoggedDecision {
  Situation situation;
  Policy policy;
  Decision decision;
};

// Makes the decision again, of what was logged, and says what came out differently: for people,
// empty when nothing did. Something does where the log is of another build than this one, or was
// altered.
std::string ReplayDecision(const LoggedDecision& logged);

// One line, without its end.
std::string WriteDecision(const LoggedDecision& logged);
// kInvalidArgument for a line that is none.
absl::StatusOr<LoggedDecision> ReadDecision(absl::string_view line);

// A file of them, of bounded size: when it is full it becomes PATH.1 and another is begun. Not
// thread-safe.
class DecisionLog {
 public:
  static constexpr uint64_t kMostBytes = 16u << 20;
  DecisionLog(std::string path, uint64_t most_bytes = kMostBytes)
      : path_(std::move(path)), most_bytes_(most_bytes) {}

  absl::Status Append(const LoggedDecision& logged);
  // The last `limit` that say something of `component` (of anything when empty), oldest first.
  // Lines that are no decisions, such as a last one that was cut off, are passed over.
  absl::StatusOr<std::vector<LoggedDecision>> Read(const std::string& component,
                                                   size_t limit) const;

  // All decisions of one such file, or of a copy of one. kInvalidArgument, with the line's number,
  // for what is no decision.
  static absl::StatusOr<std::vector<LoggedDecision>> ReadAll(const std::string& path);

 private:
  const std::string path_;
  const uint64_t most_bytes_;
};

}  // namespace starling::decisions
