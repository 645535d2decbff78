#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "predictor/horizons.h"
#include "runtime/reservations/ledger.h"
#include "runtime/reservations/resources.h"

// What a host knows when it decides: plain values, so that a decision can be tested with a table
// and made again from a log. Amounts are in the units of reservations::Resource.

namespace starling::decisions {

using reservations::Amounts;
using reservations::kResources;
using reservations::Resource;

// What not every host knows how much it has of: nothing of it is asked of one that does not.
inline constexpr std::array<Resource, 3> kMayBeUnmeasured = {Resource::kDisk, Resource::kNetwork,
                                                             Resource::kStorage};

// The quantiles that forecasts are handed over at.
inline constexpr std::array<double, 5> kLevels = {0.5, 0.75, 0.9, 0.95, 0.99};
inline constexpr size_t kLevelCount = kLevels.size();
// The first that is not below so many percent; the last for more.
inline size_t LevelOf(int percent) {
  for (size_t i = 0; i < kLevelCount; ++i) {
    if (percent <= static_cast<int>(std::lround(100 * kLevels[i]))) return i;
  }
  return kLevelCount - 1;
}

// One resource: what is used now, and what will be at each horizon, by quantile.
struct Outlook {
  double now = 0;
  std::array<std::array<double, kLevelCount>, predictor::kHorizonCount> at = {};
  bool operator==(const Outlook&) const = default;
};
using Outlooks = std::array<Outlook, kResources>;

// How a component rests while its user is away.
enum class Rest : uint8_t {
  kNone,
  kShrunk,  // with little memory and weight
  kParked,  // frozen, its memory paged out
  // Of a policy only, as here it is no more then:
  kMoved,       // runs on another host
  kParkedAway,  // is parked on another host
};

// A component of this host.
struct ComponentView {
  std::string name;
  int priority = 0;             // larger goes first
  bool usual = false;           // one that its user usually works with at this hour
  bool movable = true;          // nothing stands in the way of a move
  double bears_blackout_s = 1;  // its sensitivity
  double not_now_s = 0;         // it asked to be left alone for so long still
  bool good_moment = false;     // it said that now is one
  double idle_probability = 0;  // that its user stays away
  bool degraded = false;
  int64_t idle_bytes = 0;  // memory that was not touched lately
  int group = 0;           // of processors; see ProcessorGroup
  bool settled = false;    // watched for long enough to be held to what is foreseen
  // Limits that were fitted to its use, of processors and memory, and its weight; 0: none.
  Amounts limit;
  int weight = 0;
  Amounts least;       // what a lease of this host's promises it
  Amounts most;        // what its specification and what others are promised leave it; 0: no bound
  double away_s = -1;  // since its user was last seen; below 0: it never told of one
  Rest rest = Rest::kNone;
  bool rests_by_hand = false;
  bool sent_to_rest = false;  // by the host that it came from
  Outlooks use;
  // What a move would cost, as learned from past ones.
  double move_bytes = 0;
  double move_blackout_s = 0;
  std::string application;               // empty: none
  std::vector<std::string> near, apart;  // components, or "application:NAME": all others of it
  std::vector<std::string> affinity;     // hosts
  bool may_stage = true;                 // no ghost of it failed or was given up lately
  double written_bytes_per_s = 0;        // that a ghost of it would have to be sent
  bool operator==(const ComponentView&) const = default;

  // What its blackout, or what is taken from it, costs, in those of one of priority 0.
  double importance() const { return 1.0 + (priority > 0 ? priority : 0) + (usual ? 1 : 0); }
  bool may_move() const { return movable && not_now_s <= 0 && move_blackout_s <= bears_blackout_s; }
};

// A ghost of a component of this host, kept at another.
struct GhostView {
  std::string component, host;
  bool by_hand = true;     // a person's, which is left alone
  bool ready = false;      // it is warm, and a move starts from it
  double bytes = 0;        // that the other host keeps for it
  double left_bytes = 0;   // that a move would still have to send
  double bytes_per_s = 0;  // that keep it fresh
  double age_s = 0;        // since it was made
  double unneeded_s = 0;   // since something was decided that it is for
  double again = 0;  // probability that it is needed in the next minute, as is seen from the past
  bool operator==(const GhostView&) const = default;
};

// A ghost of a component of another host, kept on this one.
struct KeptView {
  std::string component, from;
  int priority = 0;
  double bytes = 0;   // that would be free without it
  double value = 0;   // for each of them; a warm one that was just made has 1
  bool last = false;  // may be all that is left of its component
  bool operator==(const KeptView&) const = default;
};

// What components said they will need at a time that no horizon is near to.
struct NeedView {
  struct Part {
    std::string component;
    std::array<double, kLevelCount> use = {};
    bool operator==(const Part&) const = default;
  };
  double when_s = 0;                            // from now
  size_t resource = 0;                          // of reservations::Resource
  std::array<double, kLevelCount> demand = {};  // of all components together then
  std::vector<Part> parts;                      // those that said something of it
  bool operator==(const NeedView&) const = default;
};

// Processors that share a cache or a memory controller.
struct ProcessorGroup {
  double capacity = 0;  // thousandths of a processor
  double demand = 0;    // P90 within the rule's horizon
  bool operator==(const ProcessorGroup&) const = default;
};

// Another host, as its last summary had it.
struct HostView {
  std::string name;
  Amounts room;    // what it may still promise; Amounts::kMost of what it does not measure
  Amounts strain;  // ... of it, what would make it short itself, as far as its own rules foresee
  double price_per_hour = 0;
  double distance_s = 0;  // round trip
  double bytes_per_s = 1;
  std::vector<std::string> components;  // and "application:NAME" of each that has one there
  bool operator==(const HostView&) const = default;
};

// A lease that this host has on another.
struct LeaseView {
  std::string id, host, component;
  reservations::Kind kind = reservations::Kind::kSoft;
  Amounts amount;
  double age_s = 0;  // since it was granted
  bool operator==(const LeaseView&) const = default;
};

struct Situation {
  double time_s = 0;           // since 1970; for the log
  int minute_of_week = 0;      // local time, from Monday 0:00
  double step_s = 1;           // between samples: horizon i is kHorizons[i] of these
  double calm_s = 0;           // how long no shortage has been expected
  double short_for_s = 0;      // how long use has been above a rule of present use
  int moving = 0;              // components that are on their way to other hosts
  double threshold_shift = 0;  // see Thresholds
  double idle_shift = 0;       // of Policy::Idle::above; see predictor::IdleThreshold
  std::string host;
  double price_per_hour = 0;
  Amounts capacity;
  Amounts incoming;  // firm leases of others in which nothing runs yet
  Outlooks demand;   // of all components together, with an interval of its own
  std::vector<ProcessorGroup> groups;
  std::vector<ComponentView> components;
  std::vector<NeedView> needs;  // nearest first, for each resource
  std::vector<HostView> hosts;
  std::vector<LeaseView> leases;
  std::vector<GhostView> ghosts;
  std::vector<KeptView> kept;
  bool operator==(const Situation&) const = default;
};

}  // namespace starling::decisions
