#include "runtime/agent/agent.h"

#include <algorithm>
#include <ctime>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/status.h"
#include "base/units.h"
#include "runtime/agent/preflight.h"
#include "runtime/checkpoints/restorer.h"
#include "runtime/checkpoints/taker.h"
#include "runtime/keeper_client.h"
#include "runtime/migration/make_source.h"
#include "runtime/names.h"
#include "runtime/preflight/host_facts.h"
#include "runtime/preflight/target_check.h"
#include "runtime/spec.h"

namespace starling::agent {

using migration::ProgressBoard;
using migration::SourceMigration;

namespace {

constexpr auto kKeeperTimeout = std::chrono::seconds(10);
// For a listing a keeper is not waited for longer than a person would.
constexpr auto kLookTimeout = std::chrono::seconds(1);
constexpr auto kDestroyTimeout = std::chrono::seconds(30);
constexpr double kDefaultGrace = 10;

double Now() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

absl::StatusOr<std::string> NewId() {
  ASSIGN_OR_RETURN(const std::string bytes, RandomBytes(8));
  return absl::BytesToHexString(bytes);
}

uint64_t ReadNumber(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  return text.ok() ? std::strtoull(text->c_str(), nullptr, 10) : 0;
}

absl::Status NoSuchComponent(const std::string& name, const std::string& host) {
  return absl::NotFoundError(absl::StrCat("host ", host, " has no component named ", name,
                                          ": `starling ps` lists those it has"));
}

// A file may have a line break in its name.
std::string OneLine(absl::string_view text) { return absl::StrReplaceAll(text, {{"\n", "?"}}); }

// OK without obstacles; else all of them in one error.
template <typename Obstacles>
absl::Status Refusal(std::string all, const Obstacles& obstacles) {
  if (obstacles.empty()) return absl::OkStatus();
  for (const v1::Obstacle& obstacle : obstacles) {
    const std::string what = absl::StrCat(obstacle.thing(), ": ", obstacle.reason());
    absl::StrAppend(&all, "\n  ", OneLine(what), " [", obstacle.code(), "]\n    ",
                    OneLine(obstacle.mend()));
  }
  return absl::FailedPreconditionError(all);
}

}  // namespace

Agent::Agent(Host& host, migration::Targets& targets) : host_(host), targets_(targets) {
  for (const PeerConfig& peer : host.config.peers) {
    peers_[peer.name] =
        std::make_shared<PeerClient>(peer.name, peer.address, host.security->channel());
  }
  ghosts_ = std::make_unique<ghosts::Ghosts>(
      host, [this](const std::string& name) { return Peer(name); },
      [this](const std::string& component, const std::string& at, uint64_t epoch) {
        FailedOver(component, at, epoch);
      });
}

Agent::~Agent() {
  ghosts_.reset();
  Detach();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return threads_ == 0; });
}

void Agent::Detach() {
  std::lock_guard lock(mutex_);
  for (auto& [name, migration] : moving_) migration->Detach();
  for (const auto& migration : draining_) migration->Detach();
}

bool Agent::Draining() {
  std::lock_guard lock(mutex_);
  return !draining_.empty();
}

absl::StatusOr<std::shared_ptr<PeerClient>> Agent::Peer(const std::string& name) {
  if (name == host_.config.host) {
    return absl::InvalidArgumentError(
        absl::StrCat("host ", name, " is this host: choose another one"));
  }
  std::lock_guard lock(mutex_);
  const auto found = peers_.find(name);
  if (found == peers_.end()) {
    std::vector<std::string> known;
    for (const auto& [peer, client] : peers_) known.push_back(peer);
    return absl::NotFoundError(
        absl::StrCat("host ", name, " is not a peer of ", host_.config.host,
                     " (peers: ", known.empty() ? "none" : absl::StrJoin(known, ", "),
                     "): add a [[peer]] to its configuration"));
  }
  return found->second;
}

absl::StatusOr<std::shared_ptr<Copy>> Agent::Living(const std::string& name) {
  RETURN_IF_ERROR(CheckComponentName(name));
  std::shared_ptr<Copy> copy = host_.components->Find(name);
  if (copy != nullptr) return copy;
  const absl::StatusOr<ComponentRow> row = host_.journal.GetComponent(name);
  if (!row.ok())
    return absl::IsNotFound(row.status()) ? NoSuchComponent(name, host_.config.host) : row.status();
  switch (row->state) {
    case v1::LEFT:
      return absl::NotFoundError(
          absl::StrCat("component ", name, " has left for host ", row->where, ": ask there"));
    case v1::EXITED:
      return absl::NotFoundError(
          absl::StrCat("component ", name, " has ended with status ", row->exit_status));
    default:
      return absl::NotFoundError(absl::StrCat("component ", name, " does not run on host ",
                                              host_.config.host, " (",
                                              v1::ComponentState_Name(row->state), ")"));
  }
}

