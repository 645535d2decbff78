#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "checkpoint/criu_source.h"
#include "checkpoint/shared_tracker.h"
#include "runtime/agent/components.h"
#include "runtime/agent/host.h"
#include "runtime/agent/peer_client.h"
#include "runtime/hold_points.h"
#include "runtime/migration/files.h"
#include "runtime/migration/keeper_dumps.h"
#include "runtime/migration/lane_sink.h"
#include "runtime/migration/offer.h"
#include "runtime/migration/progress.h"
#include "runtime/migration/slowdown.h"

namespace starling::v1 {
class CommitInstantRequest;
}

namespace starling::migration {

// What a ghost is made of beyond its room at the target.
struct GhostTerms {
  bool warm = false;
  bool instants = false;  // GhostInstant() will be asked for
  double rate_bytes_per_s = 0;
  double every_s = 0;
  double checkpoint_every_s = 0;
  bool by_loop = false;
  // Of all ghosts of the component.
  std::shared_ptr<checkpoint::SharedTracker> tracker;
};

// The source's side of one migration, as docs/architecture.md "A migration" gives it: each step is
// journalled before it is acted on, and every failure before the target is asked to commit leaves
// the component running here. One thread runs Run() or Resume(); the others may be called from any
// thread.
class SourceMigration {
 public:
  // Of an instant of a ghost.
  struct InstantFacts {
    uint64_t number = 0;
    uint32_t connections = 0;  // established
    Duration held{};           // out: how long the component was frozen
  };

  SourceMigration(agent::Host& host, std::shared_ptr<agent::PeerClient> peer,
                  std::shared_ptr<agent::Copy> copy, MigrationRow row, v1::MigrateRequest request);
  ~SourceMigration();

  ProgressBoard& board() { return *board_; }
  std::shared_ptr<ProgressBoard> shared_board() { return board_; }
  const std::string& id() const { return row_.id; }

  // All steps after preflight; the row has been journalled as reserving. Returns when the component
  // has left, or runs here again; never while that is in doubt, unless Detach() was called.
  absl::Status Run();

  // Takes up what an agent before this one began: rolls back, or goes on asking the target.
  absl::Status Resume();

  // After either: until the target has fetched what it left behind, or never will. The component
  // does not need this host for anything else.
  void Drain();

  // kFailedPrecondition once the target may have been asked to commit.
  absl::Status Cancel(absl::string_view reason);

  // A person's word while it is in doubt: true, the copy here lives; false, the one there.
  // kFailedPrecondition unless in doubt.
  absl::Status Resolve(bool here);

  bool in_doubt() const { return in_doubt_; }

  // --- A ghost, in source_ghost.cc: what comes before the freeze, done ahead of any migration and
  // not journalled. One thread calls these, before that of Run(), but for the two of which that is
  // said. After an error only EndGhost() is left.

  // Room and connections at the target and, for a warm one, all that rounds need.
  absl::Status MakeGhost(const GhostTerms& terms);
  // What was written since the round before goes to the target.
  absl::Status GhostRound();
  // The component is frozen for a moment, and what it was like then becomes at the target what a
  // failover starts from. An error leaves the component running and the target with the instant
  // before; kDataLoss: the ghost is as good as before, another instant may do.
  absl::Status GhostInstant(InstantFacts& facts);
  // Tells the target that somebody still wants it, from any thread. The target's word that it has
  // given up ends a round that is under way.
  absl::Status RenewGhost();
  // Ends a round that is under way, from any thread.
  void StopGhost(absl::string_view why);
  // Of the rounds, from any thread. 0: no limit.
  void LimitRate(double bytes_per_s) { max_rate_ = bytes_per_s; }
  // Somebody else had the component's memory tracked: the next round sends everything.
  absl::Status RemakeGhost();
  // It becomes the migration that `request` asks for, whose row has been journalled: Run() goes on
  // from here.
  void Adopt(v1::MigrateRequest request);
  // Nothing of it is left on this host. The target is not told.
  void EndGhost();
  struct GhostFacts {
    uint32_t rounds = 0;
    uint64_t bytes_sent = 0;
    std::optional<TimePoint> fresh;  // the last round began then
  };
  GhostFacts ghost_facts() const;  // from any thread

  // The agent is going down: leave everything as it is, for the next one.
  void Detach() { detached_ = true; }

