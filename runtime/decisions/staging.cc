#include "runtime/decisions/staging.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"
#include "predictor/keep_warm.h"

namespace starling::decisions {
namespace {

constexpr double kGiB = static_cast<double>(starling::kGiB);
constexpr double kMiB = static_cast<double>(starling::kMiB);
constexpr double kGB = 1e9;
constexpr double kP90Deviations = 1.2816;  // P90 of a normal distribution
// One that is there is kept until it is worth less than half of what it costs.
constexpr double kHysteresis = 0.5;
// What is kept fresh is for so long at least.
constexpr double kLeastAhead_s = 60;

// What a ghost is worth while a move is so likely.
double Spared(const ComponentView& component, double chance, double first_bytes,
              double link_bytes_per_s, const Policy& policy) {
  return chance * component.importance() * policy.costs.moving_s * std::max(0.0, first_bytes) /
         std::max(1.0, link_bytes_per_s);
}

double CostOf(double bytes, const Policy& policy) { return policy.costs.gib_moved * bytes / kGiB; }

const HostView* HostOf(const Situation& s, const std::string& name) {
  for (const HostView& host : s.hosts) {
    if (host.name == name) return &host;
  }
  return nullptr;
}

const ComponentView* ComponentOf(const Situation& s, const std::string& name) {
  for (const ComponentView& component : s.components) {
    if (component.name == name) return &component;
  }
  return nullptr;
}

bool Has(const Decision& decision, Action action, const std::string& component) {
  return std::any_of(decision.steps.begin(), decision.steps.end(), [&](const Step& step) {
    return step.action == action && step.component == component;
  });
}

// Why a ghost of the loop's own is to go, or empty.
std::string WhyDrop(const GhostView& ghost, const Situation& s, const Policy& p,
                    const ForeseenShortage& shortage, const Decision& decision) {
  if (!p.allow.ghost) return "the policy keeps no ghosts any more";
  const ComponentView* const component = ComponentOf(s, ghost.component);
  const HostView* const host = HostOf(s, ghost.host);
  // One whose component is going is used, or goes with it; of a host that is not heard nothing is
  // known.
  if (component == nullptr || host == nullptr || Has(decision, Action::kMigrate, ghost.component)) {
    return "";
  }
  const bool needed =
      shortage.chance > 0 &&
      std::any_of(decision.steps.begin(), decision.steps.end(), [&](const Step& step) {
        return step.action == Action::kReserve && step.component == ghost.component &&
               step.host == ghost.host;
      });
  if (!needed) {
    if (ghost.unneeded_s < p.reserve.patience_s) return "";
    if (predictor::WorthWarming(ghost.again, ghost.bytes / kGB, p.ghosts.keep_above)) return "";
    return absl::StrFormat(
        "it has not been needed for %.0f s, and will be in the next minute with probability %.2f",
        ghost.unneeded_s, ghost.again);
  }
  const double aged = std::exp2(-ghost.age_s / p.ghosts.half_life_s);
  const double worth =
      aged * Spared(*component, shortage.chance, component->move_bytes - ghost.left_bytes,
                    host->bytes_per_s, p);
  const double ahead_s = std::max(kLeastAhead_s, shortage.when_s);
  const double cost = CostOf(ghost.bytes_per_s * ahead_s, p);
  // What has not arrived yet has no worth that could be told.
  if (!ghost.ready || worth >= kHysteresis * cost) return "";
  return absl::StrFormat("it is worth %.4f by now, and %s/s to keep it fresh for %.0f s cost %.4f",
                         worth, FormatBytes(static_cast<uint64_t>(ghost.bytes_per_s)), ahead_s,
                         cost);
}

void Drop(const Situation& s, const Policy& p, const ForeseenShortage& shortage,
          Decision& decision) {
  for (const GhostView& ghost : s.ghosts) {
    if (ghost.by_hand || static_cast<int>(decision.steps.size()) >= p.max_steps) continue;
    std::string why = WhyDrop(ghost, s, p, shortage, decision);
    if (why.empty()) continue;
    Step step;
    step.action = Action::kDropGhost;
    step.component = ghost.component;
    step.host = ghost.host;
    step.amount[Resource::kMemory] = static_cast<int64_t>(ghost.bytes);
    step.reason = std::move(why);
    decision.steps.push_back(step);
    // Its room goes with it, unless this very decision reserves it.
    if (Has(decision, Action::kReserve, ghost.component)) continue;
    for (const LeaseView& lease : s.leases) {
      if (lease.component != ghost.component || lease.host != ghost.host) continue;
      step.action = Action::kGiveBack;
      step.lease = lease.id;
      step.amount = lease.amount;
      step.reason = "its ghost there is given up";
      decision.steps.push_back(step);
    }
  }
}

}  // namespace

double ChanceAbove(const std::array<double, kLevelCount>& levels, double limit) {
  static_assert(kLevels[0] == 0.5 && kLevels[2] == 0.9);
  const double median = levels[0];
  const double deviation = (levels[2] - median) / kP90Deviations;
  if (!(deviation > 0)) return median > limit ? 1 : 0;
  return 0.5 * std::erfc((limit - median) / (deviation * std::sqrt(2.0)));
}

const GhostView* GhostOf(const Situation& situation, const std::string& component,
                         const std::string& host) {
  for (const GhostView& ghost : situation.ghosts) {
    if (ghost.component == component && ghost.host == host) return &ghost;
  }
  return nullptr;
}

double BytesToMove(const Situation& situation, const ComponentView& component,
                   const std::string& host) {
  const GhostView* const ghost = GhostOf(situation, component.name, host);
  if (ghost == nullptr || !ghost->ready) return component.move_bytes;
  return std::min(component.move_bytes, ghost->left_bytes);
}

void DecideGhosts(const Situation& s, const Policy& p, const ForeseenShortage& shortage,
                  bool may_make, Decision& decision) {
  Drop(s, p, shortage, decision);
  if (!p.allow.ghost || !may_make || shortage.chance <= 0) return;
  int count = 0;
  double bytes = 0;
  for (const GhostView& ghost : s.ghosts) {
    if (ghost.by_hand) continue;
    ++count;
    bytes += ghost.bytes;
  }
  const double rate = p.ghosts.rate_mib_s * kMiB;
  const size_t decided = decision.steps.size();
  for (size_t i = 0; i < decided; ++i) {
    // A copy: steps are added.
    const Step reserved = decision.steps[i];
    if (reserved.action != Action::kReserve) continue;
    if (static_cast<int>(decision.steps.size()) >= p.max_steps || count >= p.ghosts.most) return;
    const ComponentView* const component = ComponentOf(s, reserved.component);
    const HostView* const host = HostOf(s, reserved.host);
    if (component == nullptr || host == nullptr || !component->may_move() ||
        !component->may_stage || component->rest != Rest::kNone ||
        GhostOf(s, component->name, host->name) != nullptr) {
      continue;
    }
    const double size = component->move_bytes, fresh = component->written_bytes_per_s;
    // It has to be there in time, and what is written faster than the budget is never fresh.
    const double staging_s = size / std::max(1.0, std::min(rate, host->bytes_per_s));
    if (size <= 0 || fresh >= rate || staging_s > shortage.when_s ||
        bytes + size > p.ghosts.memory_mib * kMiB) {
      continue;
    }
    const double spared =
        Spared(*component, shortage.chance, size - fresh * p.ghosts.every_s, host->bytes_per_s, p);
    // What the move then does not send costs nothing more.
    const double cost = CostOf((1 - shortage.chance) * size + fresh * shortage.when_s, p);
    if (spared <= cost) continue;
    Step step;
    step.action = Action::kGhost;
    step.component = component->name;
    step.host = host->name;
    step.lease = reserved.lease;
    step.amount[Resource::kMemory] = static_cast<int64_t>(size);
    step.cost = cost;
    step.bytes_per_s = rate;
    step.reason = absl::StrFormat(
        "worth %.4f for a cost of %.4f: spares a move %.1f s with probability %.2f, for %s and "
        "%s/s to keep them fresh until a shortage in %.0f s",
        spared, cost, size / std::max(1.0, host->bytes_per_s), shortage.chance,
        FormatBytes(static_cast<uint64_t>(size)), FormatBytes(static_cast<uint64_t>(fresh)),
        shortage.when_s);
    decision.steps.push_back(std::move(step));
    ++count;
    bytes += size;
  }
}

}  // namespace starling::decisions
