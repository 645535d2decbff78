#include "runtime/migration/ghost_value.h"

#include <algorithm>
#include <cmath>

namespace starling::migration {
namespace {

constexpr double kCold = 0.1;  // saves the reservation
constexpr double kWarm = 1;    // and the first round
constexpr double kInstants = 3;
constexpr double kHalfLife_s = 86400;

}  // namespace

double ValueOf(const KeptGhost& ghost) {
  if (ghost.bytes == 0) return 0;
  double value = ghost.instants ? kInstants : ghost.warm ? kWarm : kCold;
  value *= std::exp2(-std::max(0.0, ghost.age_s) / kHalfLife_s);
  return value;
}

std::vector<size_t> ChooseToDrop(const std::vector<KeptGhost>& ghosts, uint64_t needed,
                                 int priority) {
  std::vector<size_t> order;
  for (size_t i = 0; i < ghosts.size(); ++i) {
    const KeptGhost& ghost = ghosts[i];
    if (ghost.priority > priority || ghost.bytes == 0) continue;
    if (ghost.instants && ghost.silent) continue;
    order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (ghosts[a].priority != ghosts[b].priority) return ghosts[a].priority < ghosts[b].priority;
    return ValueOf(ghosts[a]) < ValueOf(ghosts[b]);
  });
  std::vector<size_t> chosen;
  uint64_t freed = 0;
  for (const size_t i : order) {
    if (freed >= needed) break;
    chosen.push_back(i);
    freed += ghosts[i].bytes;
  }
  if (freed < needed) chosen.clear();
  return chosen;
}

}  // namespace starling::migration
