#include "runtime/decisions/decide.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/units.h"
#include "runtime/decisions/follow_use.h"
#include "runtime/decisions/rest.h"
#include "runtime/decisions/shortage.h"
#include "runtime/decisions/staging.h"
#include "runtime/names.h"

namespace starling::decisions {
namespace {

using predictor::kHorizonCount;
using predictor::kHorizons;
using reservations::Kind;
using reservations::Show;

constexpr std::array<absl::string_view, 13> kActionNames = {
    "page-out", "processors", "degrade", "restore", "migrate", "reserve",   "give-back",
    "limits",   "shrink",     "park",    "wake",    "ghost",   "drop-ghost"};

// What is left to a component that is degraded.
constexpr double kDegradedShare = 0.5;
// Calm for so many steps, before what was taken is given back: an agent that has just begun has
// seen nothing that could worry it yet.
constexpr double kRestoreSteps = 2;
// How long somebody is expected to stay degraded.
constexpr double kDegradedFor_s = 300;
// What a move asks for: enough for three quarters of what may come. The rest is the target's to
// foresee, as `strain`: it sees all of its components together. What is short already moves for its
// median.
constexpr int kAskedPercent = 75, kAskedInHurry = 50;
constexpr double kGiB = static_cast<double>(starling::kGiB);
constexpr size_t kCpu = static_cast<size_t>(Resource::kCpu);
constexpr size_t kMemory = static_cast<size_t>(Resource::kMemory);
constexpr size_t kP90 = 2;
static_assert(kLevels[kP90] == 0.9);

// Something that could be done.
struct Option {
  Step step;
  Relief relief = {};
  size_t component = 0;
  std::optional<size_t> host;
  std::optional<size_t> kept = std::nullopt;  // of Situation::kept, and then of no component here
};

class Decider {
 public:
  Decider(const Situation& situation, const Policy& policy)
      : s_(situation),
        p_(policy),
        expect_(situation, policy),
        quiet_(policy.Quiet(situation.minute_of_week)),
        moves_(situation.moving) {
    used_.resize(s_.components.size());
    ended_.resize(s_.kept.size());
    going_.resize(s_.hosts.size());
    rooms_.reserve(s_.hosts.size());
    for (const HostView& host : s_.hosts) rooms_.push_back(host.room);
    for (const ComponentView& component : s_.components) {
      top_priority_ = std::max(top_priority_, component.priority);
      importance_ += Importance(component);
    }
  }

  Decision Run() {
    Decision decision;
    // What is short already goes first: then it matters more that it ends than what may come.
    Shortage present = expect_.Expected(0, 0, true);
    Shortage near = expect_.Expected(0, 0, false);
    Shortage likely = near;
    if (near.any()) likely = expect_.Expected(0, 0, false, expect_.WorthMoving());
    const Shortage first = near;
    const bool unlikely = !likely.any();
    decision.short_of = near.any();
    decision.short_now = present.any();
    Relieve(present, near, true, decision);
    likely.Take(relieved_);
    Relieve(likely, near, true, decision);
    Relieve(near, near, false, decision);
    for (size_t i = 0; i < kResources; ++i) {
      decision.left.of[i] = static_cast<int64_t>(std::ceil(near.missing[i]));
    }
    Groups(decision);
    // What is farther off than the rules act on, less what is done already.
    Shortage far = expect_.Expected(p_.reserve.within_s, 0, false);
    decision.short_later = far.any();
    far.Take(relieved_);
    if (p_.allow.reserve && !quiet_) ReserveFor(far, decision);
    if (!first.any() && !far.any()) Calm(decision);
    DecideGhosts(s_, p_, expect_.Foreseen(far), !quiet_, decision);
    decision.reason = Reason(first, far, unlikely, decision);
    // What has nothing to do with a shortage.
    Rests(decision);
    MoveIdle(decision);
    Limits(decision);
    return decision;
  }

