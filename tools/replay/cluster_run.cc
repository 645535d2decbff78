#include "tools/replay/cluster_run.h"

#include <time.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "runtime/decisions/outlook.h"
#include "runtime/reservations/audit.h"
#include "tools/replay/statistics.h"

namespace starling::replay {
namespace {

using decisions::Action;
using decisions::Outlook;
using decisions::Situation;
using reservations::Amounts;
using reservations::Ask;
using reservations::Change;
using reservations::Changes;
using reservations::Kind;
using reservations::Lease;
using reservations::Resource;
using reservations::What;
using Sees = ClusterRule::Sees;

constexpr double kStep_s = ClusterLoad::kStep_s;
constexpr double kGiB = 1073741824;
// How a move goes: a 10 Gbit/s link that is not empty, a tenth of the memory twice, and what every
// move takes beside.
constexpr double kLink_bytes_per_s = 0.8e9;
constexpr double kTwice = 1.1;
constexpr double kMoveFixed_s = 1;
constexpr double kBlackout_s = 0.2;
// A sample, forecasts, a decision.
constexpr double kSeen_s = 1;
// For so long present use has to be above a rule.
constexpr double kShortFor_s = 10;
constexpr int kTries = 3;
// By which a host judges whether it would be short: P95.
constexpr size_t kStrain = 3;
const std::string kAnyComponent;
constexpr Resource kOf[2] = {Resource::kCpu, Resource::kMemory};

double CpuNow_ns() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e9 * static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec);
}

Amounts AmountsOf(const std::array<double, 2>& pair) {
  Amounts amounts;
  for (size_t r = 0; r < 2; ++r) {
    amounts[kOf[r]] = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(pair[r])));
  }
  return amounts;
}

}  // namespace

ClusterRun::ClusterRun(const ClusterLoad& load, const ClusterRule& rule,
                       const ClusterPrices& prices, std::vector<int> placement)
    : load_(load),
      rule_(rule),
      prices_(prices),
      capacity_{load.cpu_capacity(), load.memory_capacity()},
      where_(std::move(placement)) {
  for (size_t r = 0; r < 2; ++r) {
    whole_[kOf[r]] = static_cast<int64_t>(capacity_[r]);
    promisable_[kOf[r]] = static_cast<int64_t>(rule.fill * capacity_[r]);
  }
  hosts_.resize(static_cast<size_t>(load.shape().hosts));
  for (size_t h = 0; h < hosts_.size(); ++h) {
    hosts_[h].name = absl::StrCat("h", h);
    host_number_[hosts_[h].name] = static_cast<int>(h);
    hosts_[h].ledger = std::make_unique<reservations::Ledger>(promisable_);
  }
  for (size_t c = 0; c < where_.size(); ++c) {
    const ClusterLoad::Component& component = load.components()[c];
    hosts_[static_cast<size_t>(where_[c])].residents.push_back(
        {static_cast<int>(c), component.name, component.priority, component.bears_blackout_s, {}});
    component_number_[load.components()[c].name] = static_cast<int>(c);
  }
}

ClusterRun::Pair ClusterRun::UseOf(int component) const {
  const auto c = static_cast<size_t>(component);
  return {load_.Cpu(c, step_), load_.Memory(c, step_)};
}

double ClusterRun::Most(int component, size_t resource) const {
  const ClusterLoad::Component& c = load_.components()[static_cast<size_t>(component)];
  return resource == 0 ? c.cpu : c.memory;
}

double ClusterRun::Price(int host) const {
  const auto& pool = prices_.host_hour[static_cast<size_t>(host) % prices_.host_hour.size()];
  const auto hour = static_cast<size_t>(std::max(0, step_) * 300 / 3600);
  return pool[std::min(hour, pool.size() - 1)];
}