absl::StatusOr<v1::Component> Agent::Run(v1::ComponentSpec spec) {
  RETURN_IF_ERROR(CheckSpec(spec));
  if (!spec.ip().empty() && host_.config.network.parent.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("host ", host_.config.host,
                     " gives components no addresses of their own: "
                     "set network.parent in its configuration, or run without --ip"));
  }
  if (spec.io_max_bytes_per_s() != 0 && !host_.config.loop.enabled) {
    return absl::FailedPreconditionError(absl::StrCat(
        "host ", host_.config.host,
        " holds no component to --io-max: loop.enabled is false in its configuration"));
  }
  spec.set_mac(MakeMac(spec.name(), spec.ip()));
  ASSIGN_OR_RETURN(const ComponentTable::Claim claim,
                   host_.components->Take(spec.name(), "it is being started"));
  if (host_.components->Find(spec.name()) != nullptr) {
    return absl::AlreadyExistsError(
        absl::StrCat("component ", spec.name(), " runs on host ", host_.config.host, " already"));
  }
  RETURN_IF_ERROR(ghosts_->MayRun(spec.name()));
  ComponentRow row;
  const absl::StatusOr<ComponentRow> old = host_.journal.GetComponent(spec.name());
  // A name that has been used goes on counting, so that no older copy elsewhere can pass for this
  // one.
  if (old.ok()) row.epoch = old->epoch + 1;
  row.spec = spec;
  row.state = v1::RUNNING;
  row.since = Now();
  RETURN_IF_ERROR(host_.journal.PutComponent(row));
  keeper::StartKeeperOptions options = KeeperOptions(host_.config);
  options.spec = spec;
  // Where it may tell what it knows of itself. Not part of what it was asked to be: what a person
  // has set stays.
  const auto named = [](const std::string& entry) {
    return absl::StartsWith(entry, "STARLING_HINTS=");
  };
  if (std::none_of(spec.environment().begin(), spec.environment().end(), named)) {
    options.spec.add_environment(
        absl::StrCat("STARLING_HINTS=", host_.config.HintsPath(), "/", spec.name()));
  }
  options.epoch = row.epoch;
  const absl::StatusOr<std::string> socket =
      keeper::StartKeeper(options, Deadline::After(kDestroyTimeout));
  absl::Status status = socket.status();
  std::shared_ptr<Copy> copy;
  if (status.ok()) {
    copy = std::make_shared<Copy>(spec.name(), *socket);
    keeper::v1::Request launch;
    launch.mutable_launch();
    status = copy->Call(launch, Deadline::After(kDestroyTimeout)).status();
    if (!status.ok()) (void)copy->Destroy(Deadline::After(kDestroyTimeout));
  }
  if (!status.ok()) {
    // Its name was used before: what is known of that, its epoch above all, is put back.
    (void)host_.journal.ForgetComponent(spec.name());
    if (old.ok()) (void)host_.journal.PutComponent(*old);
    status = Annotate(status, absl::StrCat("start component ", spec.name()));
    // A program or folder that is missing or may not be used is a wrong argument: "not found" and
    // "not permitted" are kept for components, hosts and callers.
    if (absl::IsNotFound(status) || absl::IsPermissionDenied(status))
      return absl::InvalidArgumentError(status.message());
    return status;
  }
  host_.components->Add(copy);
  host_.Event(spec.name(), "started", absl::StrJoin(spec.command(), " "));
  return Described(spec.name());
}