 private:
  double Capacity(size_t resource) const { return static_cast<double>(s_.capacity.of[resource]); }

  // What is used beyond all that there is.
  double Over(size_t resource) const {
    const double capacity = Capacity(resource);
    return capacity > 0 ? std::max(0.0, s_.demand[resource].now - capacity) : 0;
  }

  // Whether a move spares those who are here more than its blackout costs, in seconds of each: as
  // likely as what is missing is, for as long as its rule looks ahead, its share of what is
  // missing. The spread of one that is nearly idle takes a little away, too, and that is not worth
  // it.
  bool Pays(const ComponentView& component, const Relief& relief, const Shortage& shortage) const {
    double share = 0;
    for (size_t r = 0; r < kResources; ++r) {
      if (shortage.missing[r] <= 0) continue;
      const double likely = shortage.level[r] ? 1 - kLevels[*shortage.level[r]] : 1;
      share = std::max(share, likely * std::min(1.0, relief[r] / shortage.missing[r]));
    }
    const double length_s = std::max({shortage.rule->within_s, shortage.when_s, s_.step_s});
    return share * length_s * importance_ >= component.move_blackout_s * Importance(component);
  }

  // Steps against a shortage; what they do against `all` of them counts, too. `may_move`: moves are
  // among them.
  void Relieve(Shortage& shortage, Shortage& all, bool may_move, Decision& decision) {
    while (shortage.left() && static_cast<int>(decision.steps.size()) < p_.max_steps) {
      std::optional<Option> best = Cheapest(shortage, may_move && moves_ < p_.max_moves);
      if (!best) break;
      shortage.Take(best->relief);
      Relief relief = best->relief;
      if (best->step.action == Action::kMigrate) {
        relief = expect_.ReliefOf(s_.components[best->component], all);
        ++moves_;
      }
      if (&all != &shortage) all.Take(relief);
      for (size_t r = 0; r < kResources; ++r) relieved_[r] += relief[r];
      Commit(*best, decision);
    }
  }

  // A component's use at its worst within the horizons that count, at this quantile.
  Relief UseOf(const ComponentView& component, size_t level, double within_s) const {
    Relief use = {};
    for (size_t r = 0; r < kResources; ++r) {
      const Outlook& outlook = component.use[r];
      use[r] = std::max(0.0, outlook.now);
      for (int h = 0; h < kHorizonCount; ++h) {
        if (h > 0 && kHorizons[static_cast<size_t>(h)] * s_.step_s > within_s) break;
        use[r] = std::max(use[r], outlook.at[static_cast<size_t>(h)][level]);
      }
    }
    for (size_t n = 0; n < s_.needs.size(); ++n) {
      const NeedView& need = s_.needs[n];
      if (need.when_s > within_s || need.resource >= kResources) continue;
      use[need.resource] = std::max(
          use[need.resource], expect_.UseAt(component, need.resource, kHorizonCount + n)[level]);
    }
    return use;
  }

  static Amounts Ceil(const Relief& relief) {
    Amounts amounts;
    for (size_t r = 0; r < kResources; ++r) {
      amounts.of[r] = static_cast<int64_t>(
          std::ceil(std::clamp(relief[r], 0.0, static_cast<double>(Amounts::kMost))));
    }
    return amounts;
  }

  static double Importance(const ComponentView& component) { return component.importance(); }

  static bool Has(const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  }

  // Whether it is whom a relation names.
  static bool IsOf(const ComponentView& component, absl::string_view relation) {
    if (!absl::ConsumePrefix(&relation, kOfApplication)) return component.name == relation;
    return component.application == relation;
  }

  static bool Apart(const ComponentView& one, const ComponentView& other) {
    const auto names = [](const ComponentView& a, const ComponentView& b) {
      return std::any_of(a.apart.begin(), a.apart.end(),
                         [&](const std::string& relation) { return IsOf(b, relation); });
    };
    return names(one, other) || names(other, one);
  }

