#include "predictor/week_profile.h"

#include <algorithm>
#include <cmath>

namespace starling::predictor {
namespace {

constexpr int64_t kHour = 3600, kDay = 24 * kHour;
constexpr double kPriorHours = 1, kNeighbour = 0.25;

}  // namespace

int WeekProfile::SlotOf(int64_t local_s) {
  int64_t day = local_s / kDay, rest = local_s % kDay;
  if (rest < 0) {
    rest += kDay;
    --day;
  }
  // 1970-01-01 was a Thursday.
  const int64_t weekday = ((day + 3) % 7 + 7) % 7;
  return static_cast<int>(weekday * 24 + rest / kHour);
}

void WeekProfile::Learn(int64_t local_s, bool active) {
  const int slot = SlotOf(local_s);
  seen_[slot] = static_cast<float>(kKeep * seen_[slot] + 1);
  active_[slot] = static_cast<float>(kKeep * active_[slot] + (active ? 1 : 0));
}

double WeekProfile::Probability(int64_t local_s) const {
  const int slot = SlotOf(local_s);
  double seen_all = 0, active_all = 0;
  for (int i = 0; i < kSlots; ++i) {
    seen_all += seen_[i];
    active_all += active_[i];
  }
  const double base = (active_all + 0.5) / (seen_all + 1);
  double seen = seen_[slot], active = active_[slot];
  // The hours beside it, and the same hour of the days beside it.
  for (const int beside : {1, kSlots - 1, 24, kSlots - 24}) {
    const int other = (slot + beside) % kSlots;
    seen += kNeighbour * seen_[other];
    active += kNeighbour * active_[other];
  }
  return (active + kPriorHours * base) / (seen + kPriorHours);
}

void WeekProfile::Restore(int slot, double seen, double active) {
  if (slot < 0 || slot >= kSlots || !std::isfinite(seen) || !std::isfinite(active)) return;
  seen_[slot] = static_cast<float>(std::clamp(seen, 0.0, 1e6));
  active_[slot] = std::clamp(static_cast<float>(active), 0.0f, seen_[slot]);
}

}  // namespace starling::predictor
