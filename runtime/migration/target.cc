#include "runtime/migration/target.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <future>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/status.h"
#include "runtime/keeper/protocol.h"
#include "runtime/keeper_client.h"
#include "runtime/migration/fetch_ends.h"
#include "runtime/migration/offers.h"
#include "runtime/migration/stream_keys.h"
#include "runtime/names.h"
#include "runtime/reservations/lease_desk.h"
#include "runtime/shadow/model_shelf.h"
#include "runtime/spec.h"

namespace starling::migration {
namespace {

constexpr auto kKeeperTimeout = std::chrono::seconds(10);
constexpr auto kDestroyTimeout = std::chrono::seconds(30);
// Data connections that keys are made for: as many as a source may configure.
constexpr uint32_t kKeyedConnections = 16;
// Threads that copy memory images: a copy is bound by memory, two fill it.
constexpr int kImageThreads = 2;
// How long a committed component waits for the word that its source's copy has ended.
constexpr auto kSourceEnds = std::chrono::seconds(3);
// How long a newly prepared host waits for somebody else's claim on the name.
constexpr auto kClaimWait = std::chrono::seconds(1);

v1::VerdictResponse ToResponse(const VerdictRow& row) {
  v1::VerdictResponse response;
  switch (row.state) {
    case MigrationState::kPending:
      response.set_verdict(v1::PENDING);
      break;
    case MigrationState::kPrepared:
      response.set_verdict(v1::PREPARED);
      break;
    case MigrationState::kCommitted:
      response.set_verdict(v1::COMMITTED);
      break;
    case MigrationState::kAborted:
      response.set_verdict(v1::ABORTED);
      break;
    default:
      break;
  }
  response.set_epoch(row.epoch);
  response.set_reason(row.reason);
  return response;
}

absl::Status AppendLog(const std::string& path, absl::string_view tail) {
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(path, O_WRONLY | O_CREAT | O_APPEND, 0640));
  return Annotate(WriteAll(fd.get(), tail.data(), tail.size()), path);
}

}  // namespace

Targets::Targets(agent::Host& host) : host_(host), hold_(host.config.run_dir) {}

Targets::~Targets() {
  leases_ = {};
  accepting_.clear();
  fetches_.clear();
}

absl::Status Targets::Start(TakeOther other) {
  other_ = std::move(other);
  for (const auto& [name, fabric] : host_.fabrics) {
    ASSIGN_OR_RETURN(const Endpoint endpoint, ParseEndpoint(host_.config.DataListen(name)));
    ASSIGN_OR_RETURN(std::unique_ptr<transport::Listener> listening,
                     fabric->Listen(endpoint.address, endpoint.port));
    Accept(std::move(listening), name, /*rail=*/0);
    const std::span<const agent::Rail> further = host_.RailsOf(name);
    std::vector<agent::Rail>& rails = rails_[name];
    rails.assign(further.begin(), further.end());
    for (size_t i = 0; i < rails.size(); ++i) {
      if (rails[i].fabric == nullptr) continue;
      ASSIGN_OR_RETURN(const Endpoint where, ParseEndpoint(rails[i].listen));
      auto at_rail = rails[i].fabric->Listen(where.address, where.port);
      if (at_rail.ok()) {
        Accept(*std::move(at_rail), name, i + 1);
      } else {
        // The others do for it: who cannot reach it is not offered it.
        spdlog::error("rail {}: {}", rails[i].listen, at_rail.status().ToString());
        rails[i].fabric = nullptr;
      }
    }
  }
  leases_ = std::jthread([this](const std::stop_token& stop) { LeaseLoop(stop); });
  return absl::OkStatus();
}

void Targets::Accept(std::unique_ptr<transport::Listener> listening, const std::string& provider,
                     size_t rail) {
  transport::Listener& listener = *listeners_.emplace_back(std::move(listening));
  accepting_.emplace_back([this, &listener, provider, rail](const std::stop_token& stop) {
    AcceptLoop(stop, listener, provider, rail);
  });
}

absl::StatusOr<std::shared_ptr<Targets::Ghost>> Targets::Find(const std::string& id, bool heard) {
  std::lock_guard lock(mutex_);
  const auto found = ghosts_.find(id);
  if (found == ghosts_.end()) {
    return absl::NotFoundError(
        absl::StrCat("host ", host_.config.host, " knows no migration ", id, " under way"));
  }
  if (heard) found->second->last_heard = Clock::now();
  return found->second;
}

void Targets::Forget(const std::string& id) {
  std::lock_guard lock(mutex_);
  ghosts_.erase(id);
  ended_ = true;
}