  size_t HostIndex(const HostView& host) const {
    return static_cast<size_t>(&host - s_.hosts.data());
  }

  // What is asked of a host: nothing of what it does not measure.
  static Amounts AskedOf(const HostView& host, Amounts amount) {
    for (const Resource resource : kMayBeUnmeasured) {
      if (host.room[resource] >= Amounts::kMost) amount[resource] = 0;
    }
    return amount;
  }

  const LeaseView* LeaseOf(const std::string& component, const std::string& host) const {
    for (const LeaseView& lease : s_.leases) {
      if (lease.component == component && lease.host == host) return &lease;
    }
    return nullptr;
  }

  // What a move there would cost, or nothing when it may not go there.
  std::optional<double> MoveCost(const ComponentView& component, const HostView& host,
                                 const Amounts& amount, bool hurry) const {
    if (Has(p_.avoid, host.name)) return std::nullopt;
    for (const std::string& other : component.apart) {
      if (Has(host.components, other)) return std::nullopt;
    }
    for (const size_t other : going_[HostIndex(host)]) {
      if (Apart(component, s_.components[other])) return std::nullopt;
    }
    const double bytes = BytesToMove(s_, component, host.name);
    double cost = p_.costs.gib_moved * bytes / kGiB +
                  p_.costs.blackout_s * component.move_blackout_s * Importance(component);
    const double share = reservations::DominantShare(amount, s_.capacity);
    cost += std::max(0.0, host.price_per_hour - s_.price_per_hour) * share * p_.costs.stay_h;
    for (const std::string& other : component.near) {
      const bool here = std::any_of(
          s_.components.begin(), s_.components.end(),
          [&](const ComponentView& c) { return c.name != component.name && IsOf(c, other); });
      const std::vector<size_t>& going = going_[HostIndex(host)];
      const bool there = Has(host.components, other) ||
                         std::any_of(going.begin(), going.end(),
                                     [&](size_t one) { return IsOf(s_.components[one], other); });
      if (here && !there) {
        cost += p_.costs.apart_ms * 1000 * host.distance_s * Importance(component);
      }
    }
    if (Has(p_.prefer, host.name) || Has(component.affinity, host.name)) {
      cost *= 1 - p_.costs.preference;
    }
    if (component.good_moment) cost *= 1 - p_.costs.preference;
    // As long as it takes, what is missing already stays missing.
    if (hurry) {
      cost += p_.costs.degraded_s * bytes / std::max(1.0, host.bytes_per_s) *
              (Over(kCpu) / 1000 + Over(kMemory) / kGiB);
    }
    // A host that is far away or slow moves slowly.
    return cost + 1e-4 * bytes / std::max(1.0, host.bytes_per_s) + 1e-3 * host.distance_s;
  }

  // The best host for it: with room, cheapest, then with most room.
  // `hurry`: a host that would become short itself is better than staying. `only`: those hosts.
  std::optional<Option> Move(size_t index, const Relief& use, const Relief& relief, Action action,
                             bool hurry, const std::vector<bool>* only = nullptr) const {
    const ComponentView& component = s_.components[index];
    if (!component.may_move()) return std::nullopt;
    const Amounts wanted = Ceil(use);
    if (!wanted.AnyAboveZero()) return std::nullopt;
    std::optional<Option> best;
    double best_room = 0;
    bool best_calm = false;
    for (size_t h = 0; h < s_.hosts.size(); ++h) {
      if (only != nullptr && !(*only)[h]) continue;
      const HostView& host = s_.hosts[h];
      const Amounts amount = AskedOf(host, wanted);
      const LeaseView* lease = LeaseOf(component.name, host.name);
      Amounts room = rooms_[h];
      if (lease != nullptr && lease->kind != Kind::kLoan) room += lease->amount;
      if (!amount.FitsIn(room)) continue;
      const bool calm = amount.FitsIn((room - host.strain).AboveZero());
      if (!calm && (!hurry || best_calm)) continue;
      std::optional<double> cost = MoveCost(component, host, amount, hurry);
      if (!cost) continue;
      // What is reserved is prepared.
      if (lease != nullptr) *cost *= 1 - p_.costs.preference;
      double share = 1;
      for (size_t r = 0; r < kResources; ++r) {
        if (s_.capacity.of[r] <= 0 || amount.of[r] == 0) continue;
        share = std::min(share, static_cast<double>(room.of[r] - amount.of[r]) / Capacity(r));
      }
      const bool better = !best || (calm && !best_calm) || *cost < best->step.cost - 1e-9 ||
                          (*cost < best->step.cost + 1e-9 && share > best_room);
      if (!better) continue;
      best_room = share;
      best_calm = calm;
      best = Option{{action, component.name, host.name, lease != nullptr ? lease->id : "", 0,
                     amount, *cost, ""},
                    relief,
                    index,
                    h};
    }
    return best;
  }

