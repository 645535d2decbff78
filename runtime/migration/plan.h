#pragma once

#include <cstdint>
#include <string>

#include "base/clock.h"

// When to stop pre-copying: a pure function over what the rounds so far have shown.

namespace starling::migration {

// What is known after a round. Rates in bytes per second; 0 where nothing has been seen yet.
struct RoundFacts {
  uint32_t rounds_done = 0;
  uint64_t last_round_bytes = 0;      // that the round just finished sent, or left as hot
  uint64_t previous_round_bytes = 0;  // the same of the one before it; 0 after the first
  uint64_t deferred_bytes = 0;        // that it left as hot
  double last_round_s = 0;            // how long the round just finished took
  double link_bytes_per_s = 0;
  double dirty_bytes_per_s = 0;
};

struct PlanLimits {
  double max_blackout_s = 0.2;  // stop as soon as the expected blackout fits
  uint32_t max_rounds = 8;      // and here at the latest
  double fixed_blackout_s =
      0;  // what the freeze costs without any memory: skeleton dump, images, restore
  double bytes_restored_per_s =
      0;  // eager restore reads every resident byte at this rate; 0: not counted
  uint64_t resident_bytes = 0;
  uint64_t post_copy_bytes = 0;  // that may stay behind at the freeze
};

struct Plan {
  bool another_round = false;
  double expected_blackout_s = 0;  // if it froze now
  double memory_s = 0;             // of it, for memory
  // No round more would help, and the expected blackout is above the limit because of memory.
  bool falls_short = false;
  std::string reason;  // for people
};

// The blackout to expect if the component froze now: what was dirtied since the last round began or
// was left as hot, less what may stay behind, over the link, and the fixed part. Another round is
// worth it while the expected blackout is above the limit and the last round sent markedly less
// than the one before (under 3/4 of it): rounds that do not shrink never converge.
Plan PlanNextRound(const RoundFacts& facts, const PlanLimits& limits);

// What its user can do about a plan that falls short.
std::string Advice(const RoundFacts& facts);

}  // namespace starling::migration
