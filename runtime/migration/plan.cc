#include "runtime/migration/plan.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace starling::migration {

Plan PlanNextRound(const RoundFacts& facts, const PlanLimits& limits) {
  Plan plan;
  if (facts.rounds_done == 0) {
    plan.another_round = limits.max_rounds > 0;
    plan.reason = "nothing has been sent yet";
    return plan;
  }
  // What the component wrote while the last round was being sent is still to be moved, hot pages
  // among it.
  const double dirty_bytes = std::min(std::max(facts.dirty_bytes_per_s * facts.last_round_s,
                                               static_cast<double>(facts.deferred_bytes)),
                                      static_cast<double>(limits.resident_bytes));
  const double sent_bytes =
      std::max(0.0, dirty_bytes - static_cast<double>(limits.post_copy_bytes));
  const double memory_s = facts.link_bytes_per_s > 0 ? sent_bytes / facts.link_bytes_per_s : 0;
  plan.memory_s = memory_s;
  plan.expected_blackout_s = limits.fixed_blackout_s + memory_s;
  if (limits.bytes_restored_per_s > 0) {
    plan.expected_blackout_s +=
        static_cast<double>(limits.resident_bytes) / limits.bytes_restored_per_s;
  }
  if (facts.rounds_done == 1 && limits.max_rounds > 1) {
    plan.another_round = true;
    plan.reason = "how fast the component writes is only known after a second round";
    return plan;
  }
  if (plan.expected_blackout_s <= limits.max_blackout_s) {
    plan.reason = absl::StrFormat("the expected blackout of %.0f ms fits the limit of %.0f ms",
                                  plan.expected_blackout_s * 1e3, limits.max_blackout_s * 1e3);
    return plan;
  }
  const bool memory_matters = memory_s > limits.fixed_blackout_s / 10;
  if (facts.rounds_done >= limits.max_rounds) {
    plan.falls_short = memory_matters;
    plan.reason = absl::StrFormat("%u rounds are the limit", limits.max_rounds);
    return plan;
  }
  if (!memory_matters) {
    plan.reason =
        "another round would not pay: memory is less than a tenth of the expected blackout";
    return plan;
  }
  if (facts.previous_round_bytes > 0 &&
      facts.last_round_bytes * 4 > facts.previous_round_bytes * 3) {
    plan.falls_short = true;
    plan.reason = "another round would not pay: the last one had more than 3/4 of the one before";
    return plan;
  }
  plan.another_round = true;
  plan.reason = absl::StrFormat("the expected blackout of %.0f ms is above the limit of %.0f ms",
                                plan.expected_blackout_s * 1e3, limits.max_blackout_s * 1e3);
  return plan;
}

std::string Advice(const RoundFacts& facts) {
  return absl::StrFormat(
      "the component writes %.1f MiB/s and the link carries %.1f MiB/s; --auto-converge slows it "
      "down until it fits, --post-copy fetches the rest once it runs at the other host, "
      "--only-if-fits gives up instead, --max-blackout allows more",
      facts.dirty_bytes_per_s / (1 << 20), facts.link_bytes_per_s / (1 << 20));
}

}  // namespace starling::migration
