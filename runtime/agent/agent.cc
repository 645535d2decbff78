#include "runtime/agent/agent.h"

#include <sys/random.h>

#include <algorithm>
#include <ctime>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/agent/preflight.h"
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
  char bytes[8];
  if (::getrandom(bytes, sizeof(bytes), 0) != static_cast<ssize_t>(sizeof(bytes)))
    return ErrnoStatus("make an id");
  return absl::BytesToHexString(absl::string_view(bytes, sizeof(bytes)));
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

}  // namespace

Agent::Agent(Host& host, migration::Targets& targets) : host_(host), targets_(targets) {
  for (const PeerConfig& peer : host.config.peers) {
    peers_[peer.name] = std::make_shared<PeerClient>(peer.name, peer.address);
  }
}

Agent::~Agent() {
  Detach();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return threads_ == 0; });
}

void Agent::Detach() {
  std::lock_guard lock(mutex_);
  for (auto& [name, migration] : moving_) migration->Detach();
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
  spec.set_mac(MakeMac(spec.name(), spec.ip()));
  ASSIGN_OR_RETURN(const ComponentTable::Claim claim,
                   host_.components->Take(spec.name(), "it is being started"));
  if (host_.components->Find(spec.name()) != nullptr) {
    return absl::AlreadyExistsError(
        absl::StrCat("component ", spec.name(), " runs on host ", host_.config.host, " already"));
  }
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
  ASSIGN_OR_RETURN(const std::vector<ComponentRow> rows, host_.journal.ListComponents());
  for (const ComponentRow& row : rows) *response.add_components() = Describe(row);
  // What is arriving has no row of its own before it is committed.
  ASSIGN_OR_RETURN(const std::vector<MigrationRow> migrations, host_.journal.ListMigrations(true));
  for (const MigrationRow& migration : migrations) {
    if (migration.role != MigrationRole::kTarget || migration.state == MigrationState::kCommitted ||
        migration.state == MigrationState::kAborted) {
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

absl::StatusOr<v1::CheckResponse> Agent::Check(const std::string& name, const std::string& to) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Copy> copy, Living(name));
  ASSIGN_OR_RETURN(const std::shared_ptr<PeerClient> peer, Peer(to));
  ASSIGN_OR_RETURN(const ComponentRow row, host_.journal.GetComponent(name));
  return Preflight(host_, name, *copy, row, *peer);
}

absl::StatusOr<std::shared_ptr<ProgressBoard>> Agent::Migrate(const v1::MigrateRequest& request) {
  const std::string& name = request.name();
  ASSIGN_OR_RETURN(const std::shared_ptr<PeerClient> peer, Peer(request.to()));
  ASSIGN_OR_RETURN(std::shared_ptr<Copy> copy, Living(name));
  ASSIGN_OR_RETURN(
      ComponentTable::Claim claim,
      host_.components->Take(name, absl::StrCat("it is being migrated to host ", request.to())));
  // It may have ended, or left, while this call waited.
  ASSIGN_OR_RETURN(copy, Living(name));
  ASSIGN_OR_RETURN(const ComponentRow component, host_.journal.GetComponent(name));
  ASSIGN_OR_RETURN(const v1::CheckResponse check, Preflight(host_, name, *copy, component, *peer));
  if (check.obstacles_size() > 0) {
    std::string all =
        absl::StrCat("component ", name, " cannot be moved to host ", request.to(), ":");
    for (const v1::Obstacle& obstacle : check.obstacles()) {
      const std::string what = absl::StrCat(obstacle.thing(), ": ", obstacle.reason());
      absl::StrAppend(&all, "\n  ", OneLine(what), " [", obstacle.code(), "]\n    ",
                      OneLine(obstacle.mend()));
    }
    return absl::FailedPreconditionError(all);
  }
  MigrationRow row;
  ASSIGN_OR_RETURN(row.id, NewId());
  row.role = MigrationRole::kSource;
  row.component = name;
  row.peer = peer->name();
  row.peer_address = peer->address();
  row.state = MigrationState::kReserving;
  row.epoch = component.epoch;
  row.spec = component.spec;
  RETURN_IF_ERROR(host_.journal.Begin(row));
  auto migration = std::make_shared<SourceMigration>(host_, peer, copy, row, request);
  std::shared_ptr<ProgressBoard> board = migration->shared_board();
  StartMigration(std::move(migration), std::move(claim), /*resume=*/false);
  return board;
}

void Agent::StartMigration(std::shared_ptr<SourceMigration> migration, ComponentTable::Claim claim,
                           bool resume) {
  std::lock_guard lock(mutex_);
  const std::string name = migration->board().Latest().component();
  moving_[name] = migration;
  ++threads_;
  std::thread([this, name, migration = std::move(migration), claim = std::move(claim),
               resume]() mutable {
    const absl::Status status = resume ? migration->Resume() : migration->Run();
    if (!status.ok())
      spdlog::warn("migration {} of {}: {}", migration->id(), name, status.ToString());
    std::lock_guard lock(mutex_);
    moving_.erase(name);
    claim.Release();
    --threads_;
    changed_.notify_all();
  }).detach();
}

absl::Status Agent::Cancel(const std::string& name) {
  RETURN_IF_ERROR(CheckComponentName(name));
  std::shared_ptr<SourceMigration> migration;
  {
    std::lock_guard lock(mutex_);
    if (const auto found = moving_.find(name); found != moving_.end()) migration = found->second;
  }
  if (migration != nullptr) return migration->Cancel("cancelled by a person");
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

v1::InfoResponse Agent::Info() const {
  v1::InfoResponse info;
  info.set_host(host_.config.host);
  info.set_version(host_.version);
  info.set_protocol(kProtocol);
  info.set_kernel(host_.kernel);
  info.set_criu(host_.criu.ok() ? checkpoint::FormatCriuVersion(host_.criu->version) : "");
  for (const PeerConfig& peer : host_.config.peers) info.add_peers(peer.name);
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
  return hello;
}

absl::StatusOr<v1::ExamineResponse> Agent::Examine(const v1::ExamineRequest& request) {
  RETURN_IF_ERROR(CheckComponentName(request.spec().name()));
  if (host_.fabric == nullptr) return host_.fabric_error;
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
  const preflight::HostFacts facts = preflight::GatherHost(request, options);
  v1::ExamineResponse response;
  for (v1::Obstacle& obstacle : preflight::CheckTarget(request, facts))
    *response.add_obstacles() = std::move(obstacle);
  return response;
}

absl::Status Agent::Recover() {
  ASSIGN_OR_RETURN(const std::vector<ComponentRow> rows, host_.journal.ListComponents());
  std::map<std::string, ComponentRow> known;
  for (const ComponentRow& row : rows) known[row.spec.name()] = row;
  ASSIGN_OR_RETURN(const std::vector<MigrationRow> migrations,
                   host_.journal.ListMigrations(/*unsettled_only=*/true));
  std::map<std::string, MigrationRow> leaving;
  std::set<std::string> arriving;
  for (const MigrationRow& row : migrations) {
    if (row.role == MigrationRole::kSource) leaving[row.component] = row;
    if (row.role == MigrationRole::kTarget) arriving.insert(row.id);
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
  for (const auto& [name, row] : leaving) {
    std::shared_ptr<Copy> copy = host_.components->Find(name);
    if (copy == nullptr) {
      copy = std::make_shared<Copy>(name, keeper::KeeperSocket(host_.config.run_dir, name, ""));
    }
    std::shared_ptr<PeerClient> peer;
    if (const auto found = peers_.find(row.peer); found != peers_.end()) peer = found->second;
    // A peer that is no longer configured is asked at the address it had.
    if (peer == nullptr) peer = std::make_shared<PeerClient>(row.peer, row.peer_address);
    ASSIGN_OR_RETURN(ComponentTable::Claim claim,
                     host_.components->Take(name, "its migration is being settled"));
    v1::MigrateRequest request;
    request.set_name(name);
    request.set_to(row.peer);
    StartMigration(std::make_shared<SourceMigration>(host_, peer, copy, row, request),
                   std::move(claim), /*resume=*/true);
  }
  return absl::OkStatus();
}

}  // namespace starling::agent
