#pragma once

#include <array>

#include "runtime/decisions/decide.h"

// Which components have a warm ghost where room is reserved for them. Part of Decide(); pure
// functions.

namespace starling::decisions {

// The shortage that room is reserved for.
struct ForeseenShortage {
  double chance = 0;  // that it comes; 0: none is expected
  double when_s = 0;  // from now
};

// How likely more than `limit` is, given these quantiles: those of a normal distribution through
// the median and P90.
double ChanceAbove(const std::array<double, kLevelCount>& levels, double limit);

// The component's ghost on that host, or null.
const GhostView* GhostOf(const Situation& situation, const std::string& component,
                         const std::string& host);

// What a move there still has to send: what its ghost there does not have.
double BytesToMove(const Situation& situation, const ComponentView& component,
                   const std::string& host);

// Adds to `decision`, in which moves and reservations are decided already, the ghosts that are
// worth making for what it reserves, and gives up those of the loop's own that are not worth
// keeping, each with its lease. `may_make`: it may begin anything at all now.
//
// A ghost spares the first round of a move, at `costs.moving_s` a second, as likely as that move
// is. It costs its bytes, where they are sent in vain, and what keeps it fresh until then.
void DecideGhosts(const Situation& situation, const Policy& policy,
                  const ForeseenShortage& shortage, bool may_make, Decision& decision);

}  // namespace starling::decisions
