#include "runtime/decisions/move_costs.h"

#include <algorithm>
#include <cmath>

namespace starling::decisions {
namespace {

constexpr double kMemory = 10;              // moves
constexpr double kUnknownBlackout_s = 0.3;  // before anything was moved
constexpr double kMostRatio = 20;
constexpr double kMostRewritten = 0.9;  // share of the link that rewriting may take

// Memory once, and what is written meanwhile again and again: a geometric series.
double IdealBytes(double memory, double dirty, double link) {
  const double share = link <= 0 ? 0 : std::clamp(dirty / link, 0.0, kMostRewritten);
  return memory / (1 - share);
}

}  // namespace

void MoveCosts::Learn(Learned& learned, double bytes_ratio, double time_ratio, double blackout_s) {
  learned.moves = std::min(learned.moves + 1, kMemory);
  const double weight = 1 / learned.moves;
  learned.bytes_ratio += weight * (bytes_ratio - learned.bytes_ratio);
  learned.time_ratio += weight * (time_ratio - learned.time_ratio);
  learned.blackout_s += weight * (blackout_s - learned.blackout_s);
}

void MoveCosts::Learn(const PastMove& move) {
  const double bytes = IdealBytes(move.memory_bytes, move.dirty_bytes_per_s, move.link_bytes_per_s);
  if (!(bytes > 0) || !(move.link_bytes_per_s > 0) || !std::isfinite(move.moved_bytes) ||
      !std::isfinite(move.total_s) || !(move.blackout_s >= 0) || !std::isfinite(move.blackout_s)) {
    return;
  }
  const double bytes_ratio = std::clamp(move.moved_bytes / bytes, 0.0, kMostRatio);
  const double time_ratio =
      std::clamp(move.total_s / (bytes / move.link_bytes_per_s), 0.0, kMostRatio);
  Learn(all_, bytes_ratio, time_ratio, move.blackout_s);
  Learn(of_component_[move.component], bytes_ratio, time_ratio, move.blackout_s);
}

MoveCost MoveCosts::Expect(const std::string& component, double memory_bytes,
                           double dirty_bytes_per_s, double link_bytes_per_s) const {
  Learned known = all_;
  if (all_.moves == 0) known.blackout_s = kUnknownBlackout_s;
  // A few moves of its own count for more than many of others.
  if (const auto found = of_component_.find(component); found != of_component_.end()) {
    const double own = found->second.moves / (found->second.moves + 1);
    known.bytes_ratio += own * (found->second.bytes_ratio - known.bytes_ratio);
    known.time_ratio += own * (found->second.time_ratio - known.time_ratio);
    known.blackout_s += own * (found->second.blackout_s - known.blackout_s);
  }
  const double ideal = IdealBytes(memory_bytes, dirty_bytes_per_s, link_bytes_per_s);
  MoveCost cost;
  cost.bytes = ideal * known.bytes_ratio;
  cost.total_s = link_bytes_per_s > 0 ? ideal / link_bytes_per_s * known.time_ratio : 0;
  cost.blackout_s = known.blackout_s;
  return cost;
}

}  // namespace starling::decisions