absl::StatusOr<v1::ReserveResponse> Targets::Reserve(const v1::ReserveRequest& request,
                                                     const v1::GhostWish* wish) {
  RETURN_IF_ERROR(CheckMigrationId(request.migration_id()));
  RETURN_IF_ERROR(CheckSpec(request.spec()));
  RETURN_IF_ERROR(CheckHostName(request.source_host()));
  ASSIGN_OR_RETURN(transport::Fabric* const fabric, host_.Transport(request.provider()));
  if (!host_.criu.ok()) return host_.criu.status();
  if (request.post_copy() && !host_.criu->lazy_pages) {
    return absl::FailedPreconditionError(
        absl::StrCat("CRIU of host ", host_.config.host,
                     " cannot restore memory on demand, which --post-copy needs"));
  }
  if (request.key_share().empty() == host_.encrypts()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "host ", request.source_host(), " would have pages ", host_.encrypts() ? "plain" : "sealed",
        " and host ", host_.config.host, " would not: set data.encryption alike on both"));
  }
  auto ghost = std::make_shared<Ghost>();
  const std::string& name = request.spec().name();
  ASSIGN_OR_RETURN(ghost->claim,
                   host_.components->TakeWhenFree(
                       name, absl::StrCat("it is arriving from host ", request.source_host()),
                       Deadline::After(kClaimWait)));
  if (host_.components->Find(name) != nullptr) {
    return absl::AlreadyExistsError(absl::StrCat("host ", host_.config.host,
                                                 " has a component named ", name,
                                                 " already: stop it there or choose another name"));
  }
  ghost->row.id = request.migration_id();
  ghost->row.role = MigrationRole::kTarget;
  ghost->row.component = name;
  ghost->row.peer = request.source_host();
  ghost->row.peer_address = request.source_address();
  ghost->row.state = MigrationState::kPending;
  ghost->provider = fabric->name();
  ghost->row.epoch = request.epoch();
  ghost->row.spec = request.spec();
  RETURN_IF_ERROR(host_.journal.Begin(ghost->row));
  host_.Event(name, "arriving", absl::StrCat(ghost->row.id, " from host ", request.source_host()));
  ghost->last_heard = Clock::now();
  ghost->images = ImagesPath(host_.config.run_dir, ghost->row.id, "in");
  ghost->files = std::make_shared<FileReceiver>(ghost->row.spec);
  if (wish != nullptr) ghost->kept = std::make_unique<Kept>(*wish);
  absl::StatusOr<v1::ReserveResponse> response = [&]() -> absl::StatusOr<v1::ReserveResponse> {
    std::lock_guard busy(ghost->busy);
    return Prepare(request, ghost);
  }();
  if (!response.ok()) {
    (void)host_.journal.Abort(ghost->row.id, response.status().message());
    {
      std::lock_guard busy(ghost->busy);
      Discard(*ghost);
    }
    // Nothing of it is left that the component's next arrival would have to wait for.
    (void)host_.journal.Settle(ghost->row.id);
    return response.status();
  }
  std::lock_guard lock(mutex_);
  // The lease runs from the grant: making room may have taken longer than it.
  ghost->last_heard = Clock::now();
  ghosts_[ghost->row.id] = ghost;
  return response;
}

absl::Status Targets::TakeRoom(Ghost& ghost, uint64_t arena_bytes) {
  if (arena_bytes <= ghost.room_bytes) return absl::OkStatus();
  // Where instants are kept there are two of every page.
  const bool twice = ghost.kept != nullptr && ghost.kept->wish.checkpoint_every_s() > 0;
  const int priority = ghost.row.spec.priority();
  const auto arrive = [&] {
    return host_.leases->Arrive(Clock::now(), ghost.row.peer, ghost.row.component, priority,
                                static_cast<int64_t>(arena_bytes) << twice);
  };
  absl::Status room = arrive();
  // What arrives is worth more than what only may.
  const bool arrives = ghost.kept == nullptr || !ghost.kept->ghost;
  if (absl::IsResourceExhausted(room) && arrives &&
      DropGhostsFor(arena_bytes - ghost.room_bytes, priority)) {
    room = arrive();
  }
  RETURN_IF_ERROR(room);
  ghost.room_bytes = arena_bytes;
  if (ghost.kept != nullptr) ghost.kept->arena_bytes = arena_bytes;
  return absl::OkStatus();
}