  std::optional<Option> PageOut(size_t index) const {
    const ComponentView& component = s_.components[index];
    if (!p_.allow.page_out || component.idle_bytes <= 0) return std::nullopt;
    Relief relief = {};
    relief[kMemory] = static_cast<double>(component.idle_bytes);
    const double cost = p_.costs.paged_gib * relief[kMemory] / kGiB *
                        (1 - component.idle_probability) * Importance(component);
    return Option{{Action::kPageOut, component.name, "", "", 0, Ceil(relief), cost, ""},
                  relief,
                  index,
                  std::nullopt};
  }

  std::optional<Option> Degrade(size_t index) const {
    const ComponentView& component = s_.components[index];
    // Never for the sake of an equal.
    if (!p_.allow.degrade || quiet_ || component.degraded || component.priority >= top_priority_) {
      return std::nullopt;
    }
    Relief relief = {};
    relief[kCpu] = (1 - kDegradedShare) * component.use[kCpu].now;
    // No more memory than is idle can be taken without harm; paging out has it.
    const double cost =
        p_.costs.degraded_s * kDegradedFor_s * relief[kCpu] / 1000 * Importance(component);
    if (relief[kCpu] <= 0) return std::nullopt;
    return Option{{Action::kDegrade, component.name, "", "", 0, Ceil(relief), cost, ""},
                  relief,
                  index,
                  std::nullopt};
  }

  // A ghost that this host keeps for another is worth what it would cost to send it again. Those
  // that matter more than all that runs here stay.
  std::optional<Option> EndKept(size_t index) const {
    const KeptView& kept = s_.kept[index];
    if (!p_.allow.ghost || kept.last || kept.bytes <= 0 || kept.priority > top_priority_) {
      return std::nullopt;
    }
    Relief relief = {};
    relief[kMemory] = kept.bytes;
    const double cost =
        kept.value * p_.costs.gib_moved * kept.bytes / kGiB * (1.0 + std::max(0, kept.priority));
    return Option{{Action::kDropGhost, kept.component, s_.host, "", 0, Ceil(relief), cost, ""},
                  relief,
                  0,
                  std::nullopt,
                  index};
  }

