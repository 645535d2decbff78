#include "runtime/loop/actor.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/units.h"
#include "runtime/agent/rpc_status.h"
#include "runtime/loop/mapped_files.h"
#include "runtime/loop/messages.h"
#include "runtime/proto/loop.grpc.pb.h"
#include "runtime/reservations/lease_desk.h"

namespace starling::loop {

using decisions::Action;
using decisions::Step;

namespace {

// Told to a host that grants a lease, so that it reads them ahead.
constexpr size_t kMostFiles = 256;
// How often it is looked whether a move has ended.
constexpr auto kLook = std::chrono::milliseconds(200);

std::string KeyOf(const Step& step) {
  return absl::StrCat(decisions::Name(step.action), " ", step.component, " ", step.host);
}

// For the call to a peer that is about to be made.
void SetDeadline(grpc::ClientContext& context, Duration timeout) {
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::duration_cast<std::chrono::system_clock::duration>(timeout));
}

}  // namespace

Actor::Actor(agent::Agent& agent, Limits& limits, Parts parts)
    : agent_(agent), host_(agent.host()), limits_(limits), parts_(std::move(parts)) {
  ghosts_thread_ = std::jthread([this](const std::stop_token& stop) { WorkOnGhosts(stop); });
  thread_ = std::jthread([this](const std::stop_token& stop) { Work(stop); });
}

Actor::~Actor() {
  thread_.request_stop();
  ghosts_thread_.request_stop();
  thread_.join();
  ghosts_thread_.join();
}

bool Actor::Submit(const Step& step, const Terms& terms) {
  std::lock_guard lock(mutex_);
  std::string key = KeyOf(step);
  if (!under_way_.insert(key).second) return false;
  if (step.action == Action::kMigrate) starting_.insert(step.component);
  jobs_.push_back({std::move(key), step, terms});
  wake_.notify_all();
  return true;
}

std::set<std::string> Actor::Moving() const {
  std::lock_guard lock(mutex_);
  std::set<std::string> names = starting_;
  for (const auto& [name, board] : moves_) names.insert(name);
  return names;
}

bool Actor::RestsFromFailure(const std::string& component, TimePoint now) const {
  std::lock_guard lock(mutex_);
  const auto found = failures_.find(component);
  return found != failures_.end() && now < found->second.until;
}

void Actor::Failed(const std::string& component) {
  std::lock_guard lock(mutex_);
  Failure& failure = failures_[component];
  const Duration rest = std::min<Duration>(kMostRest, kFirstRest * (1 << failure.times));
  failure.times = std::min(failure.times + 1, 8);
  failure.until = Clock::now() + rest;
}

void Actor::Work(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait_for(lock, stop, kLook, [&] { return !jobs_.empty(); });
      if (!jobs_.empty()) {
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
    }
    Settle();
    CallOffIdle();
    if (job.key.empty()) continue;
    if (job.step.action == Action::kGhost) {
      // After what was decided before it, as the room that it is to lie in.
      std::lock_guard lock(mutex_);
      ghost_jobs_.push_back(std::move(job));
      wake_.notify_all();
      continue;
    }
    Finish(job);
  }
}

void Actor::WorkOnGhosts(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      if (!wake_.wait(lock, stop, [&] { return !ghost_jobs_.empty(); })) return;
      job = std::move(ghost_jobs_.front());
      ghost_jobs_.pop_front();
    }
    Finish(job);
  }
}

void Actor::Finish(const Job& job) {
  const absl::Status done = Do(job.step, job.terms);
  if (!done.ok()) {
    host_.Event(job.step.component, "loop-failed", absl::StrCat(job.key, ": ", done.message()));
    if (job.step.action == Action::kMigrate) Failed(job.step.component);
    if (job.step.action == Action::kGhost) Failed(StagingOf(job.step.component));
  }
  std::lock_guard lock(mutex_);
  if (job.step.action == Action::kMigrate) starting_.erase(job.step.component);
  if (job.step.action == Action::kGhost && done.ok()) {
    failures_.erase(StagingOf(job.step.component));
  }
  // A move is under way until it has ended.
  if (job.step.action != Action::kMigrate || !done.ok()) under_way_.erase(job.key);
}