absl::StatusOr<v1::ReserveResponse> Targets::Prepare(const v1::ReserveRequest& request,
                                                     const std::shared_ptr<Ghost>& ghost) {
  hold_.At("target-reserve");
  RETURN_IF_ERROR(TakeRoom(*ghost, request.arena_bytes()));
  RETURN_IF_ERROR(MakeDirectories(ghost->images, 0700));
  ASSIGN_OR_RETURN(ghost->token, MakeToken());
  LaneReceiver::Options receiver;
  receiver.arena_bytes = request.arena_first_bytes() > 0
                             ? std::min(request.arena_first_bytes(), request.arena_bytes())
                             : request.arena_bytes();
  receiver.images_dir = ghost->images;
  receiver.refused = [this, peer = ghost->row.peer](absl::string_view what) {
    spdlog::debug("host {}: {}", peer, std::string(what));
    host_.security->refusals().Add("stream", absl::StrCat("pages from host ", peer));
  };
  receiver.ring = {request.ring_slots(), request.ring_slot_bytes()};
  receiver.grant_by_connection = request.grant_by_connection();
  std::vector<agent::Rail> rails;
  if (const auto known = rails_.find(ghost->provider); known != rails_.end()) rails = known->second;
  rails.resize(std::min<size_t>(rails.size(), request.rails()));
  for (const agent::Rail& rail : rails) receiver.rails.push_back(rail.fabric);
  if (request.post_copy()) {
    // Known to one another before the freeze: a handshake takes its time.
    ghost->source = Source(ghost->row);
    (void)ghost->source->channel()->GetState(/*try_to_connect=*/true);
  }
  std::string key_share;
  if (host_.encrypts()) {
    ASSIGN_OR_RETURN(key_share, NewKeyShare());
    ASSIGN_OR_RETURN(receiver.keys, DeriveStreamKeys(request.key_share(), key_share, ghost->row.id,
                                                     kKeyedConnections));
  }
  // An instant is verified before it is failed over to.
  receiver.by_tag = request.by_tag() && host_.encrypts() && ghost->kept == nullptr;
  const bool by_tag = receiver.by_tag;
  ASSIGN_OR_RETURN(transport::Fabric* const fabric, host_.Transport(ghost->provider));
  ASSIGN_OR_RETURN(ghost->receiver, LaneReceiver::Create(*fabric, std::move(receiver)));
  // Namespaces, cgroup and network device are made now, not inside the blackout.
  RETURN_IF_ERROR(MakeCopy(*ghost));
  v1::ReserveResponse response;
  for (const v1::ArenaChunk& chunk : ghost->receiver->chunks()) *response.add_chunks() = chunk;
  if (const auto ring = ghost->receiver->ring()) {
    *response.mutable_ring() = *ring;
    response.set_ring_slots(request.ring_slots());
  }
  response.set_data_address(host_.config.DataListen(ghost->provider));
  response.set_grant_by_connection(ghost->receiver->grants_by_connection());
  response.set_windows(ghost->receiver->windows());
  response.set_by_tag(by_tag);
  for (const agent::Rail& rail : rails)
    response.add_rail_addresses(rail.fabric != nullptr ? rail.listen : "");
  response.set_token(ghost->token);
  response.set_key_share(key_share);
  response.set_lease_s(Seconds(host_.config.migration.lease));
  *response.mutable_host() = agent::FactsOf(host_);
  return response;
}

absl::Status Targets::MakeCopy(Ghost& ghost) {
  keeper::StartKeeperOptions start = agent::KeeperOptions(host_.config);
  start.spec = ghost.row.spec;
  start.epoch = ghost.row.epoch + 1;
  start.migration_id = ghost.row.id;
  start.fenced = true;
  ASSIGN_OR_RETURN(const std::string socket,
                   keeper::StartKeeper(start, Deadline::After(kDestroyTimeout)));
  ghost.copy = std::make_shared<agent::Copy>(ghost.row.component, socket);
  return absl::OkStatus();
}

absl::StatusOr<v1::GrowResponse> Targets::Grow(const v1::GrowRequest& request) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Ghost> ghost, Find(request.migration_id()));
  std::lock_guard busy(ghost->busy);
  if (!ghost->receiver)
    return absl::FailedPreconditionError("the arena is closed: the component is being restored");
  uint64_t arena_bytes = request.bytes();
  for (const v1::ArenaChunk& chunk : ghost->receiver->chunks()) arena_bytes += chunk.bytes();
  RETURN_IF_ERROR(TakeRoom(*ghost, arena_bytes));
  ASSIGN_OR_RETURN(const std::vector<v1::ArenaChunk> chunks,
                   ghost->receiver->Grow(request.bytes()));
  v1::GrowResponse response;
  for (const v1::ArenaChunk& chunk : chunks) *response.add_chunks() = chunk;
  return response;
}

