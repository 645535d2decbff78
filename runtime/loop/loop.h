#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/agent/agent.h"
#include "runtime/decisions/decision_log.h"
#include "runtime/decisions/policy_file.h"
#include "runtime/decisions/staging.h"
#include "runtime/hints/hint_listener.h"
#include "runtime/loop/actor.h"
#include "runtime/loop/ghost_needs.h"
#include "runtime/loop/host_watch.h"
#include "runtime/loop/idle_memory.h"
#include "runtime/loop/judge.h"
#include "runtime/loop/limits.h"
#include "runtime/loop/neighbours.h"
#include "runtime/loop/parking.h"
#include "runtime/loop/past_moves.h"
#include "runtime/loop/processors.h"
#include "runtime/loop/warmth.h"
#include "runtime/profiles/profile_keeper.h"
#include "runtime/reservations/lease_desk.h"
#include "runtime/shadow/model_shelf.h"

namespace starling::loop {

// What an agent does by itself: once a period it samples, foresees, asks the policy what to do,
// tells of it, and does it where the policy says so. Thread-safe.
class Loop {
 public:
  // All of them outlive it.
  // `profiles` may be nullptr: then nothing is remembered of who works with what, and when.
  Loop(agent::Agent& agent, reservations::LeaseDesk& leases, shadow::ModelShelf& shelf,
       ProfileKeeper* profiles = nullptr);
  ~Loop();

  // The first look at the host, from which on others may ask for leases; then goes on by itself.
  // Call once, when the agent has found its components again.
  absl::Status Start();
  // The agent goes down in order: limits are lifted, what was learned is kept.
  void Stop();
  // For Host::reported.
  void Reported(const v1::MigrationReport& report);

  // By a person: until its user is there, or Unpark(). kFailedPrecondition for one that is busy or
  // has ghosts; otherwise as Forecast().
  absl::Status Park(const std::string& component);
  // kFailedPrecondition when it does not rest.
  absl::Status Unpark(const std::string& component);
  // For Host::parked, Host::wake and Host::sent_to_rest.
  bool Parked(const std::string& component) const;
  absl::Status Wake(const std::string& component);
  void SentToRest(const std::string& component, const std::string& from);

  // kNotFound when no such component is watched here; kFailedPrecondition when nothing is.
  absl::StatusOr<v1::ForecastResponse> Forecast(const v1::ForecastRequest& request) const;
  v1::LeasesResponse Leases() const;
  absl::StatusOr<v1::WhyResponse> Why(const v1::WhyRequest& request) const;
  // Files that are kept in this host's cache for leases of others; by lease.
  Warmth& warmth() { return warmth_; }
  // What this host tells another one.
  // `changes`: it has the last answer, and wants to know of demand what moved since.
  v1::LookResponse Look(const std::string& asker, bool changes = false);

 private:
  struct Here {
    std::shared_ptr<agent::Copy> copy;
    std::string cgroup;
    v1::ComponentSpec spec;
    TimePoint since;           // watched here
    std::optional<pid_t> pid;  // in its network namespace, where it has one of its own
  };

