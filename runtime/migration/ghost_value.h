#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// Which ghosts a host gives up when something else needs their room. Pure.

namespace starling::migration {

struct KeptGhost {
  int priority = 0;  // of its component
  bool warm = false;
  bool instants = false;
  bool silent = false;  // its source is not heard: it may be all that is left of the component
  uint64_t bytes = 0;   // that would be free without it
  double age_s = 0;     // since it was made
};

// What a ghost is worth for each byte that it keeps: a warm one saves the first round, which is as
// long as it is large, one with instants saves the component as well, a cold one hardly anything;
// half of it is gone for each day that nobody used it. 0 for one that keeps nothing.
double ValueOf(const KeptGhost& ghost);

// The ghosts to drop so that `needed` bytes are free for a component of that priority, cheapest
// first; none when they would not do. Ghosts of components of higher priority, and those that may
// be all that is left of theirs, stay.
std::vector<size_t> ChooseToDrop(const std::vector<KeptGhost>& ghosts, uint64_t needed,
                                 int priority);

}  // namespace starling::migration
