#include "tools/replay/decision_replay.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "runtime/decisions/decision_log.h"

namespace starling::replay {

absl::Status ReplayDecisions(const std::string& file, std::ostream& text) {
  ASSIGN_OR_RETURN(const auto logged, decisions::DecisionLog::ReadAll(file));
  if (logged.empty()) return absl::InvalidArgumentError(absl::StrCat(file, " has no decision"));
  size_t differ = 0, steps = 0;
  for (size_t i = 0; i < logged.size(); ++i) {
    steps += logged[i].decision.steps.size();
    const std::string difference = decisions::ReplayDecision(logged[i]);
    if (difference.empty()) continue;
    ++differ;
    text << absl::StrFormat("decision %d, at %.3f: %s\n", i + 1, logged[i].situation.time_s,
                            difference);
  }
  text << absl::StrFormat("%d decisions with %d steps were made again, %d came out differently\n",
                          logged.size(), steps, differ);
  if (differ == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrFormat("%d of %d decisions came out differently", differ, logged.size()));
}

}  // namespace starling::replay
