// How a SourceMigration ends: asked for, committed or called off, and reported.

#include <thread>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/migration/images.h"
#include "runtime/migration/offers.h"
#include "runtime/migration/slowdown.h"
#include "runtime/migration/source.h"
#include "runtime/reports/report_store.h"
#include "runtime/reports/report_text.h"

namespace starling::migration {

namespace {

// Killing and removing a copy.
constexpr auto kDestroyTimeout = std::chrono::seconds(30);
// Between two looks at how far the target has come.
constexpr auto kLookAgain = std::chrono::milliseconds(500);
// How long a target is told of an end before it is left to notice by itself.
constexpr auto kTellTimeout = std::chrono::seconds(2);

}  // namespace

absl::Status SourceMigration::AskToCommit() {
  if (row_.state != MigrationState::kAsked) {
    RETURN_IF_ERROR(
        host_.journal.Advance(row_.id, MigrationState::kPrepared, MigrationState::kAsked));
  }
  hold_.At("source-commit");
  Enter(v1::COMMIT, absl::StrCat("asking host ", row_.peer, " to commit"));
  const TimePoint start = Clock::now();
  v1::CommitRequest commit;
  commit.set_migration_id(row_.id);
  while (!detached_) {
    // One that an agent before this one made is gone.
    commit.set_offer_open(host_.offers->Has(row_.id));
    const auto verdict =
        peer_->Commit(commit, Deadline::After(host_.config.migration.peer_timeout));
    if (verdict.ok() && verdict->verdict() == v1::COMMITTED) {
      AddPhase("commit", Clock::now() - start);
      const bool waited = in_doubt_.exchange(false);
      RETURN_IF_ERROR(FinishLeft(verdict->epoch()));
      if (!waited && report_.held_s() > 0)
        host_.blackouts->Learn(row_.component, report_.held_s(), expected_memory_s_);
      return absl::OkStatus();
    }
    if (verdict.ok() && verdict->verdict() == v1::ABORTED) {
      in_doubt_ = false;
      return CallOff(absl::AbortedError(
                         absl::StrCat("host ", row_.peer, " called it off: ", verdict->reason())),
                     /*target_knows=*/true);
    }
    std::optional<bool> resolved;
    {
      std::lock_guard lock(mutex_);
      resolved = resolved_;
    }
    if (resolved.has_value()) {
      in_doubt_ = false;
      host_.Event(row_.component, "resolved",
                  *resolved ? "by a person: the copy on this host lives"
                            : "by a person: the copy on the other host lives");
      if (!*resolved) return FinishLeft(row_.epoch + 1);
      return CallOff(absl::AbortedError("resolved by a person: the copy on this host lives"),
                     /*target_knows=*/false);
    }
    if (!in_doubt_.exchange(true)) {
      const std::string why =
          verdict.ok() ? absl::StrCat("it answered ", v1::Verdict_Name(verdict->verdict()))
                       : std::string(verdict.status().message());
      host_.Event(
          row_.component, "in-doubt",
          absl::StrCat("host ", row_.peer, " was asked to commit and its word is not known (", why,
                       "): frozen and fenced here until it answers, or `starling resolve ",
                       row_.component, " --here|--there`"));
      board_->Update(
          [&](v1::MigrationProgress& progress) { progress.set_message("in doubt: " + why); });
    }
    std::this_thread::sleep_for(host_.config.migration.ask_again);
  }
  return absl::CancelledError("the agent is going down");
}

void SourceMigration::FinishReport() {
  const bool left = report_.error().empty();
  if (left) report_.set_error(lost_);
  report_.set_schema(kReportSchema);
  report_.set_migration_id(row_.id);
  report_.set_component(row_.component);
  report_.set_from(host_.config.host);
  report_.set_to(row_.peer);
  report_.set_outcome(!left ? "called-off" : lost_.empty() ? "done" : "lost");
  report_.set_began(began_unix_s_);
  *report_.mutable_source() = agent::FactsOf(host_);
  report_.set_insecure(host_.security->insecure());
  report_.set_rounds(rounds_);
  if (governor_) report_.set_lowest_reading_share(governor_->lowest_share());
  uint64_t lanes = 0;
  v1::SentBytes& sent = *report_.mutable_sent();
  if (sink_) {
    LaneCounts counts = sink_->counts();
    counts -= counts_as_ghost_;
    lanes = sink_->bytes_sent() - sent_as_ghost_;
    report_.set_encrypted(sink_->sealed());
    report_.set_zero_pages(counts.zero_pages);
    report_.set_repeated_pages(counts.repeated_pages);
    report_.set_resent_pages(counts.resent_pages);
    sent.set_compressed(std::min(lanes, counts.packed_out));
    sent.set_compressed_from(counts.packed_in);
    // A move that was called off may not have sent all that it counted.
    const uint64_t whole = (counts.pages - counts.repeated_pages) * checkpoint::kPageSize;
    sent.set_raw(std::min(lanes - sent.compressed(), whole - counts.packed_in));
    sent.set_announcements(lanes - sent.compressed() - sent.raw());
  }
  sent.set_images(image_bytes_);
  sent.set_list(list_bytes_);
  const uint64_t file_bytes = files_ ? files_->bytes_sent() : 0;
  sent.set_files(file_bytes);
  report_.set_wire_bytes(lanes + image_bytes_ + list_bytes_ + file_bytes);
  report_.set_total_s(Seconds(Clock::now() - begun_));
  report_.set_expected_blackout_s(expected_blackout_s_);
  report_.set_expected_memory_s(expected_memory_s_);
  const ReportStore store(host_.config.ReportsPath(), host_.config.migration.keep_reports);
  if (host_.reported) host_.reported(report_);
  if (const absl::Status kept = store.Save(report_); !kept.ok()) {
    host_.Event(row_.component, "report-failed", kept.message());
  }
  board_->Finish([&](v1::MigrationProgress& progress) {
    progress.set_step(left ? v1::DONE : v1::CALLED_OFF);
    progress.set_message(report_.error().empty() ? absl::StrCat("component ", row_.component,
                                                                " runs on host ", row_.peer)
                                                 : report_.error());
    progress.set_bytes_away(0);
    progress.set_bytes_sent(report_.wire_bytes());
    *progress.mutable_report() = report_;
  });
}

absl::Status SourceMigration::FinishLeft(uint64_t epoch) {
  TimePoint runs = Clock::now();  // at the target
  RETURN_IF_ERROR(host_.journal.SettleLeft(row_.id, row_.peer, epoch));
  hold_.At("source-left");
  host_.components->Remove(row_.component);
  // Behind the fence, so that no dying socket says a word to its client.
  absl::Status destroyed = copy_->Destroy(Deadline::After(kDestroyTimeout));
  if (destroyed.ok() && row_.spec.shared_size() > 0) {
    v1::CommitRequest ended;
    ended.set_migration_id(row_.id);
    ended.set_offer_open(host_.offers->Has(row_.id));
    ended.set_source_ended(true);
    // Not being heard is fine: the target lets it run by itself.
    (void)peer_->Commit(ended, Deadline::After(kTellTimeout));
    runs = Clock::now();
  }
  if (destroyed.ok()) destroyed = SetAside(row_.spec);
  if (destroyed.ok()) {
    RETURN_IF_ERROR(host_.journal.Settle(row_.id));
  } else {
    host_.Event(row_.component, "cleanup-failed", destroyed.message());
  }
  // Not known of a component that an agent before this one froze.
  if (frozen_at_ != TimePoint{}) report_.set_held_s(Seconds(runs - frozen_at_));
  (void)RemoveTree(images_);
  report_.set_epoch(epoch);
  host_.Event(row_.component, "left", absl::StrCat("to host ", row_.peer, " with epoch ", epoch));
  draining_ = host_.offers->Has(row_.id);
  if (!draining_) FinishReport();
  return absl::OkStatus();
}

void SourceMigration::Drain() {
  if (!draining_) return;
  const TimePoint start = Clock::now();
  Enter(v1::DRAIN, absl::StrCat("host ", row_.peer, " fetches what was left behind"));
  uint64_t left = 0;
  while (!detached_) {
    const auto state = host_.offers->Wait(row_.id, left, Deadline::After(kLookAgain));
    if (!state) break;
    left = state->pages_left;
    lost_ = state->lost;
    if (state->over) break;
    board_->Update([&](v1::MigrationProgress& progress) {
      progress.set_bytes_away(left * checkpoint::kPageSize);
    });
    // Twice what the target's patience is: it has given up before.
    if (Clock::now() - state->heard > 2 * host_.config.migration.lease) {
      lost_ = absl::StrCat("host ", row_.peer, " is not heard any more, and did not fetch ", left,
                           " pages");
      break;
    }
  }
  if (detached_) return;
  host_.offers->Withdraw(row_.id);
  report_.set_drain_s(Seconds(Clock::now() - start));
  host_.Event(row_.component, lost_.empty() ? "drained" : "memory-lost",
              lost_.empty() ? absl::StrCat("host ", row_.peer, " has all of it") : lost_);
  FinishReport();
}

absl::Status SourceMigration::CallOff(const absl::Status& why, bool target_knows) {
  host_.offers->Withdraw(row_.id);
  (void)copy_->CancelCriu(Deadline::After(kKeeperTimeout));
  {
    std::lock_guard lock(mutex_);
    if (sink_) sink_->Shutdown();
  }
  RETURN_IF_ERROR(host_.journal.SettleCalledOff(row_.id, why.message()));
  hold_.At("source-called-off");
  if (request_.auto_converge() || cgroup_.empty()) {
    // One that an agent before this one began may have been throttled as well.
    if (const auto status = copy_->Status(Deadline::After(kKeeperTimeout)); status.ok()) {
      Throttle::Lift(status->cgroup());
    }
  }
  absl::Status thawed = copy_->FenceDown(Deadline::After(kKeeperTimeout));
  thawed.Update(copy_->Thaw(Deadline::After(kKeeperTimeout)));
  if (frozen_at_ != TimePoint{}) report_.set_held_s(Seconds(Clock::now() - frozen_at_));
  // A keeper that is gone took the component with it: nothing is left to thaw.
  if (thawed.ok() || absl::IsUnavailable(thawed)) {
    RETURN_IF_ERROR(host_.journal.Settle(row_.id));
  } else {
    host_.Event(row_.component, "thaw-failed", thawed.message());
  }
  if (!target_knows) {
    v1::AbortRequest abort;
    abort.set_migration_id(row_.id);
    abort.set_reason(std::string(why.message()));
    // Not being heard is fine: the target's lease ends, and it calls the migration off by itself.
    (void)peer_->Abort(abort, Deadline::After(kTellTimeout));
  }
  (void)RemoveTree(images_);
  // A report without an error is one of a move that was made.
  report_.set_error(why.message().empty() ? why.ToString() : std::string(why.message()));
  report_.set_epoch(row_.epoch);
  host_.Event(row_.component, "called-off", why.message());
  FinishReport();
  return why;
}

}  // namespace starling::migration