void Actor::Settle() {
  std::map<std::string, std::shared_ptr<migration::ProgressBoard>> ended;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, board] : moves_) {
      if (board->finished()) ended.emplace(name, board);
    }
  }
  for (const auto& [name, board] : ended) {
    const v1::MigrationProgress last = board->Latest();
    const bool done = last.step() == v1::DONE;
    const bool stays = stay_.erase(name) > 0 && !done;
    host_.Event(name,
                done    ? "loop-moved"
                : stays ? "loop-stayed"
                        : "loop-failed",
                done ? absl::StrCat("to host ", last.to()) : last.message());
    if (!done && !stays) Failed(name);
    idle_moves_.erase(name);
    std::lock_guard lock(mutex_);
    if (done) failures_.erase(name);
    moves_.erase(name);
    std::erase_if(under_way_, [&](const std::string& key) {
      Step step;
      step.component = name;
      step.host = last.to();
      return key == KeyOf(step);
    });
  }
}

void Actor::CallOffIdle() {
  for (auto move = idle_moves_.begin(); move != idle_moves_.end();) {
    const auto& [name, idle] = *move;
    if (parts_.activities(name) == idle.activities) {
      ++move;
      continue;
    }
    // Once the other host was asked to commit it is too late, and the blackout nearly over.
    const absl::Status cancelled = agent_.Cancel(name, "its user is there");
    if (cancelled.ok()) {
      stay_.insert(name);
      parts_.came_back(Clock::now() - idle.since);
    }
    move = idle_moves_.erase(move);
  }
}

absl::Status Actor::Do(const Step& step, const Terms& terms) {
  switch (step.action) {
    case Action::kMigrate:
      return Move(step);
    case Action::kReserve:
      return AskForLease(step, terms);
    case Action::kGiveBack:
      return GiveBack(step);
    case Action::kGhost:
      return MakeGhost(step, terms);
    case Action::kDropGhost:
      return DropGhost(step);
    case Action::kRestore:
      RETURN_IF_ERROR(limits_.Restore(step.component));
      host_.Event(step.component, "loop-restored", step.reason);
      return absl::OkStatus();
    case Action::kPageOut:
    case Action::kDegrade: {
      const std::string cgroup = parts_.cgroup(step.component);
      if (cgroup.empty()) return absl::NotFoundError("it is not here any more");
      const bool pages = step.action == Action::kPageOut;
      RETURN_IF_ERROR(pages ? Limits::PageOut(cgroup, step.amount[reservations::Resource::kMemory])
                            : limits_.Degrade(step.component, cgroup));
      host_.Event(step.component, pages ? "loop-paged-out" : "loop-degraded", step.reason);
      return absl::OkStatus();
    }
    case Action::kShrink:
    case Action::kPark:
    case Action::kWake:
      return parts_.rest(step);
    case Action::kLimits: {
      const std::string cgroup = parts_.cgroup(step.component);
      if (cgroup.empty()) return absl::NotFoundError("it is not here any more");
      RETURN_IF_ERROR(limits_.Fit(step.component, cgroup,
                                  {step.amount[reservations::Resource::kCpu],
                                   step.amount[reservations::Resource::kMemory], step.weight}));
      host_.Event(step.component, "loop-limits", step.reason);
      return absl::OkStatus();
    }
    case Action::kProcessors: {
      const std::string cgroup = parts_.cgroup(step.component);
      if (cgroup.empty()) return absl::NotFoundError("it is not here any more");
      const std::string processors = parts_.processors(step.group);
      RETURN_IF_ERROR(limits_.Confine(step.component, cgroup, processors));
      host_.Event(step.component, "loop-processors",
                  absl::StrCat("to processors ", processors, ": ", step.reason));
      return absl::OkStatus();
    }
  }
  return absl::OkStatus();
}

absl::Status Actor::Move(const Step& step) {
  v1::MigrateRequest request;
  request.set_name(step.component);
  request.set_to(step.host);
  request.set_park(step.park);
  host_.Event(step.component, "loop-migrate",
              absl::StrCat("to host ", step.host, ": ", step.reason));
  const IdleMove idle{parts_.activities(step.component), Clock::now()};
  ASSIGN_OR_RETURN(std::shared_ptr<migration::ProgressBoard> board, agent_.Migrate(request));
  if (step.while_idle) idle_moves_[step.component] = idle;
  std::lock_guard lock(mutex_);
  moves_[step.component] = std::move(board);
  return absl::OkStatus();
}

