// Of Targets: ghosts that are kept here, and failing over to one.

#include <fcntl.h>

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/keeper/protocol.h"
#include "runtime/keeper_client.h"
#include "runtime/migration/ghost_value.h"
#include "runtime/migration/images.h"
#include "runtime/migration/target.h"
#include "runtime/reservations/lease_desk.h"

namespace starling::migration {
namespace {

constexpr auto kKeeperTimeout = std::chrono::seconds(10);
constexpr auto kDestroyTimeout = std::chrono::seconds(30);
// Threads that copy memory images: a copy is bound by memory, two fill it.
constexpr int kImageThreads = 2;
// The lease of a ghost's room is renewed by this host itself while the source is silent.
constexpr auto kRenewEvery = std::chrono::seconds(60);

}  // namespace

absl::StatusOr<std::string> Targets::InstantFolder(const std::string& id, uint64_t instant) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Ghost> ghost, Find(id));
  const std::lock_guard busy(ghost->busy);
  if (ghost->kept == nullptr || instant == 0 || instant <= ghost->kept->instant.instant()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "instant ", instant, " of ", ghost->row.component, " does not follow the last"));
  }
  // One that never was committed.
  if (!ghost->kept->landing.empty()) RETURN_IF_ERROR(RemoveTree(ghost->kept->landing));
  ghost->kept->landing = absl::StrCat(ghost->images, "/instant-", instant);
  RETURN_IF_ERROR(RemoveTree(ghost->kept->landing));
  RETURN_IF_ERROR(MakeDirectories(ghost->kept->landing, 0700));
  return ghost->kept->landing;
}

absl::StatusOr<v1::CommitInstantResponse> Targets::CommitInstant(
    const v1::CommitInstantRequest& instant) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Ghost> ghost, Find(instant.migration_id()));
  const std::lock_guard busy(ghost->busy);
  const std::string folder = absl::StrCat(ghost->images, "/instant-", instant.instant());
  if (ghost->kept == nullptr || ghost->receiver == nullptr || ghost->kept->landing != folder) {
    return absl::FailedPreconditionError(
        absl::StrCat("host ", host_.config.host, " has no images of instant ", instant.instant(),
                     " of ", ghost->row.component));
  }
  const TimePoint start = Clock::now();
  Kept& kept = *ghost->kept;
  if (kept.memory == nullptr) {
    ghost->receiver->KeepChanges();
    checkpoint::Arena::Options options;
    options.name = "starling-instant";
    options.chunk_bytes = kArenaChunkBytes;
    ASSIGN_OR_RETURN(kept.memory, checkpoint::Arena::Create(options));
  }
  v1::CommitInstantResponse response;
  hold_.At("target-instant");
  // The source waits for the answer, so that nothing lands; and whatever becomes of it now, the
  // copy is made to its end. Only one that cannot be made leaves nothing to fail over to.
  const absl::StatusOr<uint64_t> copied = ghost->receiver->CopyTo(*kept.memory);
  if (!copied.ok()) {
    kept.whole = false;
    kept.memory.reset();
    return Annotate(copied.status(), absl::StrCat("instant ", instant.instant()));
  }
  if (!kept.folder.empty()) (void)RemoveTree(kept.folder);
  kept.folder = std::exchange(kept.landing, "");
  kept.instant = instant;
  const auto age = std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(std::clamp(instant.age_s(), 0.0, 1e6)));
  kept.taken = Clock::now() - age;
  kept.instants = instant.instant();
  kept.whole = true;
  response.set_pages_copied(*copied);
  response.set_seconds(Seconds(Clock::now() - start));
  return response;
}

std::vector<v1::GhostInfo> Targets::Ghosts() {
  std::vector<v1::GhostInfo> all;
  const std::lock_guard lock(mutex_);
  for (const auto& [id, ghost] : ghosts_) {
    if (ghost->kept == nullptr || !ghost->kept->ghost) continue;
    const Kept& kept = *ghost->kept;
    v1::GhostInfo& info = all.emplace_back();
    *info.mutable_wish() = kept.wish;
    info.mutable_wish()->set_component(ghost->row.component);
    info.set_from(ghost->row.peer);
    info.set_migration_id(id);
    info.set_arena_bytes(kept.arena_bytes);
    info.set_fresh_s(-1);
    info.set_instants(kept.instants);
    info.set_instant_age_s(kept.whole ? Seconds(Clock::now() - kept.taken.load()) : -1);
    const bool silent = ghost->last_heard < Clock::now() - host_.config.migration.lease;
    info.set_state(silent ? "kept" : kept.wish.warm() ? "warm" : "cold");
    if (silent) info.set_why(absl::StrCat("nothing is heard from host ", ghost->row.peer));
  }
  return all;
}