  // The option that takes most of the shortage away for its cost.
  std::optional<Option> Cheapest(const Shortage& shortage, bool may_move) const {
    const bool moves = p_.allow.migrate && may_move && (!quiet_ || shortage.now);
    const size_t level =
        LevelOf(shortage.rule->percent == 0 ? kAskedInHurry
                                            : std::min(kAskedPercent, shortage.rule->percent));
    const bool hurry = shortage.now || Over(kCpu) > 0 || Over(kMemory) > 0;
    std::optional<Option> best;
    double best_price = std::numeric_limits<double>::infinity();
    const auto consider = [&](std::optional<Option> option) {
      if (!option) return;
      const double weight = shortage.Weight(option->relief, s_.capacity);
      if (weight <= 1e-9) return;
      const double price = (option->step.cost + 1e-6) / weight;
      if (price >= best_price) return;
      best_price = price;
      best = std::move(option);
    };
    for (size_t i = 0; i < s_.kept.size(); ++i) {
      if (!ended_[i]) consider(EndKept(i));
    }
    for (size_t i = 0; i < s_.components.size(); ++i) {
      if (!used_[i].paged) consider(PageOut(i));
      if (!used_[i].degraded && !used_[i].moved) consider(Degrade(i));
      if (!moves || used_[i].moved) continue;
      // A first look without the hosts: a component that uses nothing of what is short cannot help.
      const Relief relief = expect_.ReliefOf(s_.components[i], shortage);
      if (shortage.Weight(relief, s_.capacity) <= 1e-9) continue;
      if (!Pays(s_.components[i], relief, shortage)) continue;
      const Relief use = UseOf(s_.components[i], level, shortage.rule->within_s);
      consider(Move(i, use, relief, Action::kMigrate, hurry));
    }
    return best;
  }

  void Commit(Option& option, Decision& decision) {
    Step& step = option.step;
    if (option.kept) {
      ended_[*option.kept] = true;
      const KeptView& kept = s_.kept[*option.kept];
      step.reason = absl::StrFormat("%s kept for host %s are needed here",
                                    FormatBytes(static_cast<uint64_t>(kept.bytes)), kept.from);
      decision.steps.push_back(std::move(step));
      return;
    }
    Used& used = used_[option.component];
    const ComponentView& component = s_.components[option.component];
    switch (step.action) {
      case Action::kPageOut:
        used.paged = true;
        step.reason = absl::StrFormat("%s of it lie idle, wanted again with probability %.2f",
                                      FormatBytes(static_cast<uint64_t>(component.idle_bytes)),
                                      1 - component.idle_probability);
        break;
      case Action::kDegrade:
        used.degraded = true;
        step.reason = absl::StrFormat("its priority is %d, others here have up to %d",
                                      component.priority, top_priority_);
        break;
      default:
        used.moved = true;
        if (option.host) {
          going_[*option.host].push_back(option.component);
          const LeaseView* lease = LeaseOf(component.name, step.host);
          Amounts taken = step.amount;
          if (lease != nullptr) taken = (taken - lease->amount).AboveZero();
          rooms_[*option.host] -= taken;
        }
        if (step.reason.empty()) {
          const double bytes = BytesToMove(s_, component, step.host);
          step.reason = absl::StrFormat(
              "takes %s away for a cost of %.3f: %s, blackout %.0f ms of %.0f ms it bears%s%s",
              Show(step.amount), step.cost,
              FormatBytes(static_cast<uint64_t>(std::max(0.0, bytes))),
              1000 * component.move_blackout_s, 1000 * component.bears_blackout_s,
              step.lease.empty() ? "" : ", its room is reserved",
              bytes < component.move_bytes ? ", the rest is in its ghost there" : "");
        }
    }
    decision.steps.push_back(std::move(step));
  }

