#pragma once

#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "predictor/experts.h"
#include "tools/replay/traces.h"

namespace starling::replay {

struct ForecastOptions {
  predictor::ExpertSet experts = predictor::kDefaultExperts;
  bool baselines = true;  // replay those of baselines.py as well, for comparison
  double summary_tolerance =
      0.05;  // of what is sent, see predictor::SummaryWriter; 0: not replayed
};

// Forecasts of every step of the second half of every series, scored as baselines.py does.
nlohmann::json ReplayForecasts(const std::vector<Group>& groups, const ForecastOptions& options);

// What each expert adds: scores with one left out, and with one of those off by default put in.
nlohmann::json ReplayAblations(const std::vector<Group>& groups);

}  // namespace starling::replay