absl::StatusOr<Targets::GhostOf> Targets::FindGhost(const std::string& component) {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, ghost] : ghosts_) {
    if (ghost->kept != nullptr && ghost->row.component == component)
      return GhostOf{id, ghost->row.peer};
  }
  return absl::NotFoundError(absl::StrCat("host ", host_.config.host,
                                          " keeps no ghost of component ", component,
                                          ": `starling ghost list` lists those it keeps"));
}

uint64_t Targets::GhostBytes(const std::string& component) {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, ghost] : ghosts_) {
    if (ghost->kept != nullptr && ghost->row.component == component)
      return ghost->kept->arena_bytes;
  }
  return 0;
}

bool Targets::IsGhost(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto found = ghosts_.find(id);
  return found != ghosts_.end() && found->second->kept != nullptr && found->second->kept->ghost;
}

// Called with mutex_ held.
bool Targets::HoldOn(Ghost& ghost) {
  Kept* const kept = ghost.kept.get();
  if (kept == nullptr || !kept->ghost || !kept->whole) return false;
  const TimePoint now = Clock::now();
  if (now - ghost.last_heard > host_.config.failover.keep) return false;
  if (now - kept->leased > kRenewEvery) {
    kept->leased = now;
    host_.leases->Keep(now, ghost.row.peer, ghost.row.component);
  }
  return true;
}

std::vector<Targets::KeptHere> Targets::ListKept() {
  std::vector<KeptHere> all;
  const std::lock_guard lock(mutex_);
  const TimePoint now = Clock::now();
  for (const auto& [id, ghost] : ghosts_) {
    if (ghost->kept == nullptr || !ghost->kept->ghost) continue;
    const Kept& kept = *ghost->kept;
    KeptHere& one = all.emplace_back();
    one.id = id;
    one.component = ghost->row.component;
    one.source = ghost->row.peer;
    one.facts.priority = ghost->row.spec.priority();
    one.facts.warm = kept.wish.warm();
    one.facts.instants = kept.whole;
    one.facts.silent = ghost->last_heard < now - host_.config.migration.lease;
    one.facts.bytes = kept.arena_bytes * (kept.wish.checkpoint_every_s() > 0 ? 2 : 1);
    one.facts.age_s = Seconds(now - kept.made);
  }
  return all;
}

bool Targets::Arriving() {
  const std::lock_guard lock(mutex_);
  return std::any_of(ghosts_.begin(), ghosts_.end(), [](const auto& one) {
    return one.second->kept == nullptr || !one.second->kept->ghost;
  });
}

bool Targets::DropGhostsFor(uint64_t bytes, int priority) {
  const std::vector<KeptHere> kept = ListKept();
  std::vector<KeptGhost> ghosts;
  for (const KeptHere& one : kept) ghosts.push_back(one.facts);
  bool any = false;
  for (const size_t i : ChooseToDrop(ghosts, bytes, priority)) {
    any = Abort(kept[i].id, "its room was needed for a component that arrives").ok() || any;
  }
  return any;
}

std::vector<std::string> Targets::WithoutRoom() {
  // Before the leases: one that is granted now may be of a ghost that comes later.
  const std::vector<KeptHere> kept = ListKept();
  std::vector<std::string> ids;
  if (kept.empty()) return ids;
  std::set<std::string> leases;
  for (const reservations::Lease& lease : host_.leases->List()) leases.insert(lease.id);
  for (const KeptHere& one : kept) {
    if (!leases.contains(reservations::LeaseId(one.source, one.component))) ids.push_back(one.id);
  }
  return ids;
}