v1::Component Agent::Describe(const ComponentRow& row) {
  v1::Component component;
  *component.mutable_spec() = row.spec;
  component.set_state(row.state);
  component.set_epoch(row.epoch);
  component.set_exit_status(row.exit_status);
  component.set_where(row.where);
  component.set_migration_id(row.migration_id);
  const std::shared_ptr<Copy> copy = host_.components->Find(row.spec.name());
  if (copy == nullptr) return component;
  component.set_up_s(std::max(0.0, Now() - row.since));
  {
    std::lock_guard lock(mutex_);
    if (const auto moving = moving_.find(row.spec.name()); moving != moving_.end()) {
      const v1::MigrationProgress progress = moving->second->board().Latest();
      component.set_migration_id(moving->second->id());
      component.set_where(progress.to());
      component.set_state(moving->second->in_doubt() ? v1::IN_DOUBT
                          : progress.step() >= v1::FREEZE && progress.step() <= v1::COMMIT
                              ? v1::HELD
                              : v1::MIGRATING);
    }
  }
  const absl::StatusOr<keeper::v1::Status> status = copy->Status(Deadline::After(kLookTimeout));
  if (!status.ok()) return component;
  if (component.state() == v1::RUNNING && host_.parked && host_.parked(row.spec.name())) {
    component.set_state(v1::PARKED);
  }
  component.set_bytes_away(status->pages_away() * checkpoint::kPageSize);
  component.set_memory_bytes(ReadNumber(absl::StrCat(status->cgroup(), "/memory.current")));
  const absl::StatusOr<std::string> processes =
      ReadFile(absl::StrCat(status->cgroup(), "/cgroup.procs"));
  if (processes.ok()) {
    component.set_processes(
        static_cast<uint32_t>(std::count(processes->begin(), processes->end(), '\n')));
  }
  return component;
}

absl::StatusOr<v1::Component> Agent::Described(const std::string& name) {
  ASSIGN_OR_RETURN(const ComponentRow row, host_.journal.GetComponent(name));
  return Describe(row);
}

absl::StatusOr<v1::ListResponse> Agent::List() {
  v1::ListResponse response;
  response.set_host(host_.config.host);
  response.set_insecure(host_.security->insecure());
  ASSIGN_OR_RETURN(const std::vector<ComponentRow> rows, host_.journal.ListComponents());
  for (const ComponentRow& row : rows) *response.add_components() = Describe(row);
  // What is arriving has no row of its own before it is committed.
  ASSIGN_OR_RETURN(const std::vector<MigrationRow> migrations, host_.journal.ListMigrations(true));
  for (const MigrationRow& migration : migrations) {
    if (migration.role != MigrationRole::kTarget || migration.state == MigrationState::kCommitted ||
        migration.state == MigrationState::kAborted || targets_.IsGhost(migration.id)) {
      continue;
    }
    v1::Component* component = response.add_components();
    *component->mutable_spec() = migration.spec;
    component->set_state(v1::ARRIVING);
    component->set_epoch(migration.epoch);
    component->set_where(migration.peer);
    component->set_migration_id(migration.id);
  }
  return response;
}

absl::StatusOr<v1::CheckResponse> Agent::Check(const std::string& name, const std::string& to,
                                               const std::string& transport) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Copy> copy, Living(name));
  ASSIGN_OR_RETURN(const std::shared_ptr<PeerClient> peer, Peer(to));
  ASSIGN_OR_RETURN(const ComponentRow row, host_.journal.GetComponent(name));
  return Preflight(host_, *copy, row, *peer, transport);
}

absl::StatusOr<std::shared_ptr<ProgressBoard>> Agent::Migrate(const v1::MigrateRequest& request) {
  const std::string& name = request.name();
  RETURN_IF_ERROR(CheckProbe({request.probe(), request.probe_timeout_s()}));
  if (request.post_copy() && request.eager()) {
    return absl::InvalidArgumentError(
        "post_copy leaves memory behind at the freeze, and eager has all of it in place before the "
        "component runs: choose one of them");
  }
  ASSIGN_OR_RETURN(const std::shared_ptr<PeerClient> peer, Peer(request.to()));
  ASSIGN_OR_RETURN(std::shared_ptr<Copy> copy, Living(name));
  ASSIGN_OR_RETURN(
      ComponentTable::Claim claim,
      host_.components->Take(name, absl::StrCat("it is being migrated to host ", request.to())));
  // It may have ended, or left, while this call waited.
  ASSIGN_OR_RETURN(copy, Living(name));
  RETURN_IF_ERROR(host_.Wake(name));
  ASSIGN_OR_RETURN(const ComponentRow component, host_.journal.GetComponent(name));
  ASSIGN_OR_RETURN(const v1::CheckResponse check,
                   Preflight(host_, *copy, component, *peer, request.transport()));
  RETURN_IF_ERROR(
      Refusal(absl::StrCat("component ", name, " cannot be moved to host ", request.to(), ":"),
              check.obstacles()));
  ghosts::Ghosts::Quiet quiet = ghosts_->Hush(name);
  ASSIGN_OR_RETURN(std::shared_ptr<SourceMigration> migration,
                   ghosts_->Take(quiet, request.to(), request.transport()));
  quiet.TrackerUsed();
  MigrationRow row;
  if (migration != nullptr) {
    row.id = migration->id();
  } else {
    ASSIGN_OR_RETURN(row.id, NewId());
  }
  row.role = MigrationRole::kSource;
  row.component = name;
  row.peer = peer->name();
  row.peer_address = peer->address();
  row.state = MigrationState::kReserving;
  row.epoch = component.epoch;
  row.spec = component.spec;
  if (const absl::Status begun = host_.journal.Begin(row); !begun.ok()) {
    if (migration != nullptr) migration->EndGhost();
    return begun;
  }
  if (migration != nullptr) {
    migration->Adopt(request);
  } else {
    migration = std::make_shared<SourceMigration>(host_, peer, copy, row, request);
  }
  std::shared_ptr<ProgressBoard> board = migration->shared_board();
  StartMigration(std::move(migration), std::move(claim), std::move(quiet), /*resume=*/false);
  return board;
}