void ClusterRun::Observe(const std::vector<ComponentForecast>& forecasts) {
  for (size_t h = 0; h < hosts_.size(); ++h) {
    Host& host = hosts_[h];
    host.use = {};
    for (Resident& resident : host.residents) {
      const int c = resident.component;
      const Pair use = UseOf(c);
      for (size_t r = 0; r < 2; ++r) {
        resident.use[r] = ComponentOutlook(c, static_cast<int>(r), forecasts);
        host.use[r] += use[r];
        if (rule_.sees != Sees::kForecast) continue;
        host.demand[r].Add(use[r], forecasts[static_cast<size_t>(c)].of[r], Most(c, r));
      }
    }
    if (rule_.sees != Sees::kForecast) continue;
    for (size_t r = 0; r < 2; ++r) {
      if (scored_) {
        const Outlook before = host.demand[r].At();
        figures_.joint_above[r] += host.use[r] > before.at[0][3];
        figures_.joint_margin[r] += (before.at[0][3] - before.at[0][0]) / capacity_[r];
        ++figures_.joint_steps[r];
      }
      host.demand[r].End();
    }
  }
}

// What the components of a host may claim of it: the median of what each will use. What may come
// beyond it is in what the host says of its strain.
void ClusterRun::RenewResidents(int number) {
  Host& host = hosts_[static_cast<size_t>(number)];
  Changes changes;
  host.ledger->Expire(Now(), changes);
  std::vector<Pair> medians(host.residents.size());
  Pair share = {};  // of the sum of medians: together they may use less
  for (size_t r = 0; r < 2; ++r) {
    double sum = 0;
    for (size_t i = 0; i < host.residents.size(); ++i) {
      const Outlook& own = host.residents[i].use[r];
      medians[i][r] = std::max(own.now, own.at[0][0]);
      sum += medians[i][r];
    }
    const double together = std::max(host.use[r], DemandOf(number, static_cast<int>(r)).at[0][0]);
    share[r] = together / std::max(1e-9, sum);
  }
  for (size_t i = 0; i < host.residents.size(); ++i) {
    const Pair amount = {medians[i][0] * share[0], medians[i][1] * share[1]};
    const std::string& name = host.residents[i].name;
    const Lease* lease = host.ledger->Find(name);
    if (lease == nullptr) {
      // It runs here, whatever was asked: what is left is its own.
      Ask ask{name,
              host.name,
              name,
              host.residents[i].priority,
              Kind::kFirm,
              false,
              AmountsOf(amount),
              std::chrono::hours(1)};
      if (!host.ledger->Grant(Now(), ask, changes).ok()) {
        for (size_t r = 0; r < 2; ++r) {
          ask.amount[kOf[r]] = std::min(ask.amount[kOf[r]], host.ledger->Free()[kOf[r]]);
        }
        if (!ask.amount.AnyAboveZero() || !host.ledger->Grant(Now(), ask, changes).ok()) continue;
      }
      host.ledger->Pin(Now(), name, host.name, host.name, changes).status().IgnoreError();
      continue;
    }
    const Amounts wanted = AmountsOf(amount);
    // A grant that moves by less than a twentieth is left as it is.
    bool near = true;
    for (size_t r = 0; r < 2; ++r) {
      const auto have = static_cast<double>(lease->amount[kOf[r]]);
      near = near && std::abs(static_cast<double>(wanted[kOf[r]]) - have) < 0.05 * have;
    }
    if (near) continue;
    host.ledger->Renew(Now(), name, host.name, std::chrono::hours(1), wanted, changes)
        .status()
        .IgnoreError();
  }
  for (const Change& change : changes) {
    figures_.withdrawn += scored_ && change.what == What::kWithdrawn;
    figures_.expired += scored_ && change.what == What::kExpired;
  }
}

decisions::Outlook ClusterRun::Future(int number, bool is_host, int resource) const {
  const auto value = [&](int component, int step) {
    const auto c = static_cast<size_t>(component);
    return resource == 0 ? load_.Cpu(c, step) : load_.Memory(c, step);
  };
  Outlook outlook;
  double most = 0;
  int horizon = 0;
  for (int ahead = 0; ahead <= predictor::kLongest; ++ahead) {
    double sum = 0;
    if (is_host) {
      for (const Resident& resident : hosts_[static_cast<size_t>(number)].residents) {
        sum += value(resident.component, step_ + ahead);
      }
    } else {
      sum = value(number, step_ + ahead);
    }
    if (ahead == 0) {
      outlook.now = sum;
      continue;
    }
    most = std::max(most, sum);
    if (ahead == predictor::kHorizons[static_cast<size_t>(horizon)]) {
      outlook.at[static_cast<size_t>(horizon++)].fill(most);
    }
  }
  return outlook;
}

