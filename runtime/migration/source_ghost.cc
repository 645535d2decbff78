// A SourceMigration that is kept before the freeze: a ghost.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/migration/ghost_peer.h"
#include "runtime/migration/images.h"
#include "runtime/migration/slowdown.h"
#include "runtime/migration/source.h"

namespace starling::migration {
namespace {

double UnixNow() { return absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()); }

}  // namespace

absl::Status SourceMigration::MakeGhost(const GhostTerms& terms) {
  ghost_ = terms;
  max_rate_ = terms.rate_bytes_per_s;
  RETURN_IF_ERROR(Reserve());
  if (!terms.warm) return StillWanted();
  RETURN_IF_ERROR(MakeParts());
  if (terms.instants && source_->tracker_name() == absl::string_view("criu-predump")) {
    return absl::FailedPreconditionError(
        absl::StrCat("--checkpoint-every needs a tracker of Starling's own (migration.tracker), ",
                     "and the memory of ", row_.component, " is found by CRIU's pre-dumps"));
  }
  return StillWanted();
}

absl::Status SourceMigration::RemakeGhost() {
  if (source_ == nullptr) return StillWanted();
  source_.reset();
  return MakeParts();
}

absl::Status SourceMigration::GhostRound() {
  const TimePoint began = Clock::now();
  uint32_t number = 0;
  {
    const std::lock_guard lock(ghost_mutex_);
    number = ghost_facts_.rounds + 1;
  }
  RETURN_IF_ERROR(files_->Round(/*last=*/false));
  const TimePoint reading = Clock::now();
  const uint64_t sent_before = sink_->bytes_sent();
  ASSIGN_OR_RETURN(const checkpoint::RoundReport round, OneRound(number));
  const Duration took = Clock::now() - reading;
  const uint64_t bytes = sink_->bytes_sent() - sent_before;
  // What a round costs beside its bytes is most of a small one.
  if (bytes >= kTellingBytes || ghost_link_bytes_per_s_ == 0) {
    ghost_link_bytes_per_s_ =
        static_cast<double>(bytes) / Seconds(std::max(took - round.held_back, took / 100));
  }
  const std::lock_guard lock(ghost_mutex_);
  ghost_facts_.rounds = number;
  ghost_facts_.bytes_sent = sink_->bytes_sent();
  ghost_facts_.fresh = began;
  return absl::OkStatus();
}

absl::Status SourceMigration::GhostInstant(InstantFacts& facts) {
  v1::CommitInstantRequest instant;
  instant.set_migration_id(row_.id);
  instant.set_instant(facts.number);
  instant.set_connections(facts.connections);
  instant.set_log_path(LogPath(host_.config.log_dir, row_.component));
  absl::Status status = Annotate(source_->Stage(), "instant");
  // What was written while CRIU got ready.
  if (status.ok() && source_->rounds_after_stage()) status = GhostRound();
  // Other ghosts' lists, which end with the component running, wait.
  std::unique_lock<std::recursive_mutex> alone;
  if (ghost_->tracker != nullptr) alone = ghost_->tracker->Hold();
  const TimePoint frozen_at = Clock::now();
  if (status.ok()) status = copy_->Freeze(Deadline::After(host_.config.migration.freeze_timeout));
  if (status.ok()) status = copy_->FenceUp(Deadline::After(kKeeperTimeout));
  if (status.ok()) status = FreezeInstant(instant);
  if (!status.ok()) (void)copy_->CancelCriu(Deadline::After(kKeeperTimeout));
  // Both, whatever becomes of the first: the component is to run.
  absl::Status running = copy_->FenceDown(Deadline::After(kKeeperTimeout));
  running.Update(copy_->Thaw(Deadline::After(kKeeperTimeout)));
  facts.held = Clock::now() - frozen_at;
  if (alone) alone.unlock();
  if (!running.ok()) host_.Event(row_.component, "thaw-failed", running.message());
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(running);
  RETURN_IF_ERROR(
      SendInstant(*peer_, row_.id, facts.number, source_->final_images(), StepDeadline()).status());
  instant.set_age_s(Seconds(Clock::now() - frozen_at));
  RETURN_IF_ERROR(CommitInstant(*peer_, instant, StepDeadline()).status());
  const std::lock_guard lock(ghost_mutex_);
  ghost_facts_.bytes_sent = sink_->bytes_sent();
  ghost_facts_.fresh = frozen_at;
  return absl::OkStatus();
}

// What lies inside the freeze.
absl::Status SourceMigration::FreezeInstant(v1::CommitInstantRequest& instant) {
  hold_.At("ghost-instant");
  instant.set_taken(UnixNow());
  instant.set_log_tail(ReadLogTail(instant.log_path()));
  checkpoint::RoundReport round;
  const absl::StatusOr<checkpoint::FinalList> final = source_->Final(*sink_, round);
  RETURN_IF_ERROR(StillWanted());
  RETURN_IF_ERROR(Annotate(final.status(), "instant"));
  // Here, because CRIU's part of it can only be read again from the frozen component.
  RETURN_IF_ERROR(FlushFrozen());
  for (const auto& entry : final->entries) {
    v1::MemoryEntry* memory = instant.add_memory();
    memory->set_kind(static_cast<uint32_t>(entry.run.space.kind));
    memory->set_space(entry.run.space.id);
    memory->set_address(entry.run.address);
    memory->set_pages(entry.run.pages);
    memory->set_in_arena_before(entry.in_arena_before);
  }
  return absl::OkStatus();
}

absl::Status SourceMigration::RenewGhost() {
  if (!granted_) return StillWanted();
  v1::RenewRequest renew;
  renew.set_migration_id(row_.id);
  const auto answer = peer_->Renew(renew, Deadline::After(host_.config.migration.peer_timeout));
  if (!answer.ok() && !agent::Unheard(answer.status())) {
    StopGhost(absl::StrCat("the target gave it up: ", answer.status().message()));
  }
  return StillWanted();
}

void SourceMigration::StopGhost(absl::string_view why) {
  const std::lock_guard lock(mutex_);
  cancelled_ = absl::CancelledError(why);
  if (sink_) sink_->Shutdown();
}

void SourceMigration::Adopt(v1::MigrateRequest request) {
  request_ = std::move(request);
  max_rate_ = request_.max_rate_bytes_per_s();
  begun_ = Clock::now();
  began_unix_s_ = UnixNow();
  board_ = std::make_shared<ProgressBoard>(board_->Latest());
  report_.clear_phases();
  report_.clear_page_rounds();
  sent_as_ghost_ = sink_->bytes_sent();
  counts_as_ghost_ = sink_->counts();
  // What the component usually waits and uses is what it did since the ghost was made.
  if (governor_ != nullptr) governor_ = MakeGovernor();
  const std::lock_guard lock(ghost_mutex_);
  // The report's word that it began as a ghost.
  AddPhase(source_ != nullptr ? "ghost: since its last round" : "ghost: cold",
           ghost_facts_.fresh ? begun_ - *ghost_facts_.fresh : Duration::zero());
}

void SourceMigration::EndGhost() {
  {
    const std::lock_guard lock(mutex_);
    if (sink_) sink_->Shutdown();
  }
  source_.reset();
  (void)RemoveTree(images_);
}

SourceMigration::GhostFacts SourceMigration::ghost_facts() const {
  const std::lock_guard lock(ghost_mutex_);
  return ghost_facts_;
}

}  // namespace starling::migration
