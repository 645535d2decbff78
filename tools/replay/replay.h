#pragma once

#include <ostream>
#include <string>

#include "absl/status/status.h"

namespace starling::replay {

struct ReplayOptions {
  std::string traces;  // folder
  std::string out;     // JSON file; empty: none
  std::string plots;   // folder for SVG charts; empty: none
  int half = 0;        // 1 or 2: only every other machine, function and user; 0: all
  bool ablations = false;
  double summary_tolerance = 0.05;
};

// Replays a folder of traces through the forecasters and decision policies, prints tables to `text`
// and writes JSON and charts as asked.
absl::Status Replay(const ReplayOptions& options, std::ostream& text);

}  // namespace starling::replay