// What others know of a host's room from now on, and what of it would make the host short itself.
void ClusterRun::Tell(int number) {
  Host& host = hosts_[static_cast<size_t>(number)];
  if (rule_.sees == Sees::kPresent) {
    for (size_t r = 0; r < 2; ++r) {
      host.room[kOf[r]] =
          std::max<int64_t>(0, static_cast<int64_t>(rule_.fill * capacity_[r] - host.use[r]));
    }
    return;
  }
  host.room = host.ledger->Free();
  host.strain = {};
  for (const decisions::Rule& rule : rule_.policy.rules) {
    if (rule.percent == 0) continue;
    const size_t r = rule.resource == Resource::kMemory ? 1 : 0;
    const double will = DemandOf(number, static_cast<int>(r)).at[0][kStrain];
    const auto left = static_cast<int64_t>(std::max(0.0, rule.above * capacity_[r] - will));
    host.strain[rule.resource] =
        std::max(host.strain[rule.resource], host.room[rule.resource] - left);
  }
}

decisions::Outlook ClusterRun::DemandOf(int number, int resource) const {
  if (rule_.sees == Sees::kFuture) return Future(number, true, resource);
  const Host& host = hosts_[static_cast<size_t>(number)];
  const auto r = static_cast<size_t>(resource);
  Outlook outlook;
  if (rule_.sees == Sees::kForecast) outlook = host.demand[r].At();
  outlook.now = host.use[r];
  return outlook;
}

decisions::Outlook ClusterRun::ComponentOutlook(
    int component, int resource, const std::vector<ComponentForecast>& forecasts) const {
  if (rule_.sees == Sees::kFuture) return Future(component, false, resource);
  const auto c = static_cast<size_t>(component);
  const auto r = static_cast<size_t>(resource);
  Outlook outlook;
  if (rule_.sees == Sees::kForecast) {
    outlook = decisions::OutlookOf(UseOf(component)[r], forecasts[c].of[r], Most(component, r));
  }
  outlook.now = UseOf(component)[r];
  return outlook;
}

void ClusterRun::Hear(int number) {
  Host& host = hosts_[static_cast<size_t>(number)];
  Situation& s = situation_;
  s.hosts.clear();
  s.leases.clear();
  heard_.clear();
  const auto see = [&](int other) {
    if (other == number || std::find(heard_.begin(), heard_.end(), other) != heard_.end()) return;
    heard_.push_back(other);
    const Host& said = hosts_[static_cast<size_t>(other)];
    decisions::HostView& view = s.hosts.emplace_back();
    view.name = said.name;
    view.room = said.room;
    view.strain = said.strain;
    view.price_per_hour = Price(other);
    view.bytes_per_s = kLink_bytes_per_s;
  };
  // A lease's host always.
  for (const Lent& lent : host.lent) {
    const Host& lender = hosts_[static_cast<size_t>(lent.host)];
    const Lease* lease = lender.ledger->Find(lent.id);
    if (lease == nullptr) continue;
    s.leases.push_back({lent.id, lender.name, lease->component, lease->kind, lease->amount,
                        kStep_s * (step_ - lent.since)});
    see(lent.host);
  }
  Random random(load_.shape().seed * 1000003 + static_cast<uint64_t>(step_ + 1000) * 7919 +
                static_cast<uint64_t>(number) + 104729 * ++described_);
  for (int i = 0; i < kKnownHosts; ++i) see(static_cast<int>(random.Below(hosts_.size())));
}

void ClusterRun::Fetch(int number) const {
  constexpr size_t kLine = 64;
  const auto& residents = hosts_[static_cast<size_t>(number)].residents;
  const auto* bytes = reinterpret_cast<const volatile char*>(residents.data());
  for (size_t i = 0; i < residents.size() * sizeof(Resident); i += kLine) (void)bytes[i];
}

