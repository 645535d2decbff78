#include "runtime/ghosts/session.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status.h"

namespace starling::ghosts {
namespace {

using migration::SourceMigration;

// Between two attempts to make a ghost, or to be heard by the other host.
constexpr Duration kAgain = std::chrono::seconds(2);
// After several in vain.
constexpr Duration kAgainLater = std::chrono::seconds(60);
// Where nothing is to be done until somebody calls.
constexpr Duration kLong = std::chrono::hours(1);
constexpr auto kKeeperTimeout = std::chrono::seconds(10);
// Why a ghost ends that its own host does not want any more; every other reason is somebody else's.
constexpr char kGivenBack[] = "the ghost is given back";

Duration FromSeconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

// Established TCP connections of the network namespace that the process is in.
uint32_t Connections(pid_t pid) {
  uint32_t count = 0;
  for (const char* file : {"tcp", "tcp6"}) {
    const auto table = ReadFile(absl::StrCat("/proc/", pid, "/net/", file));
    for (const absl::string_view line : absl::StrSplit(table.value_or(""), '\n')) {
      const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
      count += words.size() > 3 && words[3] == "01";
    }
  }
  return count;
}

}  // namespace

Session::Session(Parts parts) : parts_(std::move(parts)) {
  dropped_ = parts_.record.dropped();
  existed_ = !parts_.record.migration_id().empty();
  paused_ = parts_.paused;
  thread_ = std::jthread([this](const std::stop_token& stop) { Run(stop); });
  renewing_ = std::jthread([this](const std::stop_token& stop) { Renew(stop); });
}

Session::~Session() {
  renewing_.request_stop();
  thread_.request_stop();
  changed_.notify_all();
  std::shared_ptr<SourceMigration> migration;
  {
    const std::lock_guard lock(mutex_);
    migration = migration_;
  }
  if (migration) migration->StopGhost("the agent is going down");
}

v1::GhostInfo Session::Describe() const {
  const std::lock_guard lock(mutex_);
  v1::GhostInfo info;
  *info.mutable_wish() = parts_.record.wish();
  info.set_from(parts_.host->config.host);
  constexpr const char* kNames[] = {"making", "cold", "warm", "held", "waiting", "kept", "moving"};
  info.set_state(dropped_ ? "dropped" : kNames[static_cast<size_t>(state_)]);
  info.set_why(why_);
  info.set_migration_id(parts_.record.migration_id());
  info.set_fresh_s(-1);
  if (migration_ != nullptr) {
    const SourceMigration::GhostFacts facts = migration_->ghost_facts();
    info.set_rounds(facts.rounds);
    info.set_bytes_sent(facts.bytes_sent);
    if (facts.fresh) info.set_fresh_s(Seconds(Clock::now() - *facts.fresh));
  }
  info.set_instants(instants_);
  info.set_instant_age_s(instant_at_ ? Seconds(Clock::now() - *instant_at_) : -1);
  info.set_held_s(Seconds(instant_held_));
  return info;
}

absl::Status Session::WaitMade(Deadline deadline) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_until(lock, deadline.at(), [&] { return attempts_ > 0 || finished_; })) {
    return absl::DeadlineExceededError("the ghost is still being made");
  }
  return made_;
}

void Session::Pause() {
  std::unique_lock lock(mutex_);
  paused_ = true;
  if (migration_) migration_->LimitRate(0);
  changed_.notify_all();
  changed_.wait(lock, [&] { return idle_ || finished_; });
}

void Session::Resume(bool tracker_used) {
  const std::lock_guard lock(mutex_);
  paused_ = false;
  remake_ = remake_ || tracker_used;
  if (migration_) migration_->LimitRate(wish().rate_bytes_per_s());
  if (state_ == State::kMoving) state_ = State::kMaking;
  changed_.notify_all();
}