  // Components go from processors that are short to others of this host.
  void Groups(Decision& decision) {
    if (!p_.allow.processors || s_.groups.size() < 2) return;
    double share = 1;
    for (const Rule& rule : p_.rules) {
      if (rule.resource == Resource::kCpu) share = std::min(share, expect_.Threshold(rule, 0));
    }
    std::vector<ProcessorGroup> groups = s_.groups;
    for (size_t g = 0; g < groups.size(); ++g) {
      while (groups[g].demand > share * groups[g].capacity &&
             static_cast<int>(decision.steps.size()) < p_.max_steps) {
        // The largest that fits elsewhere without making it short there.
        const auto other = static_cast<size_t>(
            std::max_element(groups.begin(), groups.end(),
                             [&](const ProcessorGroup& a, const ProcessorGroup& b) {
                               return share * a.capacity - a.demand < share * b.capacity - b.demand;
                             }) -
            groups.begin());
        const double room = share * groups[other].capacity - groups[other].demand;
        std::optional<size_t> best;
        double best_use = 0;
        for (size_t i = 0; i < s_.components.size(); ++i) {
          const ComponentView& component = s_.components[i];
          if (component.group != static_cast<int>(g) || used_[i].moved) continue;
          const double use = component.use[kCpu].at[0][LevelOf(90)];
          if (use <= 0 || use > room || use <= best_use) continue;
          best = i;
          best_use = use;
        }
        if (other == g || !best) break;
        used_[*best].moved = true;
        groups[g].demand -= best_use;
        groups[other].demand += best_use;
        Step step;
        step.action = Action::kProcessors;
        step.component = s_.components[*best].name;
        step.group = static_cast<int>(other);
        step.amount[Resource::kCpu] = static_cast<int64_t>(std::ceil(best_use));
        step.reason = absl::StrFormat("processor group %d is short, group %d has room for it",
                                      static_cast<int>(g), static_cast<int>(other));
        decision.steps.push_back(std::move(step));
      }
    }
  }

  // Room elsewhere for a shortage that is still far off. What is reserved already counts.
  void ReserveFor(Shortage far, Decision& decision) {
    if (!far.any()) return;
    // The nearer, the surer: from the median to the rule's own quantile.
    const double nearness =
        1 - std::clamp(far.when_s / std::max(1.0, p_.reserve.within_s), 0.0, 1.0);
    const int percent = far.rule->percent == 0 ? 90 : far.rule->percent;
    const size_t level = LevelOf(static_cast<int>(50 + nearness * (percent - 50)));
    // Those of which something is reserved already, first.
    for (const LeaseView& lease : s_.leases) {
      if (!far.left() || lease.kind == Kind::kLoan) break;
      for (size_t i = 0; i < s_.components.size(); ++i) {
        if (s_.components[i].name != lease.component || used_[i].moved) continue;
        used_[i].moved = true;
        const Relief use = UseOf(s_.components[i], level, p_.reserve.within_s);
        far.Take(use);
        const auto host = std::find_if(s_.hosts.begin(), s_.hosts.end(),
                                       [&](const HostView& one) { return one.name == lease.host; });
        Amounts amount = host == s_.hosts.end() ? Ceil(use) : AskedOf(*host, Ceil(use));
        // A ghost lies in it.
        if (GhostOf(s_, lease.component, lease.host) != nullptr) {
          amount[Resource::kMemory] =
              std::max(amount[Resource::kMemory], lease.amount[Resource::kMemory]);
        }
        if (host != s_.hosts.end()) going_[HostIndex(*host)].push_back(i);
        Step step{Action::kReserve,
                  lease.component,
                  lease.host,
                  lease.id,
                  0,
                  amount,
                  0,
                  absl::StrFormat("kept for a shortage in %.0f s", far.when_s)};
        decision.steps.push_back(std::move(step));
      }
    }
    while (far.left() && static_cast<int>(decision.steps.size()) < p_.max_steps) {
      std::optional<Option> best;
      double best_price = std::numeric_limits<double>::infinity();
      for (size_t i = 0; i < s_.components.size(); ++i) {
        if (used_[i].moved) continue;
        const Relief use = UseOf(s_.components[i], level, p_.reserve.within_s);
        const double weight = far.Weight(use, s_.capacity);
        if (weight <= 1e-9) continue;
        std::optional<Option> option = Move(i, use, use, Action::kReserve, false);
        if (!option || (option->step.cost + 1e-6) / weight >= best_price) continue;
        best_price = (option->step.cost + 1e-6) / weight;
        best = std::move(option);
      }
      if (!best) return;
      far.Take(best->relief);
      best->step.reason = absl::StrFormat("room for a shortage in %.0f s", far.when_s);
      Commit(*best, decision);
    }
  }

