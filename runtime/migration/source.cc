#include "runtime/migration/source.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <future>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "base/units.h"
#include "checkpoint/sent_pages.h"
#include "runtime/migration/ghost_peer.h"
#include "runtime/migration/images.h"
#include "runtime/migration/make_source.h"
#include "runtime/migration/offers.h"
#include "runtime/migration/slowdown.h"
#include "runtime/migration/stream_keys.h"
#include "runtime/shadow/model_shelf.h"
#include "runtime/spec.h"

namespace starling::migration {

using agent::Unheard;

namespace {

// Room in the arena beyond what is resident now, so that a growing component seldom has to ask
// again.
constexpr double kArenaSlack = 1.125;
constexpr uint64_t kArenaSpare = 16 * kMiB;
// Of the arena, made before the first page is sent; the rest is made while pages go.
constexpr uint64_t kArenaFirst = 64 * kMiB;
// For how long a lost data connection is made again, whatever the target says of its lease.
constexpr double kLongestPatience_s = 3600;
// Times that pages of the frozen component are sent before the migration is called off.
constexpr int kMostAttempts = 3;

}  // namespace

SourceMigration::SourceMigration(agent::Host& host, std::shared_ptr<agent::PeerClient> peer,
                                 std::shared_ptr<agent::Copy> copy, MigrationRow row,
                                 v1::MigrateRequest request)
    : host_(host),
      hold_(host.config.run_dir),
      peer_(std::move(peer)),
      copy_(std::move(copy)),
      row_(std::move(row)),
      request_(std::move(request)),
      dumps_(copy_, host.config.migration.step_timeout),
      images_(ImagesPath(host.config.run_dir, row_.id, "out")),
      max_rate_(request_.max_rate_bytes_per_s()),
      begun_(Clock::now()),
      began_unix_s_(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch())) {
  v1::MigrationProgress first;
  first.set_schema(1);
  first.set_migration_id(row_.id);
  first.set_component(row_.component);
  first.set_from(host.config.host);
  first.set_to(row_.peer);
  first.set_insecure(host.security->insecure());
  board_ = std::make_shared<ProgressBoard>(first);
}

SourceMigration::~SourceMigration() = default;

absl::Status SourceMigration::Run() {
  // The lease is kept alive beside the steps: a step may well take longer than it.
  std::jthread lease([this](const std::stop_token& stop) {
    const auto pause = host_.config.migration.lease / 4;
    std::mutex mutex;
    std::condition_variable_any wake;
    std::unique_lock lock(mutex);
    while (!wake.wait_for(lock, stop, pause, [&] { return stop.stop_requested(); })) KeepLease();
  });
  absl::Status status = ghost_ ? absl::OkStatus() : Reserve();
  if (status.ok()) status = PreCopy();
  if (status.ok()) status = Freeze();
  if (status.ok()) status = Capture();
  if (status.ok()) status = Restore();
  if (status.ok()) status = Probe();
  if (status.ok()) {
    // From here on only the target knows how it ends. The mark comes under the mutex, so that a
    // cancel is either seen here or refused.
    std::unique_lock lock(mutex_);
    status = cancelled_;
    if (status.ok()) asked_ = true;
  }
  lease.request_stop();
  if (status.ok()) return AskToCommit();
  return CallOff(status, /*target_knows=*/false);
}

absl::Status SourceMigration::Resume() {
  if (row_.state == MigrationState::kAsked) {
    asked_ = true;
    return AskToCommit();
  }
  if (row_.state == MigrationState::kLeft) return FinishLeft(row_.epoch + 1);
  if (row_.state == MigrationState::kCalledOff)
    return CallOff(absl::AbortedError(row_.reason), /*target_knows=*/false);
  return CallOff(absl::AbortedError(absl::StrCat("the agent of host ", host_.config.host,
                                                 " was restarted while it was ", Name(row_.state))),
                 /*target_knows=*/false);
}

absl::Status SourceMigration::Cancel(absl::string_view reason) {
  std::shared_ptr<LaneSink> sink;
  {
    std::lock_guard lock(mutex_);
    if (asked_) {
      return absl::FailedPreconditionError(absl::StrCat("the migration of ", row_.component,
                                                        " can no longer be cancelled: host ",
                                                        row_.peer, " was asked to commit"));
    }
    cancelled_ = absl::CancelledError(reason);
    sink = sink_;
  }
  if (sink) sink->Shutdown();
  (void)copy_->CancelCriu(Deadline::After(kKeeperTimeout));
  return absl::OkStatus();
}

