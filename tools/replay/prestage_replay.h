#pragma once

#include <vector>

#include "nlohmann/json.hpp"
#include "tools/replay/traces.h"

namespace starling::replay {

// Ghosts kept warm for functions that are activated now and then: learned on the first half of the
// minutes, scored on the second as baselines.py does, beside fixed keep-alives, the histogram
// policy and the oracle; then with too little memory for all of them.
nlohmann::json ReplayPrestaging(const std::vector<Function>& functions);

}  // namespace starling::replay