std::string Targets::Owner(const std::string& id) {
  {
    std::lock_guard lock(mutex_);
    if (const auto found = ghosts_.find(id); found != ghosts_.end()) return found->second->row.peer;
  }
  const absl::StatusOr<MigrationRow> row = host_.journal.GetMigration(id);
  return row.ok() ? row->peer : "";
}

absl::Status Targets::Renew(const std::string& id) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Ghost> ghost, Find(id));
  host_.leases->Keep(Clock::now(), ghost->row.peer, ghost->row.component);
  return absl::OkStatus();
}

absl::StatusOr<std::string> Targets::ImagesFolder(const std::string& id) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Ghost> ghost, Find(id));
  return ghost->images;
}

absl::StatusOr<std::shared_ptr<FileReceiver>> Targets::Files(const std::string& id) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Ghost> ghost, Find(id));
  if (ghost->files == nullptr)
    return absl::FailedPreconditionError("its files are in place already");
  return ghost->files;
}

absl::StatusOr<v1::RestoreResponse> Targets::Restore(const v1::RestoreRequest& request) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Ghost> ghost, Find(request.migration_id()));
  std::lock_guard busy(ghost->busy);
  if (ghost->prepared || !ghost->receiver) {
    return absl::FailedPreconditionError(
        absl::StrCat("migration ", ghost->row.id, " has been restored already"));
  }
  return RestoreGhost(*ghost, request);
}

namespace {

// For the test of what comes of it.
void FlipABit(const checkpoint::Arena& arena) {
  const auto first = arena.Slots(0, 1);
  if (first.ok()) first->front() ^= std::byte{1};
}

}  // namespace

absl::StatusOr<v1::RestoreResponse> Targets::RestoreGhost(Ghost& ghost,
                                                          const v1::RestoreRequest& request) {
  hold_.At("target-restore");
  v1::RestoreResponse response;
  const auto phase = [&response](const char* name, TimePoint since) {
    v1::PhaseTime* time = response.add_phases();
    time->set_name(name);
    time->set_seconds(Seconds(Clock::now() - since));
  };
  TimePoint start = Clock::now();
  checkpoint::FinalList list;
  for (const v1::MemoryEntry& entry : request.memory()) {
    checkpoint::FinalList::Entry& to = list.entries.emplace_back();
    to.run = {{static_cast<checkpoint::AddressSpace::Kind>(entry.kind()), entry.space()},
              entry.address(),
              entry.pages()};
    to.in_arena_before = entry.in_arena_before();
  }
  for (const v1::MemoryEntry& entry : request.recent()) {
    list.recent.push_back(
        {{static_cast<checkpoint::AddressSpace::Kind>(entry.kind()), entry.space()},
         entry.address(),
         entry.pages()});
  }
  // Nothing more can be written by the source from here on: what is restored is what was checked.
  if (ghost.kept != nullptr) {
    // It is a migration now. What an instant has would only be older.
    ghost.kept->ghost = false;
    ghost.kept->whole = false;
    ghost.kept->memory.reset();
    if (!ghost.kept->folder.empty()) (void)RemoveTree(std::exchange(ghost.kept->folder, ""));
  }
  std::unique_ptr<LaneReceiver> receiver = std::move(ghost.receiver);
  RETURN_IF_ERROR(receiver->Close());
  for (const v1::OfferedRun& run : request.offered()) {
    RETURN_IF_ERROR(receiver->Promise(
        {{checkpoint::AddressSpace::Kind::kProcess, run.space()}, run.address(), run.pages()},
        run.slot()));
  }
  if (hold_.Take("target-flip-arena")) FlipABit(receiver->arena());
  // Beside all the rest, since the wait for CRIU leaves processors free; nothing is committed
  // before it is done.
  std::future<absl::Status> verified;
  if (request.verify()) {
    verified = std::async(std::launch::async, [arena = receiver.get()] {
      return arena->arena().Verify(kImageThreads);
    });
  }
  const bool lazy = host_.criu->lazy_pages && !request.eager();
  checkpoint::LazyIndex index;
  RETURN_IF_ERROR(receiver->arena()
                      .WriteImages(list, ghost.images, kImageThreads, lazy ? &index : nullptr)
                      .status());
  if (lazy) {
    RETURN_IF_ERROR(WriteFileAtomic(absl::StrCat(ghost.images, "/", keeper::kLazyIndex),
                                    checkpoint::EncodeLazyIndex(index)));
  }
  phase("target: memory images", start);
  start = Clock::now();
  // The keeper empties the arena as pages leave it, some of them before CRIU is done.
  if (verified.valid()) {
    RETURN_IF_ERROR(verified.get());
    phase("target: rest of verifying", start);
    start = Clock::now();
  }
  RETURN_IF_ERROR(
      AppendLog(LogPath(host_.config.log_dir, ghost.row.component), request.log_tail()));
  RETURN_IF_ERROR(ghost.files->Put());
  keeper::v1::Request restore;
  restore.mutable_restore()->set_images_dir(ghost.images);
  const auto timeout = host_.config.migration.step_timeout;
  restore.mutable_restore()->set_timeout_s(Seconds(timeout));
  restore.mutable_restore()->set_lazy(lazy);
  // Beside the restore, in which a page may be touched already: the kernel writes to a thread's
  // area of restartable sequences whenever it has moved it.
  if (!index.missing.empty()) {
    if (ghost.source == nullptr) ghost.source = Source(ghost.row);
    Fetch(ghost.row, ghost.copy, ghost.source);
  }
  // The keeper serves what waits in the arena, whatever becomes of this agent.
  ASSIGN_OR_RETURN(
      const keeper::v1::Reply reply,
      ghost.copy->Call(restore, Deadline::After(timeout + kKeeperTimeout),
                       lazy ? std::vector<int>{receiver->arena().fd()} : std::vector<int>{}));
  phase("target: restore", start);
  for (v1::PhaseTime time : reply.phases().phases()) {
    time.set_name(absl::StrCat("restore: ", time.name()));
    *response.add_phases() = std::move(time);
  }
  start = Clock::now();
  ASSIGN_OR_RETURN(const VerdictRow verdict, host_.journal.Prepare(ghost.row.id));
  if (verdict.state != MigrationState::kPrepared) {
    return absl::AbortedError(
        absl::StrCat("the migration was called off meanwhile: ", verdict.reason));
  }
  phase("target: journal", start);
  ghost.prepared = true;
  ghost.park = request.park();
  ghost.models.assign(request.shadow().models().begin(), request.shadow().models().end());
  host_.Event(ghost.row.component, "prepared",
              absl::StrCat(ghost.row.id, ": restored and held behind its fence"));
  hold_.At("target-prepared");
  return response;
}