absl::Status SourceMigration::Resolve(bool here) {
  if (!in_doubt_) {
    return absl::FailedPreconditionError(absl::StrCat(
        "component ", row_.component, " is not in doubt: there is nothing to resolve"));
  }
  std::lock_guard lock(mutex_);
  resolved_ = here;
  return absl::OkStatus();
}

absl::Status SourceMigration::StillWanted() const {
  std::lock_guard lock(mutex_);
  return cancelled_;
}

Deadline SourceMigration::StepDeadline() const {
  return Deadline::After(host_.config.migration.step_timeout);
}

void SourceMigration::KeepLease() {
  // A target that is still making room does not know the migration yet; that call is waited for by
  // itself.
  if (!granted_) return;
  v1::RenewRequest renew;
  renew.set_migration_id(row_.id);
  const auto answer = peer_->Renew(renew, Deadline::After(host_.config.migration.peer_timeout));
  // A target that says it has given up is not waited for; one that is not heard may come back.
  if (!answer.ok() && !Unheard(answer.status())) {
    (void)Cancel(absl::StrCat("the target gave the migration up: ", answer.status().message()));
  }
}

void SourceMigration::Enter(v1::Step step, absl::string_view message) {
  board_->Update([&](v1::MigrationProgress& progress) {
    progress.set_step(step);
    progress.set_message(std::string(message));
  });
  host_.Event(row_.component, "migration-step",
              absl::StrCat(row_.id, " ", v1::Step_Name(step), ": ", message));
}

v1::PageRound& SourceMigration::AddRound(const checkpoint::RoundReport& round, uint64_t wire_bytes,
                                         Duration took) {
  v1::PageRound& told = *report_.add_page_rounds();
  told.set_pages(round.pages_sent);
  told.set_zero_pages(round.pages_zero);
  told.set_unchanged_pages(round.pages_unchanged);
  told.set_deferred_pages(round.pages_deferred);
  told.set_lists(round.lists);
  told.set_criu_pages(round.pages_from_criu);
  told.set_shared_pages(round.pages_shared);
  told.set_wire_bytes(wire_bytes);
  told.set_seconds(Seconds(took));
  told.set_listing_s(Seconds(round.listing));
  told.set_sending_s(Seconds(round.sending));
  return told;
}

void SourceMigration::AddPhase(absl::string_view name, Duration took) {
  v1::PhaseTime* phase = report_.add_phases();
  phase->set_name(std::string(name));
  phase->set_seconds(Seconds(took));
}