std::shared_ptr<SourceMigration> Session::Release() {
  std::shared_ptr<SourceMigration> migration;
  {
    const std::lock_guard lock(mutex_);
    // One that others have had the memory tracked beside, or that the other host has let go of.
    if (migration_ == nullptr || remake_ || !migration_->RenewGhost().ok()) return nullptr;
    migration = std::move(migration_);
    state_ = State::kMoving;
  }
  return migration;
}

absl::Status Session::GiveBack() {
  std::shared_ptr<SourceMigration> migration;
  {
    const std::lock_guard lock(mutex_);
    migration = std::move(migration_);
  }
  if (migration) migration->EndGhost();
  if (Settle()) return absl::OkStatus();
  if (finished()) {
    return absl::AbortedError(absl::StrCat("host ", wish().on(), " has started component ",
                                           wish().component(), " from its ghost"));
  }
  return absl::UnavailableError(
      absl::StrCat("host ", wish().on(), " keeps a ghost of ", wish().component(),
                   " and does not answer, so that it cannot be told to let go of it"));
}

void Session::Drop() {
  std::shared_ptr<SourceMigration> migration;
  {
    const std::lock_guard lock(mutex_);
    dropped_ = true;
    // What has become a migration is ended by that, not under its feet.
    if (state_ != State::kMoving) paused_ = false;
    parts_.record.set_dropped(true);
    (void)Save();
    migration = migration_;
    changed_.notify_all();
  }
  // A round that is under way is not waited for.
  if (migration) migration->StopGhost("it is dropped");
}

void Session::ComponentLost() {
  const std::lock_guard lock(mutex_);
  lost_ = true;
  changed_.notify_all();
}

void Session::Left() {
  const std::lock_guard lock(mutex_);
  Finish();
}

bool Session::finished() const {
  const std::lock_guard lock(mutex_);
  return finished_;
}

void Session::Run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    Duration pause = kLong;
    bool skip = false;
    {
      const std::lock_guard lock(mutex_);
      if (finished_) return;
      skip = paused_;
    }
    if (!skip) pause = Turn();
    std::unique_lock lock(mutex_);
    if (finished_) return;
    const uint64_t before = attempts_;
    const auto news = [&, dropped = dropped_, lost = lost_, remake = remake_] {
      return finished_ || dropped != dropped_ || lost != lost_ || remake != remake_ ||
             attempts_ != before;
    };
    idle_ = true;
    changed_.notify_all();
    if (paused_) {
      changed_.wait(lock, stop, [&] { return !paused_ || finished_; });
    } else {
      changed_.wait_for(lock, stop, pause, [&] { return paused_ || news(); });
    }
    idle_ = false;
  }
}

void Session::Renew(const std::stop_token& stop) {
  const auto pause = parts_.host->config.migration.lease / 4;
  while (!stop.stop_requested()) {
    std::shared_ptr<SourceMigration> migration;
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, stop, pause, [&] { return stop.stop_requested(); });
      if (stop.stop_requested() || finished_) return;
      migration = migration_;
    }
    if (migration && !migration->RenewGhost().ok()) changed_.notify_all();
  }
}

Duration Session::Turn() {
  bool dropped = false, lost = false, there = false;
  {
    const std::lock_guard lock(mutex_);
    dropped = dropped_;
    lost = lost_;
    there = migration_ != nullptr;
  }
  if (lost && wish().checkpoint_every_s() > 0 && !dropped) {
    // Kept for a failover, and looked after now and then: whether there was one.
    Lose(absl::OkStatus());
    v1::QueryRequest query;
    query.set_migration_id(parts_.record.migration_id());
    if (query.migration_id().empty()) {
      const std::lock_guard lock(mutex_);
      Finish();
      return kLong;
    }
    Set(State::kKept, "the component is lost here");
    const auto verdict =
        parts_.peer->Query(query, Deadline::After(parts_.host->config.migration.peer_timeout));
    if (verdict.ok() && (verdict->verdict() == v1::COMMITTED || verdict->verdict() == v1::ABORTED))
      (void)Settle();
    return kAgain;
  }
  if (dropped || lost) {
    Lose(absl::OkStatus());
    if (!Settle()) return kAgain;
    const std::lock_guard lock(mutex_);
    Finish();
    return kLong;
  }
  return there ? Refresh() : Make();
}