void ClusterRun::Describe(int number, double short_for_s) {
  Host& host = hosts_[static_cast<size_t>(number)];
  Situation& s = situation_;
  s.time_s = 300.0 * step_;
  s.minute_of_week = (5 * std::max(0, step_)) % (7 * 24 * 60);
  s.step_s = kStep_s;
  s.calm_s = host.calm_s;
  s.short_for_s = short_for_s;
  s.host = host.name;
  s.price_per_hour = Price(number);
  s.capacity = whole_;
  s.incoming = {};
  if (rule_.sees != Sees::kPresent) s.incoming = host.ledger->firm() - host.ledger->pinned();
  double load = 0;
  for (size_t r = 0; r < 2; ++r) {
    load = std::max(load, host.use[r] / capacity_[r]);
    s.demand[static_cast<size_t>(kOf[r])] = DemandOf(number, static_cast<int>(r));
  }
  s.threshold_shift =
      rule_.sees == Sees::kForecast ? host.thresholds.Shift(rule_.policy.thresholds, load) : 0;
  s.components.resize(host.residents.size());
  for (size_t i = 0; i < host.residents.size(); ++i) {
    const Resident& resident = host.residents[i];
    decisions::ComponentView& view = s.components[i];
    view.name = resident.name;
    view.priority = resident.priority;
    view.bears_blackout_s = resident.bears_blackout_s;
    for (size_t r = 0; r < 2; ++r) view.use[static_cast<size_t>(kOf[r])] = resident.use[r];
    const decisions::MoveCost cost =
        costs_.Expect(kAnyComponent, resident.use[1].now, 0, kLink_bytes_per_s);
    view.move_bytes = cost.bytes;
    view.move_blackout_s = cost.blackout_s;
  }
}

void ClusterRun::Audit(const reservations::Ledger& ledger, const Ask& ask,
                       const absl::Status& refused) {
  if (!absl::IsResourceExhausted(refused)) return;
  std::vector<Lease> leases;
  ledger.ForEach([&](const Lease& lease) { leases.push_back(lease); });
  figures_.priority_inversions +=
      reservations::PriorityInversion(leases, ledger.capacity(), ask, Now());
}

bool ClusterRun::Move(int from, const decisions::Step& step, double at_s,
                      const std::vector<ComponentForecast>& forecasts, double& done_s) {
  const int to = host_number_.at(step.host);
  const int c = component_number_.at(step.component);
  Host& source = hosts_[static_cast<size_t>(from)];
  Host& target = hosts_[static_cast<size_t>(to)];
  const Pair use = UseOf(c);
  Changes changes;
  if (rule_.sees == Sees::kPresent) {
    for (size_t r = 0; r < 2; ++r) {
      if (target.use[r] + use[r] > rule_.fill * capacity_[r]) return false;
    }
  } else {
    const ClusterLoad::Component& component = load_.components()[static_cast<size_t>(c)];
    const Ask ask{step.component, source.name, step.component, component.priority,
                  Kind::kFirm,    false,       step.amount,    std::chrono::minutes(15)};
    // What is reserved there already grows to what is needed now.
    if (const absl::Status granted = target.ledger->Grant(Now(), ask, changes).status();
        !granted.ok()) {
      Audit(*target.ledger, ask, granted);
      return false;
    }
    if (!target.ledger->Claim(Now(), step.component, source.name, changes).ok() ||
        !target.ledger->Pin(Now(), step.component, source.name, target.name, changes).ok()) {
      return false;
    }
    source.ledger->Release(Now(), step.component, source.name, changes).IgnoreError();
    for (const Lent& lent : source.lent) {
      if (lent.id != step.component || lent.host == to) continue;
      hosts_[static_cast<size_t>(lent.host)]
          .ledger->Release(Now(), lent.id, source.name, changes)
          .IgnoreError();
    }
    std::erase_if(source.lent, [&](const Lent& lent) { return lent.id == step.component; });
    figures_.withdrawn += static_cast<uint64_t>(
        std::count_if(changes.begin(), changes.end(),
                      [](const Change& change) { return change.what == What::kWithdrawn; }));
  }
  const double bytes = kTwice * use[1];
  done_s = at_s + kMoveFixed_s + bytes / kLink_bytes_per_s;
  costs_.Learn({kAnyComponent, use[1], 0, kLink_bytes_per_s, bytes, done_s - at_s, kBlackout_s});
  events_.push_back({from, done_s, {-use[0], -use[1]}, -1});
  events_.push_back({to, done_s, use, 1});
  for (size_t r = 0; r < 2; ++r) {
    source.use[r] -= use[r];
    target.use[r] += use[r];
    source.demand[r].Leave(use[r], forecasts[static_cast<size_t>(c)].of[r], Most(c, r));
    target.demand[r].Join(use[r], forecasts[static_cast<size_t>(c)].of[r], Most(c, r));
  }
  const auto resident = std::find_if(source.residents.begin(), source.residents.end(),
                                     [c](const Resident& one) { return one.component == c; });
  target.residents.push_back(std::move(*resident));
  source.residents.erase(resident);
  where_[static_cast<size_t>(c)] = to;
  if (scored_) {
    ++figures_.moves;
    figures_.gib_moved += bytes / kGiB;
    figures_.blackout_s += kBlackout_s;
    figures_.weighted_blackout_s +=
        kBlackout_s * (1 + load_.components()[static_cast<size_t>(c)].priority);
  }
  return true;
}