absl::Status SourceMigration::Reserve() {
  hold_.At("source-reserve");
  const TimePoint start = Clock::now();
  if (!ghost_) Enter(v1::RESERVE, absl::StrCat("asking host ", row_.peer, " for room"));
  ASSIGN_OR_RETURN(const keeper::v1::Status status, copy_->Status(Deadline::After(kKeeperTimeout)));
  cgroup_ = status.cgroup();
  times_since_ = Clock::now();
  if (const auto times = ReadProcessorTimes(cgroup_); times.ok()) times_before_ = *times;
  uint64_t resident = 0;
  if (auto current = ReadFile(absl::StrCat(cgroup_, "/memory.current")); current.ok()) {
    resident = std::strtoull(current->c_str(), nullptr, 10);
  }
  v1::ReserveRequest reserve;
  reserve.set_migration_id(row_.id);
  *reserve.mutable_spec() = row_.spec;
  reserve.set_epoch(row_.epoch);
  reserve.set_arena_bytes(static_cast<uint64_t>(static_cast<double>(resident) * kArenaSlack) +
                          kArenaSpare);
  reserve.set_arena_first_bytes(kArenaFirst);
  reserve.set_source_host(host_.config.host);
  reserve.set_source_address(host_.config.control.listen);
  ASSIGN_OR_RETURN(transport::Fabric* const fabric, host_.Transport(request_.transport()));
  reserve.set_provider(fabric->name());
  reserve.set_post_copy(request_.post_copy());
  if (host_.encrypts()) {
    ASSIGN_OR_RETURN(*reserve.mutable_key_share(), NewKeyShare());
    // An instant is verified before it is failed over to.
    reserve.set_by_tag(!ghost_ && !Verifies());
  }
  LaneOptions lanes = LaneOptionsFrom(host_.config.data);
  if (lanes.compress || host_.encrypts()) {
    reserve.set_ring_slots(static_cast<uint32_t>(lanes.queue_pairs) * kRingSlotsPerLane);
    reserve.set_ring_slot_bytes(lanes.slab_bytes);
  }
  reserve.set_grant_by_connection(true);
  for (const agent::Rail& rail : host_.RailsOf(fabric->name())) lanes.rails.push_back(rail.fabric);
  reserve.set_rails(static_cast<uint32_t>(lanes.rails.size()));
  ASSIGN_OR_RETURN(const v1::ReserveResponse granted,
                   ghost_ ? KeepGhost(*peer_, reserve, *ghost_, StepDeadline())
                          : peer_->Reserve(reserve, StepDeadline()));
  granted_ = true;
  // A target that has not heard of us for longer has given the migration up.
  const double lease_s =
      granted.lease_s() > 0 ? std::min(granted.lease_s(), kLongestPatience_s) : 0;
  lanes.patience = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(lease_s));
  *report_.mutable_target() = granted.host();
  if (granted.key_share().empty() == host_.encrypts()) {
    return absl::FailedPreconditionError(absl::StrCat("host ", row_.peer, " would have pages ",
                                                      host_.encrypts() ? "plain" : "sealed",
                                                      " and this host would not: set "
                                                      "data.encryption alike on both"));
  }
  StreamKeys keys;
  if (host_.encrypts()) {
    ASSIGN_OR_RETURN(keys, DeriveStreamKeys(reserve.key_share(), granted.key_share(), row_.id,
                                            static_cast<uint32_t>(lanes.queue_pairs)));
  }

  const auto grow = [this](uint64_t bytes) -> absl::StatusOr<std::vector<v1::ArenaChunk>> {
    v1::GrowRequest request;
    request.set_migration_id(row_.id);
    request.set_bytes(bytes);
    ASSIGN_OR_RETURN(const v1::GrowResponse response, peer_->Grow(request, StepDeadline()));
    return std::vector<v1::ArenaChunk>(response.chunks().begin(), response.chunks().end());
  };
  ASSIGN_OR_RETURN(std::shared_ptr<LaneSink> sink,
                   LaneSink::Connect(*fabric, lanes, granted, grow, keys, StepDeadline()));
  if (reserve.arena_bytes() > kArenaFirst) {
    sink->slots().GrowAhead(reserve.arena_bytes() - kArenaFirst);
  }
  sink->SetProgress([this](uint64_t sent) {
    board_->Update(
        [&](v1::MigrationProgress& progress) { progress.set_bytes_sent(sent + image_bytes_); });
  });
  {
    std::lock_guard lock(mutex_);
    sink_ = std::move(sink);
  }
  report_.set_provider(fabric->name());
  report_.set_encrypted(sink_->sealed());
  report_.set_granted(granted.windows() ? "windows" : "regions");
  report_.set_rails(static_cast<uint32_t>(sink_->rails()));
  board_->Update([&](v1::MigrationProgress& progress) {
    progress.set_provider(fabric->name());
    progress.set_encrypted(sink_->sealed());
  });
  AddPhase("reserve", Clock::now() - start);
  return StillWanted();
}

absl::Status SourceMigration::Freeze() {
  RETURN_IF_ERROR(
      host_.journal.Advance(row_.id, MigrationState::kPreCopy, MigrationState::kFrozen));
  hold_.At("source-freeze");
  Enter(v1::FREEZE, absl::StrFormat("expecting a blackout of %.0f ms", expected_blackout_s_ * 1e3));
  const TimePoint start = Clock::now();
  // What was not needed so far would only keep the target's processors from the restore.
  sink_->slots().StopGrowing();
  frozen_at_ = Clock::now();
  // Frozen first: what still arrives then waits in the sockets' queues, which are dumped, and is
  // answered by the copy as soon as it runs. The other way round, what the component says between
  // the two is swallowed by the fence and has to wait for a retransmission.
  RETURN_IF_ERROR(copy_->Freeze(Deadline::After(host_.config.migration.freeze_timeout)));
  RETURN_IF_ERROR(copy_->FenceUp(Deadline::After(kKeeperTimeout)));
  AddPhase("freeze", Clock::now() - start);
  return StillWanted();
}