void Agent::StartMigration(std::shared_ptr<SourceMigration> migration, ComponentTable::Claim claim,
                           ghosts::Ghosts::Quiet quiet, bool resume) {
  std::lock_guard lock(mutex_);
  const std::string name = migration->board().Latest().component();
  moving_[name] = migration;
  ++threads_;
  std::thread([this, name, migration = std::move(migration), claim = std::move(claim),
               quiet = std::move(quiet), resume]() mutable {
    const absl::Status status = resume ? migration->Resume() : migration->Run();
    if (!status.ok())
      spdlog::warn("migration {} of {}: {}", migration->id(), name, status.ToString());
    if (const auto row = host_.journal.GetComponent(name); row.ok() && row->state == v1::LEFT) {
      ghosts_->Left(name, row->where);
    }
    quiet.End();
    {
      std::lock_guard lock(mutex_);
      moving_.erase(name);
      draining_.insert(migration);
      claim.Release();
    }
    // The component has left; its name may be used again.
    migration->Drain();
    {
      std::lock_guard lock(mutex_);
      draining_.erase(migration);
    }
    migration.reset();
    GiveMemoryBack();
    std::lock_guard lock(mutex_);
    --threads_;
    changed_.notify_all();
  }).detach();
}

std::set<std::string> Agent::Moving() const {
  std::lock_guard lock(mutex_);
  std::set<std::string> names;
  for (const auto& [name, migration] : moving_) names.insert(name);
  return names;
}

absl::Status Agent::Cancel(const std::string& name, absl::string_view why) {
  RETURN_IF_ERROR(CheckComponentName(name));
  std::shared_ptr<SourceMigration> migration;
  {
    std::lock_guard lock(mutex_);
    if (const auto found = moving_.find(name); found != moving_.end()) migration = found->second;
  }
  if (migration != nullptr) return migration->Cancel(why);
  RETURN_IF_ERROR(Living(name).status());
  return absl::FailedPreconditionError(
      absl::StrCat("component ", name, " is not being migrated: there is nothing to cancel"));
}

absl::StatusOr<v1::Component> Agent::Resolve(const std::string& name, bool here) {
  RETURN_IF_ERROR(CheckComponentName(name));
  std::shared_ptr<SourceMigration> migration;
  {
    std::lock_guard lock(mutex_);
    if (const auto found = moving_.find(name); found != moving_.end()) migration = found->second;
  }
  if (migration == nullptr) {
    const absl::Status resolved = targets_.Resolve(name, here);
    if (absl::IsNotFound(resolved)) {
      RETURN_IF_ERROR(Living(name).status());
      return absl::FailedPreconditionError(resolved.message());
    }
    RETURN_IF_ERROR(resolved);
    const absl::StatusOr<v1::Component> component = Described(name);
    return component.ok() ? *component : v1::Component();
  }
  RETURN_IF_ERROR(migration->Resolve(here));
  migration->board().WaitFinished();
  return Described(name);
}