absl::StatusOr<v1::ProbeResponse> Targets::Probe(const v1::ProbeRequest& request) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Ghost> ghost, Find(request.migration_id()));
  std::lock_guard busy(ghost->busy);
  if (!ghost->prepared)
    return absl::FailedPreconditionError("only a restored component can be probed");
  hold_.At("target-probe");
  return ProbeHeld(*ghost->copy, {request.command(), request.timeout_s()});
}

absl::StatusOr<v1::ProbeResponse> Targets::ProbeHeld(const agent::Copy& copy,
                                                     const ProbeSpec& probe) const {
  RETURN_IF_ERROR(CheckProbe(probe));
  RETURN_IF_ERROR(copy.Thaw(Deadline::After(kKeeperTimeout)));
  keeper::v1::Request request;
  request.mutable_probe()->set_command(probe.command);
  request.mutable_probe()->set_timeout_s(probe.timeout_s);
  const auto allowed =
      std::chrono::duration_cast<Duration>(std::chrono::duration<double>(probe.timeout_s));
  const auto reply = copy.Call(request, Deadline::After(allowed + kKeeperTimeout));
  RETURN_IF_ERROR(copy.Freeze(Deadline::After(host_.config.migration.freeze_timeout)));
  RETURN_IF_ERROR(reply.status());
  v1::ProbeResponse response;
  response.set_exit_status(reply->probe().exit_status());
  response.set_output(reply->probe().output());
  return response;
}

