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
#include "predictor/rate_estimator.h"
#include "runtime/migration/images.h"
#include "runtime/migration/make_source.h"
#include "runtime/migration/plan.h"
#include "runtime/migration/slowdown.h"
#include "runtime/migration/stream_keys.h"
#include "runtime/reports/report_store.h"
#include "runtime/reports/report_text.h"

namespace starling::migration {

using agent::Unheard;

namespace {

// A call to the component's own keeper that starts nothing slow.
constexpr auto kKeeperTimeout = std::chrono::seconds(10);
// Killing and removing a copy.
constexpr auto kDestroyTimeout = std::chrono::seconds(30);
// Room in the arena beyond what is resident now, so that a growing component seldom has to ask
// again.
constexpr double kArenaSlack = 1.125;
// Each leaves a component seven tenths of the processor time that it had.
constexpr int kMostThrottles = 8;
constexpr uint64_t kArenaSpare = 16 * kMiB;
// A day: of terabytes over a slow link.
constexpr auto kLongestFileRound = std::chrono::hours(24);
// Times that pages of the frozen component are sent before the migration is called off.
constexpr int kMostAttempts = 3;
// How long a target is told of an abort before its lease is left to tell it.
constexpr auto kAbortTimeout = std::chrono::seconds(2);

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
  absl::Status status = Reserve();
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
  Enter(v1::RESERVE, absl::StrCat("asking host ", row_.peer, " for room"));
  ASSIGN_OR_RETURN(const keeper::v1::Status status, copy_->Status(Deadline::After(kKeeperTimeout)));
  cgroup_ = status.cgroup();
  stalled_since_ = Clock::now();
  if (const auto stalled = ProcessorStall(cgroup_); stalled.ok()) stalled_before_ = *stalled;
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
  reserve.set_source_host(host_.config.host);
  reserve.set_source_address(host_.config.control.listen);
  ASSIGN_OR_RETURN(transport::Fabric* const fabric, host_.Transport(request_.transport()));
  reserve.set_provider(fabric->name());
  if (host_.encrypts()) {
    ASSIGN_OR_RETURN(*reserve.mutable_key_share(), NewKeyShare());
  }
  const LaneOptions lanes = LaneOptionsFrom(host_.config.data);
  if (lanes.compress || host_.encrypts()) {
    reserve.set_ring_slots(static_cast<uint32_t>(lanes.queue_pairs) * kRingSlotsPerLane);
    reserve.set_ring_slot_bytes(lanes.slab_bytes);
  }
  ASSIGN_OR_RETURN(const v1::ReserveResponse granted, peer_->Reserve(reserve, StepDeadline()));
  granted_ = true;
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
  board_->Update([&](v1::MigrationProgress& progress) {
    progress.set_provider(fabric->name());
    progress.set_encrypted(sink_->sealed());
  });
  AddPhase("reserve", Clock::now() - start);
  return StillWanted();
}

// What the component waits for processors anyway is what it waited while room was made for it.
std::unique_ptr<SlowdownGovernor> SourceMigration::MakeGovernor() const {
  double usual = 0;
  if (const auto stalled = ProcessorStall(cgroup_); stalled.ok() && stalled_before_.has_value()) {
    usual = Seconds(*stalled - *stalled_before_) / Seconds(Clock::now() - stalled_since_);
  }
  return std::make_unique<SlowdownGovernor>(host_.config.migration.max_slowdown, usual);
}

// Copies until it fits, or another round would not pay, or the component is slowed down enough.
absl::Status SourceMigration::Rounds() {
  PlanLimits limits;
  limits.max_rounds = request_.max_rounds() > 0
                          ? request_.max_rounds()
                          : static_cast<uint32_t>(host_.config.migration.max_rounds);
  limits.max_blackout_s = request_.max_blackout_s() > 0
                              ? request_.max_blackout_s()
                              : Seconds(host_.config.migration.max_blackout);
  limits.fixed_blackout_s = host_.blackouts->Expected(row_.component);
  predictor::RateEstimator link(std::chrono::seconds(5));
  predictor::RateEstimator dirty(std::chrono::seconds(5));
  RoundFacts facts;
  Throttle throttle(cgroup_);
  throttle.Look(Clock::now());
  int throttled = 0;
  TimePoint round_began = Clock::now();
  while (true) {
    const Plan plan = PlanNextRound(facts, limits);
    expected_blackout_s_ = plan.expected_blackout_s;
    expected_memory_s_ = plan.memory_s;
    report_.set_stopped_because(plan.reason);
    if (report_.page_rounds_size() > 0) {
      v1::PageRound& told = *report_.mutable_page_rounds()->rbegin();
      told.set_expected_blackout_s(plan.expected_blackout_s);
      told.set_next(plan.reason);
    }
    board_->Update([&](v1::MigrationProgress& progress) {
      progress.set_expected_blackout_s(plan.expected_blackout_s);
      progress.set_rate_bytes_per_s(facts.link_bytes_per_s);
      progress.set_dirty_bytes_per_s(facts.dirty_bytes_per_s);
    });
    spdlog::info("migration {}: after {} rounds: {}", row_.id, facts.rounds_done, plan.reason);
    if (!plan.another_round) {
      if (!plan.falls_short) return absl::OkStatus();
      const std::string short_of = absl::StrFormat(
          "an expected blackout of %.0f ms does not fit the limit of %.0f ms after %u rounds",
          plan.expected_blackout_s * 1e3, limits.max_blackout_s * 1e3, facts.rounds_done);
      if (request_.auto_converge() && throttled < kMostThrottles) {
        ++throttled;
        ASSIGN_OR_RETURN(const double processors, throttle.Tighten(Clock::now()));
        host_.Event(row_.component, "throttled",
                    absl::StrFormat("%s: left %.2f processors", short_of, processors));
      } else {
        const std::string said = absl::StrCat(short_of, ": ", Advice(facts));
        host_.Event(row_.component, "does-not-converge", said);
        if (request_.only_if_fits()) return absl::AbortedError(said);
        board_->Update([&](v1::MigrationProgress& progress) { progress.set_message(said); });
        return absl::OkStatus();
      }
    }
    RETURN_IF_ERROR(files_->Round(/*last=*/false));
    const TimePoint previous_began = std::exchange(round_began, Clock::now());
    board_->Update(
        [&](v1::MigrationProgress& progress) { progress.set_round(facts.rounds_done + 1); });
    Enter(v1::PRECOPY, absl::StrCat("round ", facts.rounds_done + 1, ": ", plan.reason));
    const uint64_t sent_before = sink_->bytes_sent();
    ASSIGN_OR_RETURN(const checkpoint::RoundReport round, OneRound(facts.rounds_done + 1));
    const Duration took = Clock::now() - round_began;
    const uint64_t bytes = sink_->bytes_sent() - sent_before;
    facts.deferred_bytes = round.pages_deferred * checkpoint::kPageSize;
    facts.previous_round_bytes = facts.last_round_bytes;
    facts.last_round_bytes = bytes + facts.deferred_bytes;
    facts.last_round_s = Seconds(took);
    // The freeze waits for nobody.
    link.Add(static_cast<double>(bytes), std::max(took - round.held_back, took / 100));
    // What the second and later rounds have was written since the round before it began.
    if (facts.rounds_done >= 1) {
      dirty.Add(static_cast<double>(facts.last_round_bytes), round_began - previous_began);
    }
    facts.link_bytes_per_s = link.rate_per_s();
    facts.dirty_bytes_per_s = dirty.rate_per_s();
    limits.resident_bytes = std::max(limits.resident_bytes, bytes);
    ++facts.rounds_done;
    rounds_ = facts.rounds_done;
    v1::PageRound& told = AddRound(round, bytes, took);
    told.set_number(rounds_);
    told.set_paused_s(Seconds(round.paused));
    told.set_rate_bytes_per_s(facts.link_bytes_per_s);
    told.set_dirty_bytes_per_s(facts.dirty_bytes_per_s);
    if (facts.link_bytes_per_s > 0)
      written_share_ = facts.dirty_bytes_per_s / facts.link_bytes_per_s;
  }
}

// While CRIU got ready the component went on writing, for longer than a late round takes. With
// another round the freeze has only what is written during that one.
absl::Status SourceMigration::CatchUp() {
  const bool allowed = request_.max_rounds() == 0 || rounds_ < request_.max_rounds();
  if (rounds_ == 0 || !allowed || !source_->rounds_after_stage()) return absl::OkStatus();
  const TimePoint began = Clock::now();
  Enter(v1::PRECOPY,
        absl::StrCat("round ", rounds_ + 1, ": what was written while CRIU got ready"));
  const uint64_t sent_before = sink_->bytes_sent();
  ASSIGN_OR_RETURN(const checkpoint::RoundReport round, OneRound(rounds_ + 1));
  const Duration took = Clock::now() - began;
  ++rounds_;
  v1::PageRound& told = AddRound(round, sink_->bytes_sent() - sent_before, took);
  told.set_number(rounds_);
  told.set_paused_s(Seconds(round.paused));
  const double memory_s = Seconds(took) * written_share_;
  expected_blackout_s_ += memory_s - expected_memory_s_;
  expected_memory_s_ = memory_s;
  return absl::OkStatus();
}

absl::StatusOr<checkpoint::RoundReport> SourceMigration::OneRound(uint32_t number) {
  if (hold_.Take("source-flip-page")) sink_->DamageNextPage();
  absl::StatusOr<checkpoint::RoundReport> round = source_->Round(*sink_);
  RETURN_IF_ERROR(StillWanted());
  RETURN_IF_ERROR(Annotate(round.status(), absl::StrCat("pre-copy round ", number)));
  ASSIGN_OR_RETURN(const std::vector<checkpoint::PageRun> refused, sink_->Flush(StepDeadline()));
  if (!refused.empty()) {
    uint64_t pages = 0;
    for (const checkpoint::PageRun& run : refused) pages += run.pages;
    source_->Resend(refused);
    TellResent(pages);
  }
  std::string notes;
  if (round->pages_deferred > 0) {
    absl::StrAppend(&notes, "; ", round->pages_deferred, " hot ones left for the last round");
  }
  if (round->processes_unwatched > 0) {
    absl::StrAppend(&notes, "; ", round->processes_unwatched,
                    " processes cannot be watched and are sent whole");
  }
  if (governor_->lowest_share() < 1) {
    absl::StrAppend(&notes, "; held back to ", static_cast<int>(100 * governor_->lowest_share()),
                    " % at times for the component's sake");
  }
  spdlog::info("migration {}: round {}: {} pages sent, {} zero, {} unchanged; paused {:.1f} ms{}",
               row_.id, number, round->pages_sent, round->pages_zero, round->pages_unchanged,
               Milliseconds(round->paused), notes);
  return round;
}

absl::Status SourceMigration::PreCopy() {
  RETURN_IF_ERROR(
      host_.journal.Advance(row_.id, MigrationState::kReserving, MigrationState::kPreCopy));
  hold_.At("source-precopy");
  TimePoint start = Clock::now();
  RETURN_IF_ERROR(WaitUntilWhole(*copy_, StepDeadline(), [this] { return StillWanted(); }));
  AddPhase("wait-until-whole", Clock::now() - start);
  start = Clock::now();
  RETURN_IF_ERROR(MakeDirectories(images_, 0700));
  SourceParts parts;
  ASSIGN_OR_RETURN(parts.tracker,
                   ChooseTracker(host_.config.migration.tracker, FactsFor(cgroup_, *host_.criu)));
  parts.criu = host_.criu->version;
  parts.folder = images_;
  parts.cgroup = cgroup_;
  parts.threads = host_.config.migration.capture_threads;
  parts.max_rate_bytes_per_s = request_.max_rate_bytes_per_s();
  governor_ = MakeGovernor();
  parts.hold_back = [this](Duration worked) {
    const TimePoint now = Clock::now();
    if (governor_->Due(now)) {
      if (const auto stalled = ProcessorStall(cgroup_); stalled.ok()) {
        governor_->Look(now, *stalled);
      }
    }
    return governor_->Rest(worked);
  };
  parts.step_timeout = host_.config.migration.step_timeout;
  parts.pre_dump = dumps_.PreDumper();
  parts.dumper = dumps_.Dumper();
  parts.freezer = [this](bool frozen) {
    const Deadline deadline = Deadline::After(host_.config.migration.freeze_timeout);
    return frozen ? copy_->Freeze(deadline, kListTerm) : copy_->Thaw(deadline, /*in_term=*/true);
  };
  source_ = MakeSource(std::move(parts));
  report_.set_tracker(source_->tracker_name());

  // A round of files while the component runs takes as long as it takes.
  ASSIGN_OR_RETURN(files_, FileSender::Create(
                               row_.id, row_.spec, cgroup_,
                               [this](bool last, const auto& send) {
                                 return peer_->SendFiles(
                                     send,
                                     last ? StepDeadline() : Deadline::After(kLongestFileRound));
                               },
                               [this] { return StillWanted(); }));
  RETURN_IF_ERROR(Rounds());
  // Memory's last round may have taken long.
  RETURN_IF_ERROR(files_->Round(/*last=*/false));
  RETURN_IF_ERROR(Annotate(source_->Stage(), "capture"));
  RETURN_IF_ERROR(CatchUp());
  AddPhase("precopy", Clock::now() - start);
  return StillWanted();
}

absl::Status SourceMigration::Freeze() {
  RETURN_IF_ERROR(
      host_.journal.Advance(row_.id, MigrationState::kPreCopy, MigrationState::kFrozen));
  hold_.At("source-freeze");
  Enter(v1::FREEZE, absl::StrFormat("expecting a blackout of %.0f ms", expected_blackout_s_ * 1e3));
  const TimePoint start = Clock::now();
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

// What did not come through whole is read again from the frozen component.
absl::Status SourceMigration::FlushFrozen() {
  for (int attempt = 1;; ++attempt) {
    ASSIGN_OR_RETURN(const std::vector<checkpoint::PageRun> refused, sink_->Flush(StepDeadline()));
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
  restore.set_eager(request_.eager());
  restore.set_verify(request_.verify() || host_.config.migration.verify == "commit");
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
  if (request_.probe().empty()) return StillWanted();
  const TimePoint start = Clock::now();
  Enter(v1::PROBE, request_.probe());
  v1::ProbeRequest probe;
  probe.set_migration_id(row_.id);
  probe.set_command(request_.probe());
  const double timeout_s = request_.probe_timeout_s() > 0
                               ? request_.probe_timeout_s()
                               : Seconds(host_.config.migration.probe_timeout);
  probe.set_timeout_s(timeout_s);
  const auto allowed =
      std::chrono::duration_cast<Duration>(std::chrono::duration<double>(timeout_s));
  ASSIGN_OR_RETURN(
      const v1::ProbeResponse response,
      peer_->Probe(probe, Deadline::After(allowed + host_.config.migration.peer_timeout)));
  AddPhase("probe", Clock::now() - start);
  if (response.exit_status() != 0) {
    return absl::AbortedError(absl::StrCat("the probe failed at host ", row_.peer,
                                           " with exit status ", response.exit_status(), ": ",
                                           response.output()));
  }
  return StillWanted();
}

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
    const auto verdict =
        peer_->Commit(commit, Deadline::After(host_.config.migration.peer_timeout));
    if (verdict.ok() && verdict->verdict() == v1::COMMITTED) {
      AddPhase("commit", Clock::now() - start);
      report_.set_held_s(Seconds(Clock::now() - frozen_at_));
      host_.blackouts->Learn(row_.component, report_.held_s(), expected_memory_s_);
      in_doubt_ = false;
      return FinishLeft(verdict->epoch());
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
  report_.set_schema(kReportSchema);
  report_.set_migration_id(row_.id);
  report_.set_component(row_.component);
  report_.set_from(host_.config.host);
  report_.set_to(row_.peer);
  report_.set_outcome(left ? "done" : "called-off");
  report_.set_began(began_unix_s_);
  *report_.mutable_source() = agent::FactsOf(host_);
  report_.set_insecure(host_.security->insecure());
  report_.set_rounds(rounds_);
  if (governor_) report_.set_lowest_reading_share(governor_->lowest_share());
  uint64_t lanes = 0;
  v1::SentBytes& sent = *report_.mutable_sent();
  if (sink_) {
    const LaneCounts counts = sink_->counts();
    lanes = sink_->bytes_sent();
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
  if (const absl::Status kept = store.Save(report_); !kept.ok()) {
    host_.Event(row_.component, "report-failed", kept.message());
  }
  board_->Finish([&](v1::MigrationProgress& progress) {
    progress.set_step(left ? v1::DONE : v1::CALLED_OFF);
    progress.set_message(
        left ? absl::StrCat("component ", row_.component, " runs on host ", row_.peer)
             : report_.error());
    progress.set_bytes_sent(report_.wire_bytes());
    *progress.mutable_report() = report_;
  });
}

absl::Status SourceMigration::FinishLeft(uint64_t epoch) {
  RETURN_IF_ERROR(host_.journal.SettleLeft(row_.id, row_.peer, epoch));
  hold_.At("source-left");
  host_.components->Remove(row_.component);
  // Behind the fence, so that no dying socket says a word to its client.
  absl::Status destroyed = copy_->Destroy(Deadline::After(kDestroyTimeout));
  if (destroyed.ok()) destroyed = SetAside(row_.spec);
  if (destroyed.ok()) {
    RETURN_IF_ERROR(host_.journal.Settle(row_.id));
  } else {
    host_.Event(row_.component, "cleanup-failed", destroyed.message());
  }
  (void)RemoveTree(images_);
  report_.set_epoch(epoch);
  host_.Event(row_.component, "left", absl::StrCat("to host ", row_.peer, " with epoch ", epoch));
  FinishReport();
  return absl::OkStatus();
}

absl::Status SourceMigration::CallOff(const absl::Status& why, bool target_knows) {
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
    (void)peer_->Abort(abort, Deadline::After(kAbortTimeout));
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