  void Run(const std::stop_token& stop);
  void Tick(TimePoint now);
  // Components came and went.
  void Follow(TimePoint now);
  bool TakeUp(const std::shared_ptr<agent::Copy>& copy);
  absl::Status Measure(TimePoint now);
  void CoolDown();
  void JoinPool(const std::vector<Neighbour>& neighbours);
  void ReadPolicy();
  decisions::Situation Describe(TimePoint now, const std::vector<Neighbour>& neighbours);
  void DescribeComponent(TimePoint now, const std::set<std::string>& busy,
                         decisions::ComponentView& view);
  void DescribePeer(TimePoint now, const Neighbour& neighbour, decisions::Situation& situation);
  void CarryOut(const decisions::Decision& decision, const decisions::Situation& situation,
                const std::vector<Neighbour>& neighbours);
  // What was promised to components is theirs, and what they are not to exceed they do not.
  void Enforce();
  void Keep();
  // What was learned of the host itself: seldom, since the disk is the components'.
  void KeepHost() const;
  absl::Status TakeUpHost();
  // What was seen of users, to the profiles.
  void TellProfiles();
  std::string HostModelsPath() const { return config_.LoopPath() + "/host.models"; }
  // What was taken by the loop is given back: it is not to act any more.
  void LetGo(absl::string_view why, bool others_too);
  Parking::Parts PartsOfParking();
  // Grows when the component's user does something.
  uint64_t Activities(const std::string& component) const;
  // Ghosts in loop_ghosts.cc.
  void DescribeGhosts(TimePoint now, decisions::Situation& situation);
  void SeeNeeds(TimePoint now, const decisions::Decision& decision,
                const decisions::Situation& situation);
  // Those that the loop made, of all components here.
  void DropOwnGhosts(absl::string_view why);
  // Rests in loop_rest.cc.
  absl::Status Rest(const decisions::Step& step);
  absl::Status ParkNow(const std::string& component, Parking::By by, absl::string_view why);
  // Those that came to rest here.
  void ParkArrivals(TimePoint now);
  std::string CgroupOf(const std::string& component) const;
  // Whose file systems are this host's disk space.
  std::vector<std::string> Folders() const;
  // To the log once for each text of the kind.
  void Complain(const std::string& kind, const absl::Status& status);

  agent::Agent& agent_;
  const agent::Host& host_;
  const Config& config_;
  reservations::LeaseDesk& leases_;
  shadow::ModelShelf& shelf_;
  ProfileKeeper* const profiles_;
  std::unique_ptr<hints::HintListener> hints_;
  std::unique_ptr<Limits> limits_;
  PastMoves past_moves_;
  Warmth warmth_;
  const std::vector<Processors> groups_;      // of processors
  std::vector<std::string> storage_devices_;  // as cgroups name them

  // One thread works with these; what it shows of them is guarded by mutex_.
  mutable std::mutex mutex_;
  std::unique_ptr<HostWatch> watch_;       // guarded by mutex_
  std::map<std::string, Here> here_;       // guarded by mutex_
  ScoredDemand pool_cpu_, pool_memory_;    // guarded by mutex_
  double pool_cpus_ = 0, pool_bytes_ = 0;  // capacity; guarded by mutex_
  std::set<std::string> in_pool_;          // guarded by mutex_
  std::set<std::string> silent_;           // guarded by mutex_
  decisions::PolicyFile policy_;           // guarded by mutex_
  bool in_vain_ = false;                   // guarded by mutex_
  // Users of components that rested, since the last decision. Guarded by mutex_.
  std::vector<std::pair<decisions::Rest, Duration>> came_back_;
  struct Sent {
    std::string from;
    TimePoint until{};  // by then it is watched here, or never
  };
  std::map<std::string, Sent> sent_to_rest_;  // by component; guarded by mutex_
  // What other hosts were told of demand: by asker and metric.
  std::mutex told_mutex_;  // taken before mutex_
  std::map<std::pair<std::string, std::string>, predictor::SummaryWriter> told_;  // by told_mutex_
  mutable std::mutex log_mutex_;  // apart: reading the log takes its time
  decisions::DecisionLog log_;    // guarded by log_mutex_

  Judge judge_;
  IdleMemory idle_;
  GhostNeeds needs_;
  std::set<std::pair<std::string, std::string>> ghosts_there_;  // at the last look
  std::map<std::string, TimePoint> lease_seen_;                 // by host and id
  std::map<std::string, std::string> complaints_;
  std::optional<TimePoint> kept_;
  uint64_t keeps_ = 0;
  decisions::Policy policy_before_;

  std::unique_ptr<Neighbours> neighbours_;
  std::unique_ptr<Parking> parking_;
  std::unique_ptr<Actor> actor_;
  std::jthread thread_;
};

}  // namespace starling::loop