absl::StatusOr<v1::VerdictResponse> Targets::Commit(const v1::CommitRequest& request) {
  const std::string& id = request.migration_id();
  RETURN_IF_ERROR(CheckMigrationId(id));
  hold_.At("target-commit");
  const absl::StatusOr<std::shared_ptr<Ghost>> ghost = Find(id);
  if (ghost.ok() && (*ghost)->copy) {
    // A copy that died while it was held must not become the only one.
    const auto alive = (*ghost)->copy->Status(Deadline::After(kKeeperTimeout));
    if (!alive.ok() || alive->phase() == keeper::v1::Status::EXITED) {
      return Abort(id,
                   absl::StrCat("its copy on host ", host_.config.host, " died before the commit"));
    }
    if (alive->pages_away() > 0 && !request.offer_open()) {
      return Abort(id, absl::StrCat(alive->pages_away(), " pages that host ", (*ghost)->row.peer,
                                    " had kept back are lost with its agent"));
    }
  }
  absl::StatusOr<VerdictRow> verdict = host_.journal.Commit(id);
  // Never heard of: then it must never become committed either.
  if (absl::IsNotFound(verdict.status()))
    verdict = host_.journal.Abort(id, "this host knows nothing of it");
  RETURN_IF_ERROR(verdict.status());
  hold_.At("target-committed");
  if (verdict->state == MigrationState::kCommitted && ghost.ok() &&
      (*ghost)->row.spec.shared_size() > 0 && !request.source_ended()) {
    // The frozen copy at the source still has its locks on shared storage, which would be refused
    // to this one.
    const std::lock_guard lock(mutex_);
    (*ghost)->committed = true;
    return ToResponse(*verdict);
  }
  return Conclude(id, *verdict);
}

absl::StatusOr<v1::VerdictResponse> Targets::Abort(const std::string& id,
                                                   const std::string& reason) {
  RETURN_IF_ERROR(CheckMigrationId(id));
  ASSIGN_OR_RETURN(const VerdictRow verdict, host_.journal.Abort(id, reason));
  return Conclude(id, verdict);
}

absl::StatusOr<v1::VerdictResponse> Targets::Query(const std::string& id) {
  RETURN_IF_ERROR(CheckMigrationId(id));
  ASSIGN_OR_RETURN(const VerdictRow verdict, host_.journal.Verdict(id));
  return Conclude(id, verdict);
}

// The verdict is durable; what follows from it can be repeated.
absl::StatusOr<v1::VerdictResponse> Targets::Conclude(const std::string& id,
                                                      const VerdictRow& verdict) {
  const bool final =
      verdict.state == MigrationState::kCommitted || verdict.state == MigrationState::kAborted;
  const absl::StatusOr<std::shared_ptr<Ghost>> ghost = Find(id);
  if (final && ghost.ok()) {
    // An abort overtakes a restore that is under way, and ends its CRIU.
    if (verdict.state == MigrationState::kAborted && (*ghost)->copy) {
      (void)(*ghost)->copy->CancelCriu(Deadline::After(kKeeperTimeout));
    }
    std::lock_guard busy((*ghost)->busy);
    // Somebody else may have concluded it while this call waited.
    if (Find(id).ok()) {
      if (verdict.state == MigrationState::kCommitted) {
        RETURN_IF_ERROR(LetRun(**ghost, verdict.epoch));
      } else {
        host_.Event((*ghost)->row.component, "arrival-aborted",
                    absl::StrCat(id, ": ", verdict.reason));
        Discard(**ghost);
      }
      Forget(id);
      (void)host_.journal.Settle(id);
    }
  }
  return ToResponse(verdict);
}

absl::Status Targets::LetRun(Ghost& ghost, uint64_t epoch) {
  RETURN_IF_ERROR(ghost.copy->LetRun(Deadline::After(kKeeperTimeout)));
  if (const absl::Status taken = host_.shelf->Put(ghost.row.component, std::move(ghost.models));
      !taken.ok()) {
    host_.Event(ghost.row.component, "shadow-refused", taken.message());
  }
  host_.components->Add(ghost.copy);
  host_.leases->Arrived(Clock::now(), ghost.row.peer, ghost.row.component);
  host_.Event(ghost.row.component, "arrived",
              absl::StrCat("from host ", ghost.row.peer, " with epoch ", epoch));
  if (const absl::Status kept = Keep(ghost.row.spec); !kept.ok()) {
    host_.Event(ghost.row.component, "cleanup-failed", kept.message());
  }
  if (ghost.park && host_.sent_to_rest) host_.sent_to_rest(ghost.row.component, ghost.row.peer);
  ghost.claim.Release();
  (void)RemoveTree(ghost.images);
  return absl::OkStatus();
}

void Targets::StopFetching(const std::string& id) {
  std::unique_ptr<PageFetch> fetch;
  {
    const std::lock_guard lock(fetches_mutex_);
    const auto found = fetches_.find(id);
    if (found == fetches_.end()) return;
    fetch = std::move(found->second);
    fetches_.erase(found);
  }
}

std::shared_ptr<agent::PeerClient> Targets::Source(const MigrationRow& row) const {
  const PeerConfig* const known = host_.config.FindPeer(row.peer);
  return std::make_shared<agent::PeerClient>(
      row.peer, known != nullptr ? known->address : row.peer_address, host_.security->channel());
}

