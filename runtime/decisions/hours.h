#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "runtime/decisions/policy.h"

namespace starling::decisions {

inline constexpr absl::string_view kHoursAllowed =
    "a list of hours such as \"22:00-06:00\", \"mon-fri 08:00-18:00\" or \"sat,sun 00:00-24:00\"";

// Adds what `text` says to `hours`, an entry a day. kInvalidArgument, without what is allowed.
absl::Status ParseHours(absl::string_view text, std::vector<Hours>& hours);

}  // namespace starling::decisions