// With `busy` held. What the instant has is checked once more, page by page.
absl::Status Targets::RestoreInstant(Ghost& ghost, const ProbeSpec& asked) {
  Kept& kept = *ghost.kept;
  checkpoint::FinalList list;
  for (const v1::MemoryEntry& entry : kept.instant.memory()) {
    checkpoint::FinalList::Entry& to = list.entries.emplace_back();
    to.run = {{static_cast<checkpoint::AddressSpace::Kind>(entry.kind()), entry.space()},
              entry.address(),
              entry.pages()};
    to.in_arena_before = true;
  }
  RETURN_IF_ERROR(Annotate(kept.memory->Verify(kImageThreads), "the instant"));
  // Not on demand: that would empty the arena, and this may have to be tried again.
  RETURN_IF_ERROR(kept.memory->WriteImages(list, kept.folder, kImageThreads).status());
  const std::string log = LogPath(host_.config.log_dir, ghost.row.component);
  {
    ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(log, O_WRONLY | O_CREAT | O_APPEND, 0640));
    const std::string& tail = kept.instant.log_tail();
    RETURN_IF_ERROR(Annotate(WriteAll(fd.get(), tail.data(), tail.size()), log));
  }
  keeper::v1::Request request;
  keeper::v1::Restore& restore = *request.mutable_restore();
  const auto timeout = host_.config.migration.step_timeout;
  restore.set_images_dir(kept.folder);
  restore.set_timeout_s(Seconds(timeout));
  // Their other ends have gone on since.
  restore.set_close_connections(true);
  if (kept.instant.log_path() != log) restore.set_log_path(kept.instant.log_path());
  RETURN_IF_ERROR(ghost.copy->Call(request, Deadline::After(timeout + kKeeperTimeout)).status());
  const ProbeSpec probe =
      ProbeFor(ghost.row.spec, asked, Seconds(host_.config.migration.probe_timeout));
  if (probe.command.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const v1::ProbeResponse probed, ProbeHeld(*ghost.copy, probe));
  if (probed.exit_status() == 0) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("its probe failed with exit status ", probed.exit_status(),
                                         ": ", probed.output(), " (--probe names another one)"));
}

absl::StatusOr<v1::FailoverResponse> Targets::Failover(const std::string& id,
                                                       const ProbeSpec& probe) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Ghost> ghost, Find(id, /*heard=*/false));
  const std::lock_guard busy(ghost->busy);
  // Its migration may have ended while this call waited.
  RETURN_IF_ERROR(Find(id, /*heard=*/false).status());
  if (ghost->kept == nullptr || !ghost->kept->ghost || !ghost->kept->whole) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the ghost of ", ghost->row.component, " on host ", host_.config.host,
        ghost->kept != nullptr && !ghost->kept->ghost
            ? " has become a migration: `starling resolve` decides on it"
            : " has no whole instant to start from: `starling ghost add --checkpoint-every` takes "
              "them"));
  }
  Kept& kept = *ghost->kept;
  v1::FailoverResponse response;
  response.set_from(ghost->row.peer);
  response.set_age_s(Seconds(Clock::now() - kept.taken.load()));
  response.set_taken(kept.instant.taken());
  response.set_connections(kept.instant.connections());
  // Nothing of the source can make it a migration any more.
  ghost->receiver.reset();
  hold_.At("failover-restore");
  if (const absl::Status restored = RestoreInstant(*ghost, probe); !restored.ok()) {
    host_.Event(ghost->row.component, "failover-failed", restored.message());
    // The instant is as it was; what was made of it goes, so that it can be tried again.
    absl::Status again = ghost->copy->Destroy(Deadline::After(kDestroyTimeout));
    if (again.ok()) again = MakeCopy(*ghost);
    if (!again.ok()) host_.Event(ghost->row.component, "cleanup-failed", again.message());
    return Annotate(restored, absl::StrCat("failover of ", ghost->row.component));
  }
  RETURN_IF_ERROR(host_.journal.Prepare(id).status());
  ASSIGN_OR_RETURN(const VerdictRow verdict, host_.journal.Commit(id));
  if (verdict.state != MigrationState::kCommitted) {
    return absl::AbortedError(absl::StrCat("the failover of ", ghost->row.component,
                                           " was called off meanwhile: ", verdict.reason));
  }
  hold_.At("failover-committed");
  RETURN_IF_ERROR(LetRun(*ghost, verdict.epoch));
  host_.Event(ghost->row.component, "failed-over",
              absl::StrCat("from host ", ghost->row.peer, ", with epoch ", verdict.epoch));
  Forget(id);
  (void)host_.journal.Settle(id);
  return response;
}

}  // namespace starling::migration