absl::StatusOr<v1::Component> Agent::Stop(const std::string& name, double grace_s) {
  ASSIGN_OR_RETURN(std::shared_ptr<Copy> copy, Living(name));
  ASSIGN_OR_RETURN(const ComponentTable::Claim claim,
                   host_.components->Take(name, "it is being stopped"));
  RETURN_IF_ERROR(host_.Wake(name));
  // A keeper that dumps for an instant stops nothing.
  const ghosts::Ghosts::Quiet quiet = ghosts_->Hush(name);
  ASSIGN_OR_RETURN(copy, Living(name));
  const double grace = grace_s > 0 ? grace_s : kDefaultGrace;
  keeper::v1::Request stop;
  stop.mutable_stop()->set_grace_s(grace);
  const auto allowed = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(grace));
  host_.components->Remove(name);
  const auto reply = copy->Call(stop, Deadline::After(allowed + kDestroyTimeout));
  if (!reply.ok() && !absl::IsUnavailable(reply.status())) {
    host_.components->Add(copy);
    return reply.status();
  }
  OnExit(copy, reply.ok() ? absl::StatusOr<keeper::v1::Status>(reply->status()) : reply.status());
  return Described(name);
}

void Agent::OnExit(const std::shared_ptr<Copy>& copy,
                   const absl::StatusOr<keeper::v1::Status>& status) {
  const std::string& name = copy->name();
  host_.components->Remove(name);
  absl::StatusOr<ComponentRow> row = host_.journal.GetComponent(name);
  if (!row.ok()) return;
  row->state = status.ok() ? v1::EXITED : v1::LOST;
  row->exit_status = status.ok() ? status->exit_status() : 0;
  row->migration_id.clear();
  const absl::Status kept = host_.journal.PutComponent(*row);
  ghosts_->Ended(name, /*lost=*/!status.ok());
  if (!kept.ok()) spdlog::error("component {}: {}", name, kept.ToString());
  if (status.ok()) {
    host_.Event(name, "exited", absl::StrCat("with status ", status->exit_status()));
    const absl::Status removed = copy->Destroy(Deadline::After(kDestroyTimeout));
    if (!removed.ok()) host_.Event(name, "cleanup-failed", removed.message());
  } else {
    host_.Event(
        name, "lost",
        absl::StrCat("its keeper is gone, and the component with it: ", status.status().message()));
  }
}

// A component that is held and does not move was held for a checkpoint, or restored from one, by an
// agent that is gone.
void Agent::LetRunAgain(const Copy& copy, const keeper::v1::Status& status) {
  const bool busy = status.phase() == keeper::v1::Status::BUSY;
  if (!status.frozen() && !status.fenced() && !busy) return;
  absl::Status running = copy.CancelCriu(Deadline::After(kKeeperTimeout));
  running.Update(copy.FenceDown(Deadline::After(kKeeperTimeout)));
  running.Update(copy.Thaw(Deadline::After(kKeeperTimeout)));
  if (!running.ok()) {
    host_.Event(copy.name(), "thaw-failed", running.message());
    return;
  }
  host_.Event(copy.name(), "runs-on", "it was held when the agent was restarted");
}

v1::InfoResponse Agent::Info() const {
  v1::InfoResponse info;
  info.set_host(host_.config.host);
  info.set_version(host_.version);
  info.set_protocol(kProtocol);
  info.set_kernel(host_.kernel);
  info.set_criu(host_.criu.ok() ? checkpoint::FormatCriuVersion(host_.criu->version) : "");
  for (const PeerConfig& peer : host_.config.peers) info.add_peers(peer.name);
  if (host_.fabric != nullptr) info.add_providers(host_.fabric->name());
  for (const auto& [name, fabric] : host_.fabrics) {
    if (fabric != host_.fabric) info.add_providers(name);
  }
  for (const auto& [name, why] : host_.closed_fabrics)
    (*info.mutable_closed_providers())[name] = std::string(why.message());
  info.set_insecure(host_.security->insecure());
  info.set_certificate_ends(host_.security->certificate_ends());
  for (const auto& [kind, count] : host_.security->refusals().counts())
    (*info.mutable_refusals())[kind] = count;
  return info;
}