void ClusterRun::Reserve(int from, const decisions::Step& step) {
  Host& source = hosts_[static_cast<size_t>(from)];
  const int to = host_number_.at(step.host);
  reservations::Ledger& ledger = *hosts_[static_cast<size_t>(to)].ledger;
  const int priority =
      load_.components()[static_cast<size_t>(component_number_.at(step.component))].priority;
  const auto length = std::chrono::seconds(static_cast<int>(rule_.policy.reserve.lease_s));
  Changes changes;
  const Ask ask{step.component, source.name, step.component, priority,
                Kind::kSoft,    false,       step.amount,    length};
  if (const absl::Status granted = ledger.Grant(Now(), ask, changes).status(); !granted.ok()) {
    Audit(ledger, ask, granted);
    figures_.refused += scored_;
    return;
  }
  if (!step.lease.empty()) return;
  source.lent.push_back({step.component, to, step_});
  figures_.reservations += scored_;
}

void ClusterRun::GiveBack(int from, const std::string& id, int other) {
  Host& source = hosts_[static_cast<size_t>(from)];
  Changes changes;
  if (hosts_[static_cast<size_t>(other)].ledger->Release(Now(), id, source.name, changes).ok()) {
    figures_.given_back += scored_;
    source.thresholds.InVain(rule_.policy.thresholds, 1);
  }
  std::erase_if(source.lent, [&](const Lent& lent) { return lent.id == id; });
}

double ClusterRun::Act(int number, double at_s, double short_for_s,
                       const std::vector<ComponentForecast>& forecasts, bool& moved) {
  Host& host = hosts_[static_cast<size_t>(number)];
  moved = false;
  double done_s = at_s;
  std::vector<std::string> refused;
  for (int i = 0; i < kTries; ++i) {
    const double heard = CpuNow_ns();
    Hear(number);
    // Of an agent, other hosts' words are there before it decides, and its own samples have just
    // been taken: what it knows itself does not have to be fetched from among all other hosts.
    Fetch(number);
    const double before = CpuNow_ns();
    hearing_ns_.push_back(before - heard);
    Describe(number, short_for_s);
    Situation& s = situation_;
    // A host that just refused is known to be full.
    for (decisions::HostView& other : s.hosts) {
      if (std::find(refused.begin(), refused.end(), other.name) != refused.end()) other.room = {};
    }
    const decisions::Decision decision = decisions::Decide(s, rule_.policy);
    decision_ns_.push_back(CpuNow_ns() - before);
    ++figures_.decisions;
    if (!decision.short_of && !decision.short_later) {
      host.calm_s += short_for_s > 0 ? 0 : kStep_s;
    } else {
      host.calm_s = 0;
      if (decision.short_of && !decision.short_now) host.foreseen_at = step_;
    }
    bool again = false;
    for (const decisions::Step& step : decision.steps) {
      switch (step.action) {
        case Action::kMigrate:
          if (Move(number, step, done_s, forecasts, done_s)) {
            moved = true;
          } else {
            figures_.refused += scored_;
            refused.push_back(step.host);
            // Who is refused is told what there is.
            Tell(host_number_.at(step.host));
            again = true;
          }
          break;
        case Action::kReserve:
          Reserve(number, step);
          break;
        case Action::kGiveBack:
          GiveBack(number, step.lease, host_number_.at(step.host));
          break;
        default:
          break;  // nothing within a host is told by these traces
      }
    }
    if (!again) break;
  }
  return done_s;
}