  // Nothing is short, and nothing will be: what was taken from others goes back.
  void Calm(Decision& decision) {
    const Shortage close = expect_.Expected(p_.reserve.within_s, p_.hysteresis, false);
    for (const LeaseView& lease : s_.leases) {
      // That in which a ghost lies goes with the ghost.
      if (close.any() || s_.calm_s < p_.reserve.patience_s || lease.age_s < p_.reserve.patience_s ||
          GhostOf(s_, lease.component, lease.host) != nullptr) {
        continue;
      }
      decision.steps.push_back(
          {Action::kGiveBack, lease.component, lease.host, lease.id, 0, lease.amount, 0,
           absl::StrFormat("no shortage has been expected for %.0f s", s_.calm_s)});
    }
    if (close.any() || s_.calm_s < kRestoreSteps * s_.step_s || expect_.AboveNow()) return;
    for (const ComponentView& component : s_.components) {
      if (!component.degraded) continue;
      Step step;
      step.action = Action::kRestore;
      step.component = component.name;
      step.reason = "there is room again";
      decision.steps.push_back(std::move(step));
    }
  }

  bool Touched(size_t index) const {
    return used_[index].moved || used_[index].paged || used_[index].degraded;
  }

  void Add(std::optional<Step> step, Decision& decision) {
    if (!step || static_cast<int>(decision.steps.size()) >= p_.max_steps) return;
    decision.steps.push_back(*std::move(step));
  }

  void Rests(Decision& decision) {
    for (size_t i = 0; i < s_.components.size(); ++i) {
      if (Touched(i)) continue;
      std::optional<Step> step = RestOrWake(s_.components[i], p_, s_.idle_shift);
      // What has ghosts cannot be parked.
      const bool ghosts = std::any_of(
          s_.ghosts.begin(), s_.ghosts.end(),
          [&](const GhostView& ghost) { return ghost.component == s_.components[i].name; });
      if (step && step->action == Action::kPark && ghosts) continue;
      Add(std::move(step), decision);
    }
  }

  // What is left of this host one step ahead, when what was decided is done.
  std::array<double, kResources> FreeHere() const {
    std::array<double, kResources> free;
    for (size_t r = 0; r < kResources; ++r) {
      free[r] = Capacity(r) - s_.demand[r].at[0][kP90] - static_cast<double>(s_.incoming.of[r]) +
                relieved_[r];
    }
    return free;
  }

  // Whose user stays away makes room here for those who are there, or is cheaper elsewhere.
  void MoveIdle(Decision& decision) {
    const bool away = p_.idle.rest == Rest::kMoved || p_.idle.rest == Rest::kParkedAway;
    if (!away || !p_.allow.migrate || quiet_) return;
    for (size_t i = 0; i < s_.components.size(); ++i) {
      if (moves_ >= p_.max_moves || static_cast<int>(decision.steps.size()) >= p_.max_steps) return;
      const ComponentView& component = s_.components[i];
      if (Touched(i) || !UserStaysAway(component, p_, s_.idle_shift)) continue;
      // Enough for when its user is back.
      const Relief use = UseOf(component, LevelOf(kAskedPercent), p_.reserve.within_s);
      const Amounts amount = Ceil(use);
      const double share = reservations::DominantShare(amount, s_.capacity);
      std::vector<bool> better(s_.hosts.size()), cheaper(s_.hosts.size());
      for (size_t h = 0; h < s_.hosts.size(); ++h) {
        const HostView& host = s_.hosts[h];
        const std::optional<double> cost = MoveCost(component, host, amount, false);
        if (!cost || host.price_per_hour > s_.price_per_hour) continue;
        const double saved = (s_.price_per_hour - host.price_per_hour) * share * p_.costs.stay_h;
        cheaper[h] = saved > *cost;
        const Amounts there = rooms_[h] - host.strain - amount;
        better[h] = cheaper[h] || Emptier(FreeHere(), there, amount, s_.capacity, p_);
      }
      std::optional<Option> move = Move(i, use, use, Action::kMigrate, false, &better);
      if (!move) continue;
      move->step.while_idle = true;
      move->step.park = p_.idle.rest == Rest::kParkedAway;
      move->step.reason =
          absl::StrCat(AwayReason(component),
                       cheaper[*move->host] ? ": it is cheaper there" : ": it makes room");
      for (size_t r = 0; r < kResources; ++r) {
        relieved_[r] += std::max(0.0, component.use[r].at[0][kP90]);
      }
      ++moves_;
      Commit(*move, decision);
    }
  }