v1::HelloResponse Agent::Hello() const {
  v1::HelloResponse hello;
  hello.set_protocol(kProtocol);
  hello.set_host(host_.config.host);
  hello.set_version(host_.version);
  hello.set_kernel(host_.kernel);
  hello.set_criu(host_.criu.ok() ? checkpoint::FormatCriuVersion(host_.criu->version) : "");
  for (const std::string& flag : preflight::CpuFlags()) hello.add_cpu_flags(flag);
  hello.set_log_dir(host_.config.log_dir);
  hello.set_run_dir(host_.config.run_dir);
  hello.set_provider(host_.fabric != nullptr ? host_.fabric->name() : "");
  for (const auto& [name, fabric] : host_.fabrics) hello.add_providers(name);
  for (const auto& [name, why] : host_.closed_fabrics)
    (*hello.mutable_closed_providers())[name] = std::string(why.message());
  return hello;
}

absl::StatusOr<v1::ExamineResponse> Agent::Examine(const v1::ExamineRequest& request) {
  RETURN_IF_ERROR(CheckComponentName(request.spec().name()));
  v1::ExamineResponse response;
  // Room that its ghost has here already is not needed again.
  v1::ExamineRequest needs = request;
  needs.set_memory_bytes(
      request.memory_bytes() -
      std::min(request.memory_bytes(), targets_.GhostBytes(request.spec().name())));
  for (v1::Obstacle& obstacle : ExamineHere(needs)) *response.add_obstacles() = std::move(obstacle);
  return response;
}

std::vector<v1::Obstacle> Agent::ExamineHere(const v1::ExamineRequest& request) const {
  preflight::HostOptions options;
  options.host = host_.config.host;
  options.protocol = kProtocol;
  if (host_.criu.ok()) {
    options.criu = checkpoint::FormatCriuVersion(host_.criu->version);
  } else {
    options.criu_error = std::string(host_.criu.status().message());
  }
  options.name_taken = host_.components->Find(request.spec().name()) != nullptr;
  options.cgroup_path = "/sys/fs/cgroup";
  options.parent_device = host_.config.network.parent;
  return preflight::CheckTarget(request, preflight::GatherHost(request, options));
}

absl::StatusOr<v1::CheckpointResponse> Agent::Checkpoint(const v1::CheckpointRequest& request) {
  const std::string& name = request.name();
  RETURN_IF_ERROR(Annotate(CheckAbsolutePath(request.folder()), "folder"));
  if (!host_.criu.ok()) return host_.criu.status();
  ASSIGN_OR_RETURN(std::shared_ptr<Copy> copy, Living(name));
  ASSIGN_OR_RETURN(const ComponentTable::Claim claim,
                   host_.components->Take(name, "a checkpoint of it is being taken"));
  // It may have ended, or left, while this call waited.
  ASSIGN_OR_RETURN(copy, Living(name));
  RETURN_IF_ERROR(host_.Wake(name));
  ASSIGN_OR_RETURN(const ComponentRow row, host_.journal.GetComponent(name));
  ASSIGN_OR_RETURN(const keeper::v1::Status status, copy->Status(Deadline::After(kKeeperTimeout)));
  ASSIGN_OR_RETURN(const preflight::ComponentFacts facts, Gather(host_, row.spec, status));
  std::vector<v1::Obstacle> obstacles = preflight::CheckSource(facts);
  for (v1::Obstacle& obstacle : preflight::CheckCheckpoint(facts)) {
    obstacles.push_back(std::move(obstacle));
  }
  RETURN_IF_ERROR(
      Refusal(absl::StrCat("no checkpoint can be taken of component ", name, ":"), obstacles));
  v1::CheckpointAbout about;
  *about.mutable_spec() = row.spec;
  about.set_epoch(row.epoch);
  about.set_host(host_.config.host);
  *about.mutable_needs() = preflight::MakeExamineRequest(facts, ThisHost(host_));
  about.set_log_path(migration::LogPath(host_.config.log_dir, name));
  about.set_connections(preflight::EstablishedConnections(facts));
  ghosts::Ghosts::Quiet quiet = ghosts_->Hush(name);
  quiet.TrackerUsed();
  checkpoints::Taker taker(host_, copy, std::move(about), request);
  const absl::StatusOr<v1::CheckpointResponse> taken = taker.Run();
  if (!taken.ok()) {
    host_.Event(name, "checkpoint-failed", taken.status().message());
    return taken.status();
  }
  host_.Event(name, "checkpoint",
              absl::StrCat(taken->file(), ": ", FormatBytes(taken->bytes_written()), " written of ",
                           FormatBytes(taken->content_bytes()), ", held for ",
                           static_cast<int64_t>(taken->held_s() * 1e3), " ms"));
  return taken;
}

