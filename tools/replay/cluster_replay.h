#pragma once

#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "tools/replay/cluster_load.h"

namespace starling::replay {

struct ClusterOptions {
  std::string traces;  // folder
  std::string out;     // JSON file; empty: none
  std::string policy;  // by which agents decide, TOML; empty: one for steps of five minutes
  int half = 0;        // 1 or 2: only every other machine; 0: all
  ClusterShape shape;
  // Only the forecasts, not what they are compared with: for measuring.
  bool forecast_only = false;
  int known_steps = ClusterLoad::kKnown;  // learned from before the first one
};

// Runs a cluster through a day of traces with the agents' own decisions, thresholds and ledgers,
// and beside it the same cluster under simpler rules; docs/cluster.md says which. Prints a table.
absl::Status ReplayCluster(const ClusterOptions& options, std::ostream& text);

}  // namespace starling::replay
