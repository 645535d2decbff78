#pragma once

#include <vector>

#include "nlohmann/json.hpp"
#include "tools/replay/traces.h"

namespace starling::replay {

// Shortages to come: machines below their limit (0.8 times the 99th percentile of the first half)
// that will be above it a horizon from now. Recall at the precision of baselines.py's rule "blend
// plus the 75 % quantile of its errors", beside reacting and an oracle.
nlohmann::json ReplayOnsets(const std::vector<Group>& groups);

}  // namespace starling::replay