absl::Status SourceMigration::Capture() {
  hold_.At("source-capture");
  Enter(v1::CAPTURE, "dumping what is left and the skeleton");
  TimePoint start = Clock::now();
  // Files on shared storage must be at the storage before the target opens them.
  for (const std::string& path : row_.spec.shared()) {
    ASSIGN_OR_RETURN(const UniqueFd folder, OpenFile(path, O_RDONLY));
    if (::syncfs(folder.get()) != 0) return ErrnoStatus(absl::StrCat("sync shared storage ", path));
  }
  // The files' last round beside the memory's: one waits for the disk, the other for CRIU.
  std::future<std::pair<absl::Status, Duration>> files =
      std::async(std::launch::async, [this, start] {
        absl::Status status = files_->Round(/*last=*/true);
        return std::make_pair(std::move(status), Clock::now() - start);
      });
  if (hold_.Take("source-flip-last-page")) sink_->DamageNextPage();
  const uint64_t sent_before = sink_->bytes_sent();
  checkpoint::RoundReport round;
  absl::StatusOr<checkpoint::FinalList> final = source_->Final(*sink_, round);
  RETURN_IF_ERROR(StillWanted());
  RETURN_IF_ERROR(Annotate(final.status(), "capture"));
  final_ = *std::move(final);
  if (round.pages_resent > 0) TellResent(round.pages_resent);
  spdlog::info(
      "migration {}: final round: {} pages sent, {} of them by CRIU, {} shared; {} zero, {} "
      "unchanged",
      row_.id, round.pages_sent, round.pages_from_criu, round.pages_shared, round.pages_zero,
      round.pages_unchanged);
  for (v1::PhaseTime phase : dumps_.phases().phases()) {
    phase.set_name(absl::StrCat("dump: ", phase.name()));
    *report_.add_phases() = std::move(phase);
  }
  // CRIU's time less what lies beside it: the last pages are sent while it stops the tree.
  AddPhase("list", round.listing);
  AddPhase("send", round.sending);
  AddPhase("dump", Clock::now() - start);
  const TimePoint dumped = Clock::now();
  if (offer_ != nullptr) {
    RETURN_IF_ERROR(offer_->Settle(final_, source_->final_images(), sink_->slots(), *sink_));
    report_.set_post_copy_bytes(offer_->pages() * checkpoint::kPageSize);
  }
  RETURN_IF_ERROR(FlushFrozen());
  AddPhase("flush", Clock::now() - dumped);
  AddRound(round, sink_->bytes_sent() - sent_before, Clock::now() - start);
  const auto [shipped, took] = files.get();
  RETURN_IF_ERROR(shipped);
  if (row_.spec.ship_size() > 0) AddPhase("files", took);
  start = Clock::now();
  hold_.At("source-images");
  const auto not_ours = [](const std::string& file) { return !IsSkeletonImage(file); };
  ASSIGN_OR_RETURN(image_bytes_,
                   peer_->SendImages(row_.id, source_->final_images(), not_ours, StepDeadline()));
  AddPhase("images", Clock::now() - start);
  RETURN_IF_ERROR(
      host_.journal.Advance(row_.id, MigrationState::kFrozen, MigrationState::kCaptured));
  return StillWanted();
}

void SourceMigration::TellResent(uint64_t pages) {
  host_.Event(row_.component, "resent",
              absl::StrCat(pages, " pages did not come through whole, and are sent again"));
}

void SourceMigration::TellResumed() {
  const uint64_t resumed = sink_->resumed();
  if (resumed == resumed_told_) return;
  host_.Event(row_.component, "stream-resumed",
              absl::StrCat(resumed - resumed_told_,
                           " data connections were lost and made again; what was not answered for "
                           "is sent again"));
  resumed_told_ = resumed;
  report_.set_resumed(resumed);
}