absl::Status Agent::OriginalIsGone(const std::string& name, bool told_so) {
  const absl::StatusOr<ComponentRow> row = host_.journal.GetComponent(name);
  const bool here = host_.components->Find(name) != nullptr ||
                    (row.ok() && (row->state == v1::RUNNING || row->state == v1::ARRIVING));
  if (here) {
    return absl::FailedPreconditionError(
        absl::StrCat("component ", name, " runs on host ", host_.config.host,
                     ", and at any time only one copy may: stop it first"));
  }
  if (row.ok() && row->state == v1::LEFT && !told_so) {
    return absl::FailedPreconditionError(absl::StrCat(
        "component ", name, " has left for host ", row->where,
        " and may run there: stop it there first, or say --original-gone if it never will again"));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::RestoreCheckpointResponse> Agent::RestoreCheckpoint(
    const v1::RestoreCheckpointRequest& request) {
  RETURN_IF_ERROR(Annotate(CheckAbsolutePath(request.folder()), "folder"));
  if (!request.name().empty()) RETURN_IF_ERROR(CheckComponentName(request.name()));
  if (!host_.criu.ok()) return host_.criu.status();
  absl::StatusOr<std::unique_ptr<checkpoints::Restorer>> opened =
      checkpoints::Restorer::Open(host_, request);
  // "Not found" is kept for components and hosts.
  if (absl::IsNotFound(opened.status()))
    return absl::InvalidArgumentError(opened.status().message());
  RETURN_IF_ERROR(opened.status());
  checkpoints::Restorer& restorer = **opened;
  const std::string original = restorer.about().spec().name();
  const v1::ComponentSpec spec = restorer.spec();
  const std::string& name = spec.name();
  ASSIGN_OR_RETURN(const ComponentTable::Claim claim,
                   host_.components->Take(name, "it is being restored from a checkpoint"));
  RETURN_IF_ERROR(OriginalIsGone(original, request.original_gone()));
  if (name != original) RETURN_IF_ERROR(OriginalIsGone(name, /*told_so=*/false));
  if (!spec.ip().empty() && host_.config.network.parent.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("host ", host_.config.host,
                     " gives components no addresses of their own: set network.parent in its "
                     "configuration"));
  }
  v1::ExamineRequest needs = restorer.about().needs();
  *needs.mutable_spec() = spec;
  needs.set_protocol(kProtocol);  // no agent is spoken with
  needs.clear_shipped();          // looked at by the restorer, which knows what is there
  RETURN_IF_ERROR(Refusal(
      absl::StrCat("component ", name, " cannot be restored on host ", host_.config.host, ":"),
      ExamineHere(needs)));
  const absl::StatusOr<ComponentRow> old = host_.journal.GetComponent(name);
  RETURN_IF_ERROR(restorer.CheckPaths(old.ok() ? &old->spec : nullptr));

  // Of a higher epoch than any copy that this host or the checkpoint knows of.
  ComponentRow row;
  row.epoch = std::max(old.ok() ? old->epoch : 0, restorer.about().epoch()) + 1;
  row.spec = spec;
  row.state = v1::RUNNING;
  row.since = Now();
  RETURN_IF_ERROR(host_.journal.PutComponent(row));
  const absl::StatusOr<std::shared_ptr<Copy>> copy = restorer.Restore(row.epoch);
  absl::Status status = copy.status();
  if (status.ok()) status = restorer.Finish();
  if (!status.ok()) {
    opened->reset();  // takes everything back before the journal forgets it
    (void)host_.journal.ForgetComponent(name);
    if (old.ok()) (void)host_.journal.PutComponent(*old);
    return Annotate(status, absl::StrCat("restore component ", name));
  }
  host_.components->Add(*copy);
  host_.Event(name, "restored",
              absl::StrCat("from checkpoint ", restorer.number(), " in ", request.folder()));
  v1::RestoreCheckpointResponse response;
  ASSIGN_OR_RETURN(*response.mutable_component(), Described(name));
  response.set_number(restorer.number());
  response.set_connections(restorer.about().connections());
  response.set_taken(restorer.about().time());
  return response;
}

absl::Status Agent::Recover() {
  // Before any copy runs on that has lost its right to.
  RETURN_IF_ERROR(ghosts_->Recover());
  ASSIGN_OR_RETURN(const std::vector<ComponentRow> rows, host_.journal.ListComponents());
  std::map<std::string, ComponentRow> known;
  for (const ComponentRow& row : rows) known[row.spec.name()] = row;
  ASSIGN_OR_RETURN(const std::vector<MigrationRow> migrations,
                   host_.journal.ListMigrations(/*unsettled_only=*/true));
  std::map<std::string, MigrationRow> leaving;
  std::set<std::string> arriving;
  std::set<std::string> arriving_names;
  for (const MigrationRow& row : migrations) {
    if (row.role == MigrationRole::kSource) leaving[row.component] = row;
    if (row.role == MigrationRole::kTarget) {
      arriving.insert(row.id);
      arriving_names.insert(row.component);
    }
  }
  ASSIGN_OR_RETURN(const std::vector<keeper::KeeperEntry> keepers,
                   keeper::ListKeepers(host_.config.run_dir));
  for (const keeper::KeeperEntry& entry : keepers) {
    // Those of migrations to this host are the targets' business.
    if (!entry.alive || arriving.contains(entry.migration_id)) continue;
    const std::string& name = entry.component;
    auto copy = std::make_shared<Copy>(name, entry.socket_path);
    const absl::StatusOr<keeper::v1::Status> status = copy->Status(Deadline::After(kKeeperTimeout));
    if (!status.ok()) {
      spdlog::warn("keeper {}: {}", entry.socket_path, status.status().ToString());
      continue;
    }
    const auto row = known.find(name);
    const bool ours = row != known.end() && row->second.epoch == status->epoch() &&
                      (row->second.state == v1::RUNNING || leaving.contains(name));
    if (!ours || status->phase() == keeper::v1::Status::EMPTY) {
      host_.Event(name, "removed", "a copy that the journal does not know of");
      (void)copy->Destroy(Deadline::After(kDestroyTimeout));
      continue;
    }
    // The exit of one that ended while no agent was there is seen by the first look of its watcher.
    if (host_.components->Find(name) == nullptr) host_.components->Add(copy);
    spdlog::info("component {}: its keeper was found again", name);
    if (!leaving.contains(name)) LetRunAgain(*copy, *status);
    if (status->pages_away() > 0) {
      ASSIGN_OR_RETURN(const MigrationRow came, host_.journal.GetMigration(status->migration_id()));
      targets_.Fetch(came, copy);
    }
  }
  for (const auto& [name, row] : known) {
    if (row.state != v1::RUNNING || host_.components->Find(name) != nullptr) continue;
    ComponentRow lost = row;
    lost.state = v1::LOST;
    lost.migration_id.clear();
    RETURN_IF_ERROR(host_.journal.PutComponent(lost));
    host_.Event(name, "lost",
                row.boot_id == host_.journal.boot_id()
                    ? "its keeper is gone, and the component with it"
                    : "its host was restarted under it");
  }
  // Files of a restore from a checkpoint that an agent before this one did not finish.
  for (const auto& [name, row] : known) {
    if (arriving_names.contains(name) || leaving.contains(name)) continue;
    const bool lives = host_.components->Find(name) != nullptr;
    const absl::Status settled =
        lives ? migration::Keep(row.spec, /*keep_old=*/true) : migration::TakeBack(row.spec);
    if (!settled.ok()) host_.Event(name, "cleanup-failed", settled.message());
  }
  std::set<std::string> moving;
  for (const auto& [name, row] : leaving) moving.insert(name);
  ghosts_->Start(moving);
  for (const auto& [name, row] : leaving) {
    std::shared_ptr<Copy> copy = host_.components->Find(name);
    if (copy == nullptr) {
      copy = std::make_shared<Copy>(name, keeper::KeeperSocket(host_.config.run_dir, name, ""));
    }
    std::shared_ptr<PeerClient> peer;
    if (const auto found = peers_.find(row.peer); found != peers_.end()) peer = found->second;
    // A peer that is no longer configured is asked at the address it had.
    if (peer == nullptr) {
      peer = std::make_shared<PeerClient>(row.peer, row.peer_address, host_.security->channel());
    }
    ASSIGN_OR_RETURN(ComponentTable::Claim claim,
                     host_.components->Take(name, "its migration is being settled"));
    v1::MigrateRequest request;
    request.set_name(name);
    request.set_to(row.peer);
    StartMigration(std::make_shared<SourceMigration>(host_, peer, copy, row, request),
                   std::move(claim), ghosts_->Hush(name), /*resume=*/true);
  }
  return absl::OkStatus();
}

}  // namespace starling::agent