void Targets::Fetch(const MigrationRow& row, const std::shared_ptr<agent::Copy>& copy) {
  Fetch(row, copy, Source(row));
}

void Targets::Fetch(const MigrationRow& row, const std::shared_ptr<agent::Copy>& copy,
                    const std::shared_ptr<agent::PeerClient>& source) {
  PageFetch::Parts parts;
  parts.fabric = [this](const std::string& provider) { return host_.Transport(provider); };
  parts.patience = host_.config.migration.lease;
  parts.keeper = FetchForKeeper(copy);
  parts.source =
      FetchFromSource(source, row.id, host_.config.host, [this] { hold_.At("target-fetch"); });
  parts.ended = [this, row](const absl::Status& status, uint64_t pages) {
    if (status.ok()) {
      host_.Event(row.component, "whole",
                  absl::StrCat(pages, " pages were fetched from host ", row.peer));
      return;
    }
    // Before the commit nothing is lost: the component lives on where it was.
    const absl::StatusOr<VerdictRow> verdict = host_.journal.Verdict(row.id);
    const bool lost = verdict.ok() && verdict->state == MigrationState::kCommitted;
    host_.Event(row.component, lost ? "memory-lost" : "fetch-failed", status.message());
  };
  const std::lock_guard lock(fetches_mutex_);
  fetches_[row.id] = std::make_unique<PageFetch>(std::move(parts));
}

void Targets::SweepFetches() {
  const std::lock_guard lock(fetches_mutex_);
  std::erase_if(fetches_, [](const auto& each) { return each.second->done(); });
}

void Targets::Discard(Ghost& ghost) {
  StopFetching(ghost.row.id);
  ghost.receiver.reset();
  if (ghost.copy) {
    const absl::Status destroyed = ghost.copy->Destroy(Deadline::After(kDestroyTimeout));
    if (!destroyed.ok()) host_.Event(ghost.row.component, "cleanup-failed", destroyed.message());
  }
  // Not before everything that might have them open is dead.
  if (ghost.files != nullptr) ghost.files->Close();
  if (const absl::Status back = TakeBack(ghost.row.spec); !back.ok()) {
    host_.Event(ghost.row.component, "cleanup-failed", back.message());
  }
  (void)RemoveTree(ghost.images);
  host_.leases->CalledOff(Clock::now(), ghost.row.peer, ghost.row.component);
  ghost.claim.Release();
}

absl::Status Targets::Resolve(const std::string& component, bool here) {
  std::string id;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [key, ghost] : ghosts_) {
      if (ghost->row.component == component) id = key;
    }
  }
  if (id.empty()) {
    return absl::NotFoundError(
        absl::StrCat("component ", component, " is not in doubt: there is nothing to resolve"));
  }
  if (!here) return Abort(id, "resolved by a person: the copy on the other host lives").status();
  v1::CommitRequest commit;
  commit.set_migration_id(id);
  commit.set_source_ended(true);  // as far as anybody can say
  ASSIGN_OR_RETURN(const v1::VerdictResponse verdict, Commit(commit));
  if (verdict.verdict() == v1::COMMITTED) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("component ", component, " is not whole on host ", host_.config.host, " (",
                   v1::Verdict_Name(verdict.verdict()), "): it cannot live here"));
}

void Targets::AcceptLoop(const std::stop_token& stop, transport::Listener& listener,
                         const std::string& provider, size_t rail) {
  while (!stop.stop_requested()) {
    absl::StatusOr<std::unique_ptr<transport::Incoming>> incoming =
        listener.Next(Deadline::After(std::chrono::milliseconds(500)));
    if (absl::IsDeadlineExceeded(incoming.status())) continue;
    if (!incoming.ok()) {
      spdlog::warn("data port: {}", incoming.status().ToString());
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      continue;
    }
    std::shared_ptr<Ghost> ghost;
    {
      std::lock_guard lock(mutex_);
      for (const auto& [id, candidate] : ghosts_) {
        if (candidate->provider == provider &&
            ShowsToken((*incoming)->private_data(), candidate->token)) {
          ghost = candidate;
        }
      }
    }
    if (ghost == nullptr) {
      if (other_(provider, *incoming)) continue;
      host_.security->refusals().Add("token", absl::StrCat("data port, ", provider));
      spdlog::debug("data port: a connection without a valid token was refused");
      incoming->reset();
      continue;
    }
    std::lock_guard busy(ghost->busy);
    if (!ghost->receiver) {
      incoming->reset();
      continue;
    }
    const auto shown = [data = (*incoming)->private_data()](size_t at) -> uint32_t {
      return at < data.size() ? static_cast<uint8_t>(data[at]) : 0;
    };
    const uint32_t lane = shown(kTokenBytes);
    const uint32_t attempt = shown(kTokenBytes + 1);
    if (const absl::Status status =
            ghost->receiver->Accept(lane, std::move(*incoming), attempt, rail);
        !status.ok()) {
      if (absl::IsFailedPrecondition(status))
        host_.security->refusals().Add("token", absl::StrCat("data port, ", provider));
      spdlog::warn("migration {}: data connection: {}", ghost->row.id, status.ToString());
    }
  }
}

