#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "nlohmann/json.hpp"
#include "predictor/forecaster.h"
#include "runtime/decisions/decide.h"
#include "runtime/decisions/joint_demand.h"
#include "runtime/decisions/move_costs.h"
#include "runtime/decisions/thresholds.h"
#include "runtime/reservations/ledger.h"
#include "tools/replay/cluster_load.h"

namespace starling::replay {

// Forecasts of one component: processors, memory.
struct ComponentForecast {
  predictor::Forecast of[2][predictor::kHorizonCount];
};

// How a cluster is run.
struct ClusterRule {
  std::string name;
  decisions::Policy policy;
  enum class Sees { kPresent, kForecast, kFuture } sees = Sees::kPresent;
  // Share of a host that is filled: what may be promised, or used after a move to it.
  double fill = 0.9;
  bool moves = true;
};

// What the components of a cluster are paid for, in units of a host's mean price for an hour.
struct ClusterPrices {
  double gib_moved = 0.001;
  double blackout_s = 0.1;     // times priority + 1
  double violation_s = 0.001;  // of a component, times priority + 1
  // By pool, by hour of the day; a host is in pool (its number modulo pools).
  std::vector<std::vector<double>> host_hour = {{1}};
};

// A cluster over time under one rule: where each component is, what each host has promised, and
// what became of it. Every host decides for itself, by decisions::Decide, from its own components
// and from what it was told of a few other hosts before; what it asks of them is granted by their
// ledgers.
class ClusterRun {
 public:
  ClusterRun(const ClusterLoad& load, const ClusterRule& rule, const ClusterPrices& prices,
             std::vector<int> placement);

  // A step; what all components use then is known, and forecasts were made at it. `scored`: it
  // counts.
  void Step(int step, const std::vector<ComponentForecast>& forecasts, bool scored);
  nlohmann::json Report() const;

  // How many other hosts a host knows of at a time.
  static constexpr int kKnownHosts = 16;

 private:
  using Pair = std::array<double, 2>;  // processors, memory

  struct Lent {  // a lease of this host on another
    std::string id;
    int host = 0;
    int since = 0;  // step
  };
  // What a host knows of a component of its own, brought up to date once a step, as an agent's
  // watch does: a decision looks nothing up in what belongs to the whole cluster.
  struct Resident {
    int component = 0;  // its number
    std::string name;
    int priority = 0;
    double bears_blackout_s = 1;
    decisions::Outlook use[2];
  };
  struct Host {
    std::string name;
    std::vector<Resident> residents;
    decisions::JointDemand demand[2];
    std::unique_ptr<reservations::Ledger> ledger;
    decisions::Thresholds thresholds;
    std::vector<Lent> lent;
    double calm_s = 0;
    int foreseen_at = -1000;  // the last step in which a shortage was expected
    Pair use = {};
    reservations::Amounts room, strain;  // as they were told last
  };
  struct Event {  // what a host uses changes
    int host = 0;
    double at_s = 0;
    Pair change = {};
    int components = 0;
  };

  double Capacity(int resource) const { return capacity_[static_cast<size_t>(resource)]; }
  Pair UseOf(int component) const;
  double Most(int component, size_t resource) const;  // that it can use
  double Price(int host) const;
  TimePoint Now() const { return TimePoint(std::chrono::seconds(1000000 + 300 * step_)); }
  void Observe(const std::vector<ComponentForecast>& forecasts);
  void RenewResidents(int host);
  // What others say, a few of them and other ones each time, and what is held there: into
  // `situation_`.
  void Hear(int host);
  // Has what the host knows itself in the processor's caches.
  void Fetch(int host) const;
  // The rest of `situation_`, of what the host knows itself.
  void Describe(int host, double short_for_s);
  void Tell(int host);
  // What is known of the future: nothing, forecasts, or all of it (the most until each horizon).
  decisions::Outlook DemandOf(int host, int resource) const;
  decisions::Outlook ComponentOutlook(int component, int resource,
                                      const std::vector<ComponentForecast>& forecasts) const;
  decisions::Outlook Future(int number, bool is_host, int resource) const;
  // Returns the second at which its last move ended.
  double Act(int host, double at_s, double short_for_s,
             const std::vector<ComponentForecast>& forecasts, bool& moved);
  bool Move(int host, const decisions::Step& step, double at_s,
            const std::vector<ComponentForecast>& forecasts, double& done_s);
  void Reserve(int host, const decisions::Step& step);
  void GiveBack(int host, const std::string& id, int other);
  uint64_t WithoutHolder(int host) const;
  void Score();
  void Audit(const reservations::Ledger& ledger, const reservations::Ask& ask,
             const absl::Status& refused);

  const ClusterLoad& load_;
  const ClusterRule rule_;
  const ClusterPrices prices_;
  const Pair capacity_;
  reservations::Amounts whole_, promisable_;
  std::vector<Host> hosts_;
  std::vector<int> where_;
  std::unordered_map<std::string, int> host_number_, component_number_;
  // Known by all hosts alike, and of all components together: how a move goes does not hang on
  // either here.
  decisions::MoveCosts costs_;
  decisions::Situation situation_;
  std::vector<int> heard_;  // hosts in `situation_`
  std::vector<Event> events_;
  int step_ = 0;
  uint64_t described_ = 0;  // situations, by which a host knows other ones each time
  bool scored_ = false;

  struct Figures {
    double violation_component_s = 0, violation_host_s = 0, weighted_violation_s = 0;
    uint64_t violation_steps = 0, moves = 0, refused = 0, reservations = 0, given_back = 0,
             expired = 0, withdrawn = 0, priority_inversions = 0, double_promises = 0,
             without_holder = 0, decisions = 0;
    // Of hosts and steps: those in which more was used than P95 had it, and P95 beyond the median.
    double joint_above[2] = {}, joint_margin[2] = {}, joint_steps[2] = {};
    double gib_moved = 0, blackout_s = 0, weighted_blackout_s = 0;
    double host_hours = 0, host_cost = 0;  // paid for, in shares of hosts
    double wasted_host_hours = 0;          // reserved and not used
  } figures_;
  std::vector<double> decision_ns_, hearing_ns_;
};

}  // namespace starling::replay
