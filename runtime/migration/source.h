#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "checkpoint/criu_source.h"
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

namespace starling::migration {

// The source's side of one migration, as docs/architecture.md "A migration" gives it: each step is
// journalled before it is acted on, and every failure before the target is asked to commit leaves
// the component running here. One thread runs Run() or Resume(); the others may be called from any
// thread.
class SourceMigration {
 public:
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
  absl::Status Rounds();
  absl::Status MakeOffer();
  absl::Status CatchUp();
  absl::StatusOr<checkpoint::RoundReport> OneRound(uint32_t number);
  std::unique_ptr<SlowdownGovernor> MakeGovernor() const;

  // How it ends, in source_ending.cc with AskToCommit().
  absl::Status FinishLeft(uint64_t epoch);
  absl::Status CallOff(const absl::Status& why, bool target_knows);
  // Completes the report, keeps it, and hands it out with the last progress.
  void FinishReport();

  absl::Status FlushFrozen();
  void TellResent(uint64_t pages);
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
  uint32_t rounds_ = 0;
  TimePoint begun_;
  double began_unix_s_;
  TimePoint frozen_at_{};
  v1::MigrationReport report_;
};

}  // namespace starling::migration