// A source that is not heard any more has either rolled back by itself or is gone; a copy that is
// not committed here may be called off at any time. Prepared ones too: the source may only believe
// in a commit that it was told of.
void Targets::LeaseLoop(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    wake_.wait_for(lock, stop, std::chrono::milliseconds(500), [] { return false; });
    lock.unlock();
    SweepFetches();
    if (ended_.exchange(false)) GiveMemoryBack();
    for (const std::string& id : WithoutRoom()) {
      const auto verdict = Abort(
          id, absl::StrCat("host ", host_.config.host, " ended it: its room was given to another"));
      if (!verdict.ok()) spdlog::error("migration {}: {}", id, verdict.status().ToString());
    }
    lock.lock();
    const TimePoint limit = Clock::now() - host_.config.migration.lease;
    const TimePoint silent = Clock::now() - kSourceEnds;
    std::vector<std::string> expired, released;
    for (const auto& [id, ghost] : ghosts_) {
      if (ghost->committed && ghost->last_heard < silent) {
        released.push_back(id);
      } else if (ghost->last_heard < limit && !HoldOn(*ghost)) {
        expired.push_back(id);
      }
    }
    lock.unlock();
    for (const std::string& id : released) {
      const auto verdict = Query(id);
      if (!verdict.ok()) spdlog::error("migration {}: {}", id, verdict.status().ToString());
    }
    for (const std::string& id : expired) {
      const auto verdict = Abort(id, "its lease ended: nothing was heard from the source");
      if (!verdict.ok())
        spdlog::error("migration {}: ending its lease: {}", id, verdict.status().ToString());
    }
    lock.lock();
  }
}

absl::Status Targets::Recover() {
  ASSIGN_OR_RETURN(const std::vector<MigrationRow> rows,
                   host_.journal.ListMigrations(/*unsettled_only=*/true));
  for (const MigrationRow& row : rows) {
    if (row.role != MigrationRole::kTarget) continue;
    auto ghost = std::make_shared<Ghost>();
    ghost->row = row;
    ghost->images = ImagesPath(host_.config.run_dir, row.id, "in");
    ghost->last_heard = Clock::now();
    ghost->copy = std::make_shared<agent::Copy>(
        row.component, keeper::KeeperSocket(host_.config.run_dir, row.component, row.id));
    ASSIGN_OR_RETURN(ghost->claim, host_.components->Take(row.component, "it is arriving"));
    const auto status = ghost->copy->Status(Deadline::After(kKeeperTimeout));
    const bool alive = status.ok();
    const bool whole = !alive || status->pages_away() == 0;
    VerdictRow verdict;
    if (row.state == MigrationState::kPrepared && alive) {
      ghost->prepared = true;
      host_.Event(row.component, "prepared",
                  absl::StrCat(row.id, ": held on after a restart of the agent"));
      if (!whole) Fetch(row, ghost->copy);
      std::lock_guard lock(mutex_);
      ghosts_[row.id] = ghost;
      continue;
    }
    if (row.state == MigrationState::kPending || row.state == MigrationState::kPrepared) {
      ASSIGN_OR_RETURN(
          verdict,
          host_.journal.Abort(row.id, "the target's agent was restarted before it was prepared"));
    } else {
      ASSIGN_OR_RETURN(verdict, host_.journal.Verdict(row.id));
    }
    if (verdict.state == MigrationState::kCommitted && alive) {
      const absl::Status runs = LetRun(*ghost, verdict.epoch);
      if (!runs.ok()) host_.Event(row.component, "thaw-failed", runs.message());
      if (!whole) Fetch(row, ghost->copy);
    } else {
      Discard(*ghost);
    }
    RETURN_IF_ERROR(host_.journal.Settle(row.id));
  }
  return absl::OkStatus();
}

}  // namespace starling::migration
