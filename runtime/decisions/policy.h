#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/decisions/situation.h"
#include "runtime/reservations/resources.h"

// What the owner of a host wants decided, as one TOML file; docs/policy.md has every key.

namespace starling::decisions {

// A shortage is expected when this quantile of what will be used within `within_s` is above a share
// of the capacity.
struct Rule {
  reservations::Resource resource = reservations::Resource::kCpu;
  int percent = 90;      // the quantile: 50, 75, 90, 95 or 99; 0: what is used now
  double above = 0.8;    // share of the capacity
  double within_s = 60;  // as far ahead as it looks; 0 percent: for so long it has been above
  bool operator==(const Rule&) const = default;
};

// Minutes of the week, from Monday 0:00; `to` may lie before `from`, and then goes over Sunday.
struct Hours {
  int from = 0, to = 0;
  bool Contains(int minute_of_week) const {
    return from <= to ? minute_of_week >= from && minute_of_week < to
                      : minute_of_week >= from || minute_of_week < to;
  }
  bool operator==(const Hours&) const = default;
};

struct PriceRule {
  std::string host;          // empty: all
  std::vector<Hours> hours;  // empty: always
  double per_hour = 0;
  bool operator==(const PriceRule&) const = default;
};

struct Policy {
  bool act = false;  // false: observe; say what would be done, and do nothing
  std::vector<Rule> rules = {
      {reservations::Resource::kCpu, 90, 0.8, 60},
      {reservations::Resource::kMemory, 90, 0.85, 60},
      {reservations::Resource::kCpu, 0, 0.9, 10},
      {reservations::Resource::kMemory, 0, 0.9, 10},
  };
  // Below a rule by this share of the capacity it is calm again.
  double hysteresis = 0.05;
  // Steps of one decision at most, and moves among them.
  int max_steps = 8;
  int max_moves = 2;
  // A shortage that is farther off than a move takes has to be expected by this quantile, too,
  // before components move for it: 50, 75, 90, 95 or 99. For a less likely one room is reserved,
  // and all is done that is easily undone.
  int move_percent = 50;

  struct Allow {
    bool page_out = true, processors = true, degrade = true, migrate = true, reserve = true;
    bool protect = true;  // what a lease of this host's promises a component of memory
    // Limits are a bet against bursts: only where the owner of the host wants it.
    bool limits = false;
    bool ghost = true;  // made, given up, and those that this host keeps for others ended
    bool operator==(const Allow&) const = default;
  } allow;

  struct Reserve {
    double within_s = 3600;  // how far ahead room is reserved
    double lease_s = 900;
    // A reservation is given back when it has been calm for so long.
    double patience_s = 900;
    bool operator==(const Reserve&) const = default;
  } reserve;

  // All in one unit, whatever prices are in.
  struct Costs {
    double gib_moved = 0.01;
    double blackout_s = 1;     // of a component of priority 0
    double degraded_s = 0.01;  // a second of one processor or GiB less, of priority 0
    double paged_gib = 0.02;   // a GiB that is wanted again
    double moving_s = 0.01;    // a second that a move of one of priority 0 takes
    double apart_ms = 0.05;    // each millisecond of round trip between components kept near
    double stay_h = 1;         // the price of so many hours counts
    // Share of its cost that a move to a preferred host, or at a good moment, is spared.
    double preference = 0.5;
    bool operator==(const Costs&) const = default;
  } costs;

  struct Thresholds {
    double lower = 0.1;   // a threshold moves down by at most this share of the capacity,
    double higher = 0.1;  // and up by at most this
    double step = 0.01;   // by so much for an ordinary mistake
    bool operator==(const Thresholds&) const = default;
  } thresholds;

  // Limits that follow use; see FollowUse().
  struct Limits {
    int percent = 99;       // the quantile of what a component will use
    double headroom = 1.5;  // so many times that
    double within_s = 60;
    double least_processors = 0.1;  // no limit is lower
    double least_memory_mib = 64;
    bool operator==(const Limits&) const = default;
  } limits;

  // Warm ghosts of this host's components that the loop keeps at others; see DecideGhosts().
  struct Ghosts {
    double rate_mib_s = 16;     // of the rounds of each, at most
    double every_s = 5;         // between the beginnings of two rounds
    int most = 4;               // at a time
    double memory_mib = 16384;  // of all of them together, at most
    double half_life_s = 3600;  // after so long in vain one is worth half
    double keep_above = 0.05;   // probability of being needed in the next minute, for 1 GB
    bool operator==(const Ghosts&) const = default;
  } ghosts;

  // Components whose user is away.
  struct Idle {
    Rest rest = Rest::kNone;
    double above = 0.9;       // the probability that the user stays away
    double after_s = 300;     // and has been away for
    double shrink_to = 0.25;  // shrunk: share of its memory that is left before it is reclaimed
    double move_at = 0.5;     // moved for the sake of room: from this load of the host on
    bool operator==(const Idle&) const = default;
  } idle;

  std::vector<std::string> prefer, avoid;  // hosts
  // No moves and nothing degraded, unless a shortage is there already.
  std::vector<Hours> quiet;
  std::vector<PriceRule> prices;  // the first that fits
  std::string price_feed;         // a file that is read again when it changes; see PriceFeed
  bool operator==(const Policy&) const = default;

  // Whether a rule is about it.
  bool Watches(reservations::Resource resource) const {
    for (const Rule& rule : rules) {
      if (rule.resource == resource) return true;
    }
    return false;
  }
  bool Quiet(int minute_of_week) const {
    for (const Hours& hours : quiet) {
      if (hours.Contains(minute_of_week)) return true;
    }
    return false;
  }
};

// Reads and checks it. Errors: kInvalidArgument as "FILE:LINE: KEY: what is wrong; what is
// allowed", the first only.
absl::StatusOr<Policy> ParsePolicy(absl::string_view text, absl::string_view name);
absl::StatusOr<Policy> LoadPolicy(const std::string& path);

// Every key that the parser knows, as "section.key" ("rule.key" for [[rule]]).
std::vector<std::string> PolicyKeys();

}  // namespace starling::decisions