  // Those that want more come first.
  void Limits(Decision& decision) {
    double mean_cpu = 0;
    for (const ComponentView& component : s_.components) {
      mean_cpu +=
          std::max(0.0, component.use[kCpu].at[0][0]) / static_cast<double>(s_.components.size());
    }
    std::vector<Step> more, less;
    for (size_t i = 0; i < s_.components.size(); ++i) {
      const ComponentView& component = s_.components[i];
      if (used_[i].moved) continue;
      std::optional<Step> step = FollowUse(component, s_, p_, mean_cpu);
      if (!step) continue;
      const auto grows = [&](size_t r) {
        const int64_t before = component.limit.of[r], after = step->amount.of[r];
        return before != 0 && (after == 0 || after > before);
      };
      (grows(kCpu) || grows(kMemory) ? more : less).push_back(*std::move(step));
    }
    for (Step& step : more) Add(std::move(step), decision);
    for (Step& step : less) Add(std::move(step), decision);
  }

  std::string Reason(const Shortage& near, const Shortage& far, bool unlikely,
                     const Decision& decision) const {
    const Shortage& shortage = near.any() ? near : far;
    if (!shortage.any()) {
      if (!decision.steps.empty()) return "no shortage is expected any more";
      return "no shortage is expected";
    }
    const Rule& rule = *shortage.rule;
    const std::string name(reservations::Name(rule.resource));
    const double share = 100 / std::max(1.0, Capacity(static_cast<size_t>(rule.resource)));
    std::string text =
        rule.percent == 0
            ? absl::StrFormat("%s: %.0f %% are in use, above %.0f %% for %.0f s", name,
                              share * shortage.value, share * shortage.limit, s_.short_for_s)
            : absl::StrFormat("%s: P%d in %.0f s is %.0f %%, above %.0f %%", name, rule.percent,
                              shortage.when_s, share * shortage.value, share * shortage.limit);
    if (near.any() && unlikely) {
      absl::StrAppendFormat(&text, "; P%d is not, so that nothing moves yet", p_.move_percent);
    }
    if (quiet_ && !near.now) absl::StrAppend(&text, "; these are quiet hours");
    if (decision.left.AnyAboveZero()) {
      absl::StrAppend(&text, "; ", Show(decision.left), " stay short");
    }
    return text;
  }

  struct Used {
    bool paged = false, degraded = false, moved = false;
  };
  const Situation& s_;
  const Policy& p_;
  const Expectations expect_;
  const bool quiet_;
  int top_priority_ = std::numeric_limits<int>::min();
  double importance_ = 0;  // of all components here
  std::vector<Used> used_;
  std::vector<bool> ended_;  // of Situation::kept
  // Of each host: the components that this decision moves there, or reserves room for.
  std::vector<std::vector<size_t>> going_;
  std::vector<Amounts> rooms_;
  int moves_;  // under way, and decided on
  Relief relieved_ = {};
};

}  // namespace

absl::string_view Name(Action action) { return kActionNames[static_cast<size_t>(action)]; }

bool ParseAction(absl::string_view name, Action& action) {
  const auto found = std::find(kActionNames.begin(), kActionNames.end(), name);
  if (found == kActionNames.end()) return false;
  action = static_cast<Action>(found - kActionNames.begin());
  return true;
}

Decision Decide(const Situation& situation, const Policy& policy) {
  return Decider(situation, policy).Run();
}

}  // namespace starling::decisions