// What did not come through whole is read again from the frozen component.
absl::Status SourceMigration::FlushFrozen() {
  for (int attempt = 1;; ++attempt) {
    ASSIGN_OR_RETURN(const std::vector<checkpoint::PageRun> refused, sink_->Flush(StepDeadline()));
    TellResumed();
    if (refused.empty()) return absl::OkStatus();
    if (attempt == kMostAttempts) {
      return absl::DataLossError(absl::StrCat(refused.size(),
                                              " runs of pages did not come through "
                                              "whole in ",
                                              attempt, " attempts"));
    }
    ASSIGN_OR_RETURN(const auto memory, checkpoint::OpenCgroupMemory(cgroup_));
    checkpoint::RoundReport report;
    for (const checkpoint::PageRun& run : refused) {
      RETURN_IF_ERROR(checkpoint::SendFrozen(*memory, run, *sink_, report));
    }
    TellResent(report.pages_sent + report.pages_zero);
  }
}

absl::Status SourceMigration::Restore() {
  hold_.At("source-restore");
  Enter(v1::RESTORE, absl::StrCat("host ", row_.peer, " restores, held behind its fence"));
  const TimePoint start = Clock::now();
  v1::RestoreRequest restore;
  restore.set_migration_id(row_.id);
  for (const auto& entry : final_.entries) {
    v1::MemoryEntry* memory = restore.add_memory();
    memory->set_kind(static_cast<uint32_t>(entry.run.space.kind));
    memory->set_space(entry.run.space.id);
    memory->set_address(entry.run.address);
    memory->set_pages(entry.run.pages);
    memory->set_in_arena_before(entry.in_arena_before);
  }
  for (const checkpoint::PageRun& run : final_.recent) {
    v1::MemoryEntry* memory = restore.add_recent();
    memory->set_kind(static_cast<uint32_t>(run.space.kind));
    memory->set_space(run.space.id);
    memory->set_address(run.address);
    memory->set_pages(run.pages);
  }
  if (offer_ != nullptr && offer_->pages() > 0) {
    for (v1::OfferedRun& run : offer_->Runs()) *restore.add_offered() = std::move(run);
    report_.set_offered(offer_->windows() ? "windows" : "regions");
    RETURN_IF_ERROR(host_.offers->Add(
        row_.id, row_.peer, {report_.provider(), host_.config.DataListen(report_.provider())},
        std::move(offer_)));
  }
  restore.set_eager(request_.eager());
  restore.set_park(request_.park());
  restore.set_verify(Verifies());
  for (std::string& model : host_.shelf->Get(row_.component)) {
    restore.mutable_shadow()->add_models(std::move(model));
  }
  restore.set_log_tail(ReadLogTail(LogPath(host_.config.log_dir, row_.component)));
  list_bytes_ = restore.ByteSizeLong();
  ASSIGN_OR_RETURN(const v1::RestoreResponse response, peer_->Restore(restore, StepDeadline()));
  for (const auto& phase : response.phases()) *report_.add_phases() = phase;
  AddPhase("restore", Clock::now() - start);
  RETURN_IF_ERROR(
      host_.journal.Advance(row_.id, MigrationState::kCaptured, MigrationState::kPrepared));
  return StillWanted();
}

absl::Status SourceMigration::Probe() {
  hold_.At("source-probe");
  const ProbeSpec probe = ProbeFor(row_.spec, {request_.probe(), request_.probe_timeout_s()},
                                   Seconds(host_.config.migration.probe_timeout));
  if (probe.command.empty()) return StillWanted();
  const TimePoint start = Clock::now();
  Enter(v1::PROBE, probe.command);
  report_.set_probe(probe.command);
  v1::ProbeRequest ask;
  ask.set_migration_id(row_.id);
  ask.set_command(probe.command);
  ask.set_timeout_s(probe.timeout_s);
  const auto allowed =
      std::chrono::duration_cast<Duration>(std::chrono::duration<double>(probe.timeout_s));
  ASSIGN_OR_RETURN(
      const v1::ProbeResponse response,
      peer_->Probe(ask, Deadline::After(allowed + host_.config.migration.peer_timeout)));
  AddPhase("probe", Clock::now() - start);
  if (response.exit_status() != 0) {
    return absl::AbortedError(absl::StrCat("the probe failed at host ", row_.peer,
                                           " with exit status ", response.exit_status(), ": ",
                                           response.output()));
  }
  return StillWanted();
}

}  // namespace starling::migration