 private:
  // The steps, in their order.
  absl::Status Reserve();
  absl::Status PreCopy();
  absl::Status Freeze();
  absl::Status Capture();
  absl::Status Restore();
  absl::Status Probe();
  absl::Status AskToCommit();

  // Of PreCopy(), in source_precopy.cc.
  absl::Status MakeParts();
  absl::Status CheckPostCopy() const;
  absl::Status Rounds();
  absl::Status MakeOffer();
  absl::Status CatchUp();
  absl::StatusOr<checkpoint::RoundReport> OneRound(uint32_t number);
  std::unique_ptr<SlowdownGovernor> MakeGovernor() const;

  // How it ends, in source_ending.cc with AskToCommit().
  absl::Status FinishLeft(uint64_t epoch);
  absl::Status CallOff(const absl::Status& why, bool target_knows);
  // Whether the target is to look at all memory once more before the restore.
  bool Verifies() const { return request_.verify() || host_.config.migration.verify == "commit"; }
  // Completes the report, keeps it, and hands it out with the last progress.
  void FinishReport();

  absl::Status FreezeInstant(v1::CommitInstantRequest& instant);
  absl::Status FlushFrozen();
  void TellResent(uint64_t pages);
  void TellResumed();
  void KeepLease();
  absl::Status StillWanted() const;
  void Enter(v1::Step step, absl::string_view message);
  v1::PageRound& AddRound(const checkpoint::RoundReport& round, uint64_t wire_bytes, Duration took);
  void AddPhase(absl::string_view name, Duration took);
  Deadline StepDeadline() const;

  // For a call to the component's own keeper that starts nothing slow.
  static constexpr auto kKeeperTimeout = std::chrono::seconds(10);

  agent::Host& host_;
  HoldPoints hold_;
  std::shared_ptr<agent::PeerClient> peer_;
  std::shared_ptr<agent::Copy> copy_;
  MigrationRow row_;
  v1::MigrateRequest request_;
  std::shared_ptr<ProgressBoard> board_;

  // The one of the three that a step works with can be ended from another thread.
  mutable std::mutex mutex_;
  absl::Status cancelled_;            // not OK: why it was cancelled; guarded by mutex_
  std::optional<bool> resolved_;      // guarded by mutex_
  std::shared_ptr<LaneSink> sink_;    // guarded by mutex_ when set
  std::atomic<bool> granted_{false};  // the target knows the migration, and wants to hear of it
  std::atomic<bool> asked_{false};
  std::atomic<bool> in_doubt_{false};
  std::atomic<bool> detached_{false};

  KeeperDumps dumps_;
  std::unique_ptr<FileSender> files_;
  std::unique_ptr<checkpoint::PageSource> source_;
  checkpoint::FinalList final_;
  std::unique_ptr<Offer> offer_;  // until it is among the host's
  std::unique_ptr<OfferSink> offer_sink_;
  bool draining_ = false;
  std::string lost_;    // why the component did not live to be whole
  std::string cgroup_;  // of the component
  std::string images_;  // folder of this migration's images, on run_dir's tmpfs
  uint64_t image_bytes_ = 0;
  uint64_t list_bytes_ = 0;
  double expected_blackout_s_ = 0;
  double expected_memory_s_ = 0;  // of it
  double written_share_ = 0;      // bytes that the component writes for each that the link carries
  double left_behind_s_ = 0;      // what the link would take for all that may stay behind
  // What the component waited for processors before the first round; nothing without PSI.
  std::optional<ProcessorTimes> times_before_;
  TimePoint times_since_{};
  std::unique_ptr<SlowdownGovernor> governor_;
  std::atomic<double> max_rate_;
  std::optional<GhostTerms> ghost_;  // it is one, or began as one
  mutable std::mutex ghost_mutex_;
  GhostFacts ghost_facts_;  // guarded by ghost_mutex_
  // Of the link, as a ghost's rounds saw it, and how many bytes one must have to say anything.
  double ghost_link_bytes_per_s_ = 0;
  static constexpr uint64_t kTellingBytes = 1u << 20;
  uint64_t sent_as_ghost_ = 0;  // bytes, not this migration's
  LaneCounts counts_as_ghost_;  // of them
  uint32_t rounds_ = 0;
  uint64_t resumed_told_ = 0;  // of the sink's resumed()
  TimePoint begun_;
  double began_unix_s_;
  TimePoint frozen_at_{};
  v1::MigrationReport report_;
};

}  // namespace starling::migration
