#pragma once

#include <string>
#include <vector>

#include "runtime/decisions/policy.h"
#include "runtime/decisions/situation.h"

namespace starling::decisions {

enum class Action : uint8_t {
  kPageOut,     // level 1: write idle memory out
  kProcessors,  // level 2: other processors of this host
  kDegrade,     // less weight, a lower limit
  kRestore,     // what was degraded gets its own back
  kMigrate,     // level 3
  kReserve,     // a soft lease on another host, or a change of one
  kGiveBack,    // a lease is not needed any more
  kLimits,      // level 2: limits that follow use
  kShrink,      // its user is away: little memory and weight
  kPark,        // its user is away: frozen, its memory paged out
  kWake,        // as it was before it rested
  kGhost,       // a warm ghost, where room is reserved
  kDropGhost,   // one is given up; on this host: one that it keeps for another
};
absl::string_view Name(Action action);  // "page-out", "processors", ...
bool ParseAction(absl::string_view name, Action& action);

struct Step {
  Action action = Action::kMigrate;
  std::string component;
  std::string host;   // migrate, reserve, give back, ghost, drop ghost
  std::string lease;  // the one used or given back, or empty
  int group = 0;      // processors
  Amounts amount;     // what it relieves or reserves; limits: those of cpu and memory, 0: none
  double cost = 0;
  std::string reason;       // for people
  int weight = 0;           // limits; 0: its own
  bool while_idle = false;  // migrate: only for as long as its user stays away
  bool park = false;        // migrate: it is to be parked there
  double bytes_per_s = 0;   // ghost: of its rounds, at most
  bool operator==(const Step&) const = default;
};

struct Decision {
  std::vector<Step> steps;   // in the order in which they are to be done
  std::string reason;        // of the whole: which shortage, when, by which rule; or why nothing
  bool short_of = false;     // a rule expects a shortage
  bool short_now = false;    // a rule of present use is broken
  bool short_later = false;  // a shortage is expected beyond the rules' horizons
  // What the steps do not relieve.
  Amounts left;
  bool operator==(const Decision&) const = default;
};

// The whole of it: what to do in this situation under this policy, cheapest first. A pure function:
// no clock, no I/O, no randomness, and time that grows with components times hosts only.
//
// What a step costs is weighed against how much of the shortage it takes away. A move that has to
// be made within a rule's horizon is made; for a shortage farther off (up to reserve.within_s) room
// is reserved, more of it the nearer it is; and what was reserved in vain is given back.
Decision Decide(const Situation& situation, const Policy& policy);

}  // namespace starling::decisions
