#pragma once

#include <vector>

#include "nlohmann/json.hpp"
#include "tools/replay/traces.h"

namespace starling::replay {

// Sessions of remote desktops: in each gap of the input, when (if at all) the component is declared
// idle. Right when 30 s of idleness remain. Learned on the first half of each user's sessions,
// scored on the second as baselines.py does, beside fixed timeouts.
nlohmann::json ReplayInactivity(const std::vector<Session>& sessions);

}  // namespace starling::replay
