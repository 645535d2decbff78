#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/agent/components.h"
#include "runtime/agent/host.h"
#include "runtime/agent/peer_client.h"
#include "runtime/ghosts/ghosts.h"
#include "runtime/migration/source.h"
#include "runtime/migration/target.h"

namespace starling::agent {

// What one host's agent does for its users: the meaning behind each call of the Starling service.
// Thread-safe.
class Agent {
 public:
  Agent(Host& host, migration::Targets& targets);
  ~Agent();

  // Finds the keepers of an earlier agent again and settles, by the journal, what it left
  // unfinished. Call once, after Targets::Recover() and before anything else.
  absl::Status Recover();

  // For ComponentTable: a component's tree has ended by itself.
  void OnExit(const std::shared_ptr<Copy>& copy, const absl::StatusOr<keeper::v1::Status>& status);

  absl::StatusOr<v1::Component> Run(v1::ComponentSpec spec);
  absl::StatusOr<v1::ListResponse> List();
  absl::StatusOr<v1::CheckResponse> Check(const std::string& name, const std::string& to,
                                          const std::string& transport);
  // Preflight, then the rest on a thread of its own. kFailedPrecondition with all obstacles in the
  // message when preflight finds any.
  absl::StatusOr<std::shared_ptr<migration::ProgressBoard>> Migrate(
      const v1::MigrateRequest& request);
  absl::Status Cancel(const std::string& name, absl::string_view why = "cancelled by a person");
  // Components that are on their way to other hosts.
  std::set<std::string> Moving() const;
  // Returns when the checkpoint is whole; the component runs on.
  absl::StatusOr<v1::CheckpointResponse> Checkpoint(const v1::CheckpointRequest& request);
  absl::StatusOr<v1::RestoreCheckpointResponse> RestoreCheckpoint(
      const v1::RestoreCheckpointRequest& request);
  absl::StatusOr<v1::Component> Resolve(const std::string& name, bool here);
  absl::StatusOr<v1::Component> Stop(const std::string& name, double grace_s);
  v1::InfoResponse Info() const;
  v1::HelloResponse Hello() const;
  absl::StatusOr<v1::ExamineResponse> Examine(const v1::ExamineRequest& request);
  const Host& host() const { return host_; }
  // kNotFound when the configuration names no such host.
  absl::StatusOr<std::shared_ptr<PeerClient>> Peer(const std::string& host);

  // --- Ghosts, in agent_ghosts.cc.
  absl::StatusOr<v1::GhostInfo> AddGhost(v1::GhostWish wish);
  absl::Status DropGhost(const std::string& name, const std::string& on);
  v1::ListGhostsResponse ListGhosts();
  // Those that this host keeps, with what they are worth; and one of them ended, because this host
  // needs its room: its source hears `why`. kNotFound.
  std::vector<migration::Targets::KeptHere> KeptGhosts() { return targets_.ListKept(); }
  // Whether a component is on its way here.
  bool Arriving() { return targets_.Arriving(); }
  absl::Status EndKeptGhost(const std::string& name, const std::string& why);
  // Whether a host keeps a ghost of a component of this host.
  bool HasGhost(const std::string& name, const std::string& on) const {
    return ghosts_->Has(name, on);
  }
  // Starts a component from the last whole instant of its ghost here. kFailedPrecondition while
  // nobody makes sure that its source cannot run it any more.
  absl::StatusOr<v1::FailoverResponse> Failover(const v1::FailoverRequest& request);
  // What this host knows of a component, for one that keeps a ghost of it.
  v1::StandingResponse Standing(const std::string& name);

  // Leaves migrations as they are for the next agent.
  void Detach();
  // Whether pages of components that have left are still fetched from here: they end with the
  // agent.
  bool Draining();

 private:
  struct Moving {
    std::shared_ptr<migration::SourceMigration> migration;
    ComponentTable::Claim claim;
  };

  absl::StatusOr<std::shared_ptr<Copy>> Living(const std::string& name);
  std::vector<v1::Obstacle> ExamineHere(const v1::ExamineRequest& request) const;
  // Whether the original of a checkpoint may still run, as far as this host knows.
  absl::Status OriginalIsGone(const std::string& name, bool told_so);
  void LetRunAgain(const Copy& copy, const keeper::v1::Status& status);
  v1::Component Describe(const ComponentRow& row);
  absl::StatusOr<v1::Component> Described(const std::string& name);
  void StartMigration(std::shared_ptr<migration::SourceMigration> migration,
                      ComponentTable::Claim claim, ghosts::Ghosts::Quiet quiet, bool resume);
  // Another host has started the component from an instant: what is here ends.
  void FailedOver(const std::string& name, const std::string& host, uint64_t epoch);
  absl::StatusOr<std::string> Fence(const std::string& name, const std::string& source,
                                    bool fenced);

  Host& host_;
  migration::Targets& targets_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::shared_ptr<PeerClient>> peers_;
  std::map<std::string, std::shared_ptr<migration::SourceMigration>> moving_;  // by component
  // Those that have left, and of whose memory something is still here.
  std::set<std::shared_ptr<migration::SourceMigration>> draining_;
  int threads_ = 0;
  std::unique_ptr<ghosts::Ghosts> ghosts_;
};

}  // namespace starling::agent