absl::Status Actor::AskForLease(const Step& step, const Terms& terms) {
  ASSIGN_OR_RETURN(const std::shared_ptr<agent::PeerClient> peer, agent_.Peer(step.host));
  const auto stub = v1::LoopPeer::NewStub(peer->channel());
  grpc::ClientContext context;
  SetDeadline(context, host_.config.migration.peer_timeout);
  v1::LeaseResponse answer;
  const std::string id = reservations::LeaseId(host_.config.host, step.component);
  if (!step.lease.empty()) {
    v1::RenewLeaseRequest renew;
    renew.set_host(host_.config.host);
    renew.set_id(step.lease);
    renew.set_length_s(Seconds(terms.length));
    *renew.mutable_amount() = ToMessage(step.amount);
    return Annotate(FromGrpc(stub->RenewLease(&context, renew, &answer)),
                    absl::StrCat("host ", step.host));
  }
  v1::AskLeaseRequest ask;
  ask.set_host(host_.config.host);
  ask.set_length_s(Seconds(terms.length));
  v1::LeaseInfo& lease = *ask.mutable_lease();
  lease.set_id(id);
  lease.set_component(step.component);
  lease.set_priority(terms.priority);
  lease.set_kind(std::string(reservations::Name(reservations::Kind::kSoft)));
  *lease.mutable_amount() = ToMessage(step.amount);
  for (std::string& file : MappedFiles(parts_.cgroup(step.component), kMostFiles)) {
    ask.add_files(std::move(file));
  }
  RETURN_IF_ERROR(
      Annotate(FromGrpc(stub->AskLease(&context, ask, &answer)), absl::StrCat("host ", step.host)));
  host_.Event(step.component, "loop-reserved",
              absl::StrCat(reservations::Show(FromMessage(answer.lease().amount())), " on host ",
                           step.host, ": ", step.reason));
  return absl::OkStatus();
}

absl::Status Actor::MakeGhost(const Step& step, const Terms& terms) {
  v1::GhostWish wish;
  wish.set_component(step.component);
  wish.set_on(step.host);
  wish.set_warm(true);
  wish.set_rate_bytes_per_s(step.bytes_per_s);
  wish.set_every_s(terms.every_s);
  wish.set_by_loop(true);
  RETURN_IF_ERROR(agent_.AddGhost(std::move(wish)).status());
  host_.Event(
      step.component, "loop-ghost",
      absl::StrCat("on host ", step.host, ", at most ",
                   FormatBytes(static_cast<uint64_t>(step.bytes_per_s)), "/s: ", step.reason));
  return absl::OkStatus();
}

absl::Status Actor::DropGhost(const Step& step) {
  const bool kept = step.host == host_.config.host;
  const absl::Status dropped = kept ? agent_.EndKeptGhost(step.component, step.reason)
                                    : agent_.DropGhost(step.component, step.host);
  // It went by itself.
  if (absl::IsNotFound(dropped)) return absl::OkStatus();
  RETURN_IF_ERROR(dropped);
  host_.Event(step.component, "loop-dropped-ghost",
              absl::StrCat(kept ? "the one kept on host " : "the one on host ", step.host, ": ",
                           step.reason));
  return absl::OkStatus();
}

absl::Status Actor::GiveBack(const Step& step) {
  ASSIGN_OR_RETURN(const std::shared_ptr<agent::PeerClient> peer, agent_.Peer(step.host));
  const auto stub = v1::LoopPeer::NewStub(peer->channel());
  grpc::ClientContext context;
  SetDeadline(context, host_.config.migration.peer_timeout);
  v1::GiveBackLeaseRequest request;
  request.set_host(host_.config.host);
  request.set_id(step.lease);
  v1::GiveBackLeaseResponse answer;
  const absl::Status given = FromGrpc(stub->GiveBackLease(&context, request, &answer));
  // It went with its component, which runs there now.
  if (absl::IsPermissionDenied(given)) return absl::OkStatus();
  // One that ended by itself is given back.
  if (!given.ok() && !absl::IsNotFound(given)) {
    return Annotate(given, absl::StrCat("host ", step.host));
  }
  host_.Event(step.component, "loop-gave-back",
              absl::StrCat("its room on host ", step.host, ": ", step.reason));
  parts_.in_vain();
  return absl::OkStatus();
}

}  // namespace starling::loop