void ClusterRun::Step(int step, const std::vector<ComponentForecast>& forecasts, bool scored) {
  step_ = step;
  scored_ = scored;
  events_.clear();
  Observe(forecasts);
  for (size_t h = 0; h < hosts_.size(); ++h) {
    Host& host = hosts_[h];
    if (rule_.sees != Sees::kPresent) {
      RenewResidents(static_cast<int>(h));
      std::erase_if(host.lent, [&](const Lent& lent) {
        const Lease* lease = hosts_[static_cast<size_t>(lent.host)].ledger->Find(lent.id);
        return lease == nullptr || lease->holder != host.name;
      });
    }
    Tell(static_cast<int>(h));
    events_.push_back({static_cast<int>(h), 0, host.use, static_cast<int>(host.residents.size())});
  }
  if (rule_.moves) {
    for (size_t h = 0; h < hosts_.size(); ++h) {
      const int number = static_cast<int>(h);
      bool moved = false;
      double at_s = 0;
      if (rule_.sees != Sees::kPresent) at_s = Act(number, kSeen_s, 0, forecasts, moved);
      // What was not foreseen, or not enough: present use. Who finds no room asks others.
      at_s += kShortFor_s;
      for (int in_vain = 0; in_vain < kTries && at_s < kStep_s;) {
        bool above = false;
        for (const decisions::Rule& rule : rule_.policy.rules) {
          const size_t r = rule.resource == Resource::kMemory ? 1 : 0;
          above = above || (rule.percent == 0 && hosts_[h].use[r] > rule.above * capacity_[r]);
        }
        if (!above) break;
        at_s = Act(number, at_s, kShortFor_s, forecasts, moved) + kShortFor_s;
        in_vain = moved ? 0 : in_vain + 1;
      }
    }
  }
  Score();
}

// Leases of a host that nobody knows of: of components that are elsewhere, or not lent to who is
// said to have them.
uint64_t ClusterRun::WithoutHolder(int number) const {
  uint64_t count = 0;
  hosts_[static_cast<size_t>(number)].ledger->ForEach([&](const Lease& lease) {
    if (lease.pinned) {
      count += where_[static_cast<size_t>(component_number_.at(lease.component))] != number;
      return;
    }
    const Host& holder = hosts_[static_cast<size_t>(host_number_.at(lease.holder))];
    count += std::none_of(holder.lent.begin(), holder.lent.end(), [&](const Lent& lent) {
      return lent.host == number && lent.id == lease.id;
    });
  });
  return count;
}

