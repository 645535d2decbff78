#pragma once

#include <ostream>
#include <string>

#include "absl/status/status.h"

namespace starling::replay {

// Makes every decision of a log (runtime/decisions/decision_log.h) again, of the inputs that were
// written down with it, and prints a line for each that comes out differently and a sum.
// kFailedPrecondition when one does; kInvalidArgument for a file that is no such log, or has none.
absl::Status ReplayDecisions(const std::string& file, std::ostream& text);

}  // namespace starling::replay