Duration Session::Make() {
  agent::Host& host = *parts_.host;
  if (!Settle()) {
    {
      const std::lock_guard lock(mutex_);
      if (finished_) return kLong;
    }
    Set(State::kWaiting, absl::StrCat("host ", wish().on(), " does not answer"));
    return kAgain;
  }
  absl::Status status;
  std::shared_ptr<SourceMigration> migration;
  const absl::StatusOr<ComponentRow> row = host.journal.GetComponent(wish().component());
  const std::shared_ptr<agent::Copy> copy = host.components->Find(wish().component());
  absl::StatusOr<std::string> bytes = RandomBytes(8);
  if (!row.ok()) {
    status = row.status();
  } else if (copy == nullptr || row->state != v1::RUNNING) {
    status = absl::NotFoundError("the component does not run here");
  } else {
    status = bytes.status();
  }
  if (status.ok()) {
    MigrationRow made;
    made.id = absl::BytesToHexString(*bytes);
    made.role = MigrationRole::kSource;
    made.component = wish().component();
    made.peer = parts_.peer->name();
    made.peer_address = parts_.peer->address();
    made.epoch = row->epoch;
    made.spec = row->spec;
    v1::MigrateRequest request;
    request.set_name(made.component);
    request.set_to(made.peer);
    {
      // Before the other host is asked: whatever it keeps from then on is known of.
      const std::lock_guard lock(mutex_);
      parts_.record.set_migration_id(made.id);
      status = Save();
    }
    migration = std::make_shared<SourceMigration>(host, parts_.peer, copy, made, request);
  }
  if (status.ok()) {
    migration::GhostTerms terms;
    terms.warm = wish().warm();
    terms.rate_bytes_per_s = wish().rate_bytes_per_s();
    terms.every_s = wish().every_s();
    terms.checkpoint_every_s = wish().checkpoint_every_s();
    terms.instants = wish().checkpoint_every_s() > 0;
    terms.by_loop = wish().by_loop();
    terms.tracker = parts_.tracker;
    status = migration->MakeGhost(terms);
    if (!status.ok()) migration->EndGhost();
  }
  next_round_ = next_instant_ = Clock::now();
  const std::lock_guard lock(mutex_);
  ++attempts_;
  made_ = status;
  instant_at_.reset();
  remake_ = false;
  if (status.ok()) {
    migration_ = std::move(migration);
    existed_ = true;
    state_ = wish().warm() ? State::kWarm : State::kCold;
    why_.clear();
    host.Event(wish().component(), "ghost",
               absl::StrCat("host ", wish().on(), " keeps a ", wish().warm() ? "warm" : "cold",
                            " one, ", parts_.record.migration_id()));
  } else {
    state_ = State::kWaiting;
    why_ = std::string(status.message());
    // Whoever made it for a reason decides anew; a person's waits for room.
    if (wish().by_loop() && absl::IsResourceExhausted(status) && !dropped_) {
      if (existed_) {
        host.Event(wish().component(), "loop-dropped-ghost",
                   absl::StrCat("the one on host ", wish().on(), ": ", status.message()));
      }
      dropped_ = true;
      parts_.record.set_dropped(true);
      (void)Save();
    }
  }
  changed_.notify_all();
  failures_ = status.ok() ? 0 : failures_ + 1;
  if (status.ok()) return Duration::zero();
  return std::min<Duration>(kAgain * (1 << std::min(failures_, 5)), kAgainLater);
}