void ClusterRun::Score() {
  std::sort(events_.begin(), events_.end(), [](const Event& a, const Event& b) {
    return a.host != b.host ? a.host < b.host : a.at_s < b.at_s;
  });
  size_t next = 0;
  for (size_t h = 0; h < hosts_.size(); ++h) {
    Host& host = hosts_[h];
    Pair use = {};
    double violated_s = 0, of_components_s = 0, since = 0;
    int components = 0;
    bool over = false;
    const auto until = [&](double at_s) {
      const double span = std::max(0.0, std::min(at_s, kStep_s) - since);
      if (over) {
        violated_s += span;
        of_components_s += span * components;
      }
      since = std::min(at_s, kStep_s);
    };
    for (; next < events_.size() && events_[next].host == static_cast<int>(h); ++next) {
      until(events_[next].at_s);
      for (size_t r = 0; r < 2; ++r) use[r] += events_[next].change[r];
      components += events_[next].components;
      over = use[0] > capacity_[0] || use[1] > capacity_[1];
    }
    until(kStep_s);
    if (violated_s > 0 && step_ - host.foreseen_at > 1) {
      host.thresholds.Missed(rule_.policy.thresholds, violated_s / 10);
    }
    host.thresholds.Calm(kStep_s);
    if (rule_.sees != Sees::kPresent) {
      figures_.double_promises += !host.ledger->Check(Now()).empty();
      figures_.without_holder += WithoutHolder(static_cast<int>(h));
    }
    if (!scored_) continue;
    figures_.violation_host_s += violated_s;
    figures_.violation_component_s += of_components_s;
    figures_.violation_steps += violated_s > 0;
    double priority = 0;
    for (const Resident& resident : host.residents) priority += 1 + resident.priority;
    figures_.weighted_violation_s +=
        of_components_s * priority /
        std::max<double>(1, static_cast<double>(host.residents.size()));
    // What nobody else can use of this host.
    Amounts held;
    double used = 0;
    for (size_t r = 0; r < 2; ++r) {
      held[kOf[r]] = static_cast<int64_t>(std::max(0.0, host.use[r]));
      used = std::max(used, host.use[r] / capacity_[r]);
    }
    double share = reservations::DominantShare(held, whole_);
    if (rule_.sees != Sees::kPresent) {
      const Amounts leased = host.ledger->firm() + host.ledger->soft();
      const double reserved = reservations::DominantShare(leased - host.ledger->pinned(), whole_);
      figures_.wasted_host_hours += reserved * kStep_s / 3600;
      share = std::max(share, reservations::DominantShare(leased, whole_));
    }
    const double hours = std::min(1.0, share / rule_.fill) * kStep_s / 3600;
    figures_.host_hours += hours;
    figures_.host_cost += hours * Price(static_cast<int>(h));
  }
}

nlohmann::json ClusterRun::Report() const {
  const Figures& f = figures_;
  const double violation = prices_.violation_s * f.weighted_violation_s;
  const double moving =
      prices_.gib_moved * f.gib_moved + prices_.blackout_s * f.weighted_blackout_s;
  const auto joint = [&f](const double(&sums)[2], size_t r) {
    return sums[r] / std::max(1.0, f.joint_steps[r]);
  };
  const auto times = [](std::vector<double> ns) -> nlohmann::json {
    std::sort(ns.begin(), ns.end());
    const auto at_us = [&ns](double share) {
      const auto last = static_cast<double>(ns.size()) - 1;
      return ns.empty() ? 0 : ns[static_cast<size_t>(share * last)] / 1000;
    };
    return {{"median", at_us(0.5)}, {"p99", at_us(0.99)}};
  };
  return {
      {"violation_component_s", f.violation_component_s},
      {"violation_host_s", f.violation_host_s},
      {"violation_steps", f.violation_steps},
      {"migrations", f.moves},
      {"gib_moved", f.gib_moved},
      {"blackout_s", f.blackout_s},
      {"refused", f.refused},
      {"reservations", f.reservations},
      {"given_back", f.given_back},
      {"expired", f.expired},
      {"withdrawn", f.withdrawn},
      {"host_hours", f.host_hours},
      {"wasted_host_hours", f.wasted_host_hours},
      {"cost",
       {{"hosts", f.host_cost},
        {"violations", violation},
        {"moves", moving},
        {"total", f.host_cost + violation + moving}}},
      {"priority_inversions", f.priority_inversions},
      {"double_promises", f.double_promises},
      {"without_holder", f.without_holder},
      {"joint_above_p95", {{"cpu", joint(f.joint_above, 0)}, {"memory", joint(f.joint_above, 1)}}},
      {"joint_margin", {{"cpu", joint(f.joint_margin, 0)}, {"memory", joint(f.joint_margin, 1)}}},
      {"decisions", f.decisions},
      {"decision_us", times(decision_ns_)},
      {"hearing_us", times(hearing_ns_)}};
}

}  // namespace starling::replay
