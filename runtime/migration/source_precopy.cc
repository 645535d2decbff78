// The rounds of SourceMigration: what is copied while the component runs.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status.h"
#include "base/units.h"
#include "predictor/rate_estimator.h"
#include "runtime/migration/make_source.h"
#include "runtime/migration/plan.h"
#include "runtime/migration/slowdown.h"
#include "runtime/migration/source.h"

namespace starling::migration {

namespace {

// Each leaves a component seven tenths of the processor time that it had.
constexpr int kMostThrottles = 8;
// A day: of terabytes over a slow link.
constexpr auto kLongestFileRound = std::chrono::hours(24);

}  // namespace

// What the component usually waits and uses is what it did while room was made for it.
std::unique_ptr<SlowdownGovernor> SourceMigration::MakeGovernor() const {
  ProcessorShares usual;
  if (const auto times = ReadProcessorTimes(cgroup_); times.ok() && times_before_.has_value()) {
    usual = SharesBetween(*times_before_, *times, Clock::now() - times_since_);
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
  if (request_.post_copy()) {
    limits.max_rounds = std::max(limits.max_rounds, 1u);
    limits.post_copy_bytes = static_cast<uint64_t>(host_.config.migration.post_copy_mib) * kMiB;
  }
  limits.fixed_blackout_s = host_.blackouts->Expected(row_.component);
  limits.resident_bytes = sent_as_ghost_;
  predictor::RateEstimator link(std::chrono::seconds(5));
  predictor::RateEstimator dirty(std::chrono::seconds(5));
  if (ghost_link_bytes_per_s_ > 0) link.Add(ghost_link_bytes_per_s_, std::chrono::seconds(1));
  RoundFacts facts;
  Throttle throttle(cgroup_);
  throttle.Look(Clock::now());
  int throttled = 0;
  TimePoint round_began = Clock::now();
  Duration listed_after{};
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
    // The freeze waits for nobody. A ghost's rounds may be too small to tell.
    if (ghost_link_bytes_per_s_ == 0 || bytes >= kTellingBytes) {
      link.Add(static_cast<double>(bytes), std::max(took - round.held_back, took / 100));
    }
    // What the second and later rounds have was written since the round before it had it sent.
    if (facts.rounds_done >= 1) {
      dirty.Add(static_cast<double>(facts.last_round_bytes),
                round_began - previous_began - listed_after);
    }
    listed_after = round.listed_after;
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
    if (facts.link_bytes_per_s > 0) {
      written_share_ = facts.dirty_bytes_per_s / facts.link_bytes_per_s;
      left_behind_s_ = static_cast<double>(limits.post_copy_bytes) / facts.link_bytes_per_s;
    }
  }
}

// Room for what stays behind, made before the freeze.
absl::Status SourceMigration::MakeOffer() {
  uint64_t bytes = static_cast<uint64_t>(host_.config.migration.post_copy_mib) * kMiB;
  if (const auto current = ReadFile(absl::StrCat(cgroup_, "/memory.current")); current.ok()) {
    bytes = std::min<uint64_t>(bytes, std::strtoull(current->c_str(), nullptr, 10));
  }
  ASSIGN_OR_RETURN(transport::Fabric* const fabric, host_.Transport(request_.transport()));
  ASSIGN_OR_RETURN(offer_, Offer::Create(*fabric, bytes, sink_->sealed()));
  offer_sink_ = std::make_unique<OfferSink>(*offer_, sink_->slots(), *sink_);
  source_->HoldBack(*offer_sink_);
  return absl::OkStatus();
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
  const double memory_s = std::max(0.0, Seconds(took) * written_share_ - left_behind_s_);
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
  TellResumed();
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
  // A warm ghost has them.
  if (source_ == nullptr) RETURN_IF_ERROR(MakeParts());
  const TimePoint start = Clock::now();
  if (request_.post_copy()) RETURN_IF_ERROR(CheckPostCopy());
  RETURN_IF_ERROR(Rounds());
  // Memory's last round may have taken long.
  RETURN_IF_ERROR(files_->Round(/*last=*/false));
  if (request_.post_copy()) RETURN_IF_ERROR(MakeOffer());
  RETURN_IF_ERROR(Annotate(source_->Stage(), "capture"));
  RETURN_IF_ERROR(CatchUp());
  AddPhase("precopy", Clock::now() - start);
  return StillWanted();
}

absl::Status SourceMigration::CheckPostCopy() const {
  if (source_->tracker_name() != absl::string_view("criu-predump")) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "--post-copy needs a tracker of Starling's own (migration.tracker), and the ", "memory of ",
      row_.component, " is found by CRIU's pre-dumps: it is configured ",
      "so, or has much shared memory, or this kernel does not track soft-dirty pages"));
}

// What rounds are made with.
absl::Status SourceMigration::MakeParts() {
  const TimePoint start = Clock::now();
  RETURN_IF_ERROR(WaitUntilWhole(*copy_, StepDeadline(), [this] { return StillWanted(); }));
  AddPhase("wait-until-whole", Clock::now() - start);
  RETURN_IF_ERROR(MakeDirectories(images_, 0700));
  SourceParts parts;
  ASSIGN_OR_RETURN(parts.tracker,
                   ChooseTracker(host_.config.migration.tracker, FactsFor(cgroup_, *host_.criu)));
  parts.criu = host_.criu->version;
  parts.folder = images_;
  parts.cgroup = cgroup_;
  parts.threads = host_.config.migration.capture_threads;
  parts.max_rate = [this] { return max_rate_.load(); };
  parts.goes_on = ghost_ && ghost_->instants;
  governor_ = MakeGovernor();
  parts.hold_back = [this](uint64_t bytes, Duration worked) {
    const TimePoint now = Clock::now();
    if (governor_->Due(now)) {
      if (const auto times = ReadProcessorTimes(cgroup_); times.ok()) {
        governor_->Look(now, *times);
      }
    }
    return governor_->Rest(bytes, worked);
  };
  parts.step_timeout = host_.config.migration.step_timeout;
  parts.pre_dump = dumps_.PreDumper();
  parts.dumper = dumps_.Dumper();
  // A ghost's tracker may be that of other ones, too, and go on when this one ends.
  parts.freezer = [copy = copy_, timeout = host_.config.migration.freeze_timeout](bool frozen) {
    const Deadline deadline = Deadline::After(timeout);
    return frozen ? copy->Freeze(deadline, kListTerm) : copy->Thaw(deadline, /*in_term=*/true);
  };
  if (ghost_) parts.shared = ghost_->tracker;
  ASSIGN_OR_RETURN(source_, MakeSource(std::move(parts)));
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
  return StillWanted();
}

}  // namespace starling::migration