Duration Session::Refresh() {
  std::shared_ptr<SourceMigration> migration;
  bool remake = false;
  {
    const std::lock_guard lock(mutex_);
    migration = migration_;
    remake = std::exchange(remake_, false);
  }
  absl::Status status = migration->RenewGhost();
  if (status.ok() && !wish().warm()) return kLong;
  // A tracker starts anew by being made anew.
  if (status.ok() && remake) status = migration->RemakeGhost();
  const TimePoint begun = Clock::now();
  if (status.ok() && (begun >= next_round_ || remake)) {
    status = migration->GhostRound();
    next_round_ = begun + FromSeconds(wish().every_s());
  }
  if (status.ok() && wish().checkpoint_every_s() > 0 && begun >= next_instant_) {
    SourceMigration::InstantFacts facts;
    facts.number = instants_ + 1;
    if (const auto said = parts_.host->components->Find(wish().component()); said != nullptr) {
      const auto root = said->Status(Deadline::After(kKeeperTimeout));
      if (root.ok()) facts.connections = Connections(root->root_pid());
    }
    status = migration->GhostInstant(facts);
    next_instant_ = std::max(begun + FromSeconds(wish().checkpoint_every_s()), Clock::now());
    const std::lock_guard lock(mutex_);
    instants_ = facts.number;
    if (status.ok()) {
      instant_at_ = begun;
      instant_held_ = facts.held;
    } else {
      parts_.host->Event(wish().component(), "instant-failed", status.message());
    }
  }
  if (!status.ok()) {
    Lose(status);
    return kAgain;
  }
  TimePoint next = next_round_;
  if (wish().checkpoint_every_s() > 0) next = std::min(next, next_instant_);
  return std::max<Duration>(next - Clock::now(), Duration::zero());
}

// What there is at this side goes; the other host is told when it is settled.
void Session::Lose(const absl::Status& why) {
  std::shared_ptr<SourceMigration> migration;
  {
    const std::lock_guard lock(mutex_);
    migration = std::move(migration_);
    if (!why.ok()) {
      lost_there_ = migration != nullptr;
      state_ = State::kWaiting;
      why_ = std::string(why.message());
    }
  }
  if (migration == nullptr) return;
  migration->EndGhost();
  if (!why.ok()) parts_.host->Event(wish().component(), "ghost-lost", why.message());
}

bool Session::Settle() {
  std::string id;
  {
    const std::lock_guard lock(mutex_);
    if (finished_) return false;
    id = parts_.record.migration_id();
  }
  if (id.empty()) return true;
  v1::AbortRequest abort;
  abort.set_migration_id(id);
  abort.set_reason(kGivenBack);
  const auto verdict =
      parts_.peer->Abort(abort, Deadline::After(parts_.host->config.migration.peer_timeout));
  if (!verdict.ok()) return false;
  if (verdict->verdict() == v1::COMMITTED) {
    parts_.failed_over(wish().component(), wish().on(), verdict->epoch());
    const std::lock_guard lock(mutex_);
    Finish();
    return false;
  }
  if (verdict->verdict() != v1::ABORTED) return false;
  const std::lock_guard lock(mutex_);
  if (std::exchange(lost_there_, false) && verdict->reason() != kGivenBack) {
    parts_.host->Event(wish().component(), "ghost-ended",
                       absl::StrCat("the one on host ", wish().on(), ": ", verdict->reason()));
  }
  parts_.record.clear_migration_id();
  return Save().ok();
}

void Session::Set(State state, const std::string& why) {
  const std::lock_guard lock(mutex_);
  state_ = state;
  why_ = why;
}

// With mutex_ held.
void Session::Finish() {
  finished_ = true;
  if (const absl::Status removed = parts_.book->Remove(wish()); !removed.ok()) {
    parts_.host->Event(wish().component(), "cleanup-failed", removed.message());
  }
  changed_.notify_all();
}

// With mutex_ held.
absl::Status Session::Save() {
  if (finished_) return absl::OkStatus();
  return parts_.book->Put(parts_.record);
}

}  // namespace starling::ghosts
