// Of Agent: ghosts of its components, and failing over to those that it keeps.

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "runtime/agent/agent.h"
#include "runtime/agent/preflight.h"
#include "runtime/agent/run_fence.h"
#include "runtime/keeper_client.h"
#include "runtime/migration/ghost_peer.h"
#include "runtime/names.h"
#include "runtime/spec.h"

namespace starling::agent {
namespace {

constexpr auto kDestroyTimeout = std::chrono::seconds(30);
// Seconds between two rounds, and bytes a second of them, unless it is said.
constexpr double kEvery = 5;
constexpr double kRate = 16 << 20;
constexpr double kLeast = 0.2;
constexpr double kMost = 1e7;

absl::Status CheckWish(v1::GhostWish& wish) {
  RETURN_IF_ERROR(CheckComponentName(wish.component()));
  RETURN_IF_ERROR(CheckHostName(wish.on()));
  const auto wrong = [](absl::string_view what) { return absl::InvalidArgumentError(what); };
  if (!std::isfinite(wish.rate_bytes_per_s()) || wish.rate_bytes_per_s() < 0)
    return wrong("a ghost's rate is to be 0 bytes a second or more");
  if (!wish.warm() &&
      (wish.rate_bytes_per_s() > 0 || wish.every_s() != 0 || wish.checkpoint_every_s() != 0)) {
    return wrong("a cold ghost has no rounds: rate, every and checkpoint_every are a warm one's");
  }
  if (wish.warm() && wish.every_s() == 0) wish.set_every_s(kEvery);
  if (wish.warm() && wish.rate_bytes_per_s() == 0) wish.set_rate_bytes_per_s(kRate);
  for (const double seconds : {wish.every_s(), wish.checkpoint_every_s()}) {
    if (seconds != 0 && !(seconds >= kLeast && seconds <= kMost)) {
      return wrong(absl::StrCat("rounds and instants ", seconds, " s apart; allowed is ", kLeast,
                                " to ", kMost));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::GhostInfo> Agent::AddGhost(v1::GhostWish wish) {
  RETURN_IF_ERROR(CheckWish(wish));
  const std::string& name = wish.component();
  ASSIGN_OR_RETURN(const std::shared_ptr<PeerClient> peer, Peer(wish.on()));
  ASSIGN_OR_RETURN(const std::shared_ptr<Copy> copy, Living(name));
  RETURN_IF_ERROR(host_.Wake(name));
  ASSIGN_OR_RETURN(const ComponentRow row, host_.journal.GetComponent(name));
  if (wish.checkpoint_every_s() > 0 && (row.spec.ship_size() > 0 || row.spec.shared_size() > 0)) {
    return absl::FailedPreconditionError(
        absl::StrCat("component ", name,
                     " has files of its own (--ship, --shared), which an instant does not "
                     "have: `starling checkpoint` takes shipped ones along"));
  }
  ASSIGN_OR_RETURN(const v1::CheckResponse check, Preflight(host_, *copy, row, *peer, ""));
  if (check.obstacles_size() > 0) {
    std::vector<std::string> all;
    for (const v1::Obstacle& obstacle : check.obstacles()) {
      all.push_back(absl::StrCat(obstacle.thing(), ": ", obstacle.reason(), " [", obstacle.code(),
                                 "]\n    ", obstacle.mend()));
    }
    return absl::FailedPreconditionError(absl::StrCat("component ", name,
                                                      " could not be moved to host ", wish.on(),
                                                      ":\n  ", absl::StrJoin(all, "\n  ")));
  }
  ASSIGN_OR_RETURN(v1::GhostInfo ghost, ghosts_->Add(wish));
  // From here on it is not put to rest any more; it may have been a moment ago.
  RETURN_IF_ERROR(host_.Wake(name));
  return ghost;
}

absl::Status Agent::DropGhost(const std::string& name, const std::string& on) {
  RETURN_IF_ERROR(CheckComponentName(name));
  RETURN_IF_ERROR(CheckHostName(on));
  if (on != host_.config.host) return ghosts_->Drop(name, on);
  // One that is kept here.
  ASSIGN_OR_RETURN(const migration::Targets::GhostOf ghost, targets_.FindGhost(name));
  if (!targets_.IsGhost(ghost.id)) {
    return absl::FailedPreconditionError(
        absl::StrCat("component ", name, " is on its way here, from its ghost: `starling cancel ",
                     name, "` on host ", ghost.source, " calls that off"));
  }
  return targets_.Abort(ghost.id, "it was dropped by a person").status();
}

absl::Status Agent::EndKeptGhost(const std::string& name, const std::string& why) {
  ASSIGN_OR_RETURN(const migration::Targets::GhostOf ghost, targets_.FindGhost(name));
  // One that is becoming a component of this host is none any more.
  if (!targets_.IsGhost(ghost.id)) return absl::NotFoundError("it has become a migration");
  return targets_.Abort(ghost.id, absl::StrCat("host ", host_.config.host, " ended it: ", why))
      .status();
}

v1::ListGhostsResponse Agent::ListGhosts() {
  v1::ListGhostsResponse response;
  response.set_host(host_.config.host);
  for (v1::GhostInfo& ghost : ghosts_->List()) *response.add_away() = std::move(ghost);
  for (v1::GhostInfo& ghost : targets_.Ghosts()) *response.add_here() = std::move(ghost);
  return response;
}

v1::StandingResponse Agent::Standing(const std::string& name) {
  v1::StandingResponse standing;
  const absl::StatusOr<ComponentRow> row = host_.journal.GetComponent(name);
  if (!row.ok()) return standing;
  standing.set_state(row->state);
  standing.set_epoch(row->epoch);
  standing.set_where(row->where);
  return standing;
}

// What makes sure that the source does not run it: its own word, a program, or a person.
absl::StatusOr<std::string> Agent::Fence(const std::string& name, const std::string& source,
                                         bool fenced) {
  v1::StandingRequest ask;
  ask.set_host(host_.config.host);
  ask.set_component(name);
  absl::StatusOr<v1::StandingResponse> standing = absl::UnavailableError("it is no peer");
  if (const auto peer = Peer(source); peer.ok()) {
    standing =
        migration::AskStanding(**peer, ask, Deadline::After(host_.config.migration.peer_timeout));
  }
  if (standing.ok()) {
    if (standing->state() == v1::LOST)
      return absl::StrCat("host ", source, " says that it is lost");
    return absl::FailedPreconditionError(
        absl::StrCat("host ", source, " answers, and component ", name, " is ",
                     v1::ComponentState_Name(standing->state()), " there: `starling migrate ", name,
                     " --to ", host_.config.host, "` on that host moves it"));
  }
  if (!Unheard(standing.status())) return standing.status();
  if (fenced) return std::string("a person's word");
  const std::string& command = host_.config.failover.fence_command;
  if (command.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "host ", source, " does not answer, which may be the link alone, and then component ", name,
        " would run twice: set failover.fence_command, or make sure by hand that the host is off "
        "and say --fenced"));
  }
  host_.Event(name, "fencing", absl::StrCat(command, " ", source));
  RETURN_IF_ERROR(RunFence(command, source, Deadline::After(host_.config.failover.fence_timeout)));
  return absl::StrCat(command, " ", source);
}

absl::StatusOr<v1::FailoverResponse> Agent::Failover(const v1::FailoverRequest& request) {
  const std::string& name = request.component();
  RETURN_IF_ERROR(CheckComponentName(name));
  const ProbeSpec probe{request.probe(), request.probe_timeout_s()};
  RETURN_IF_ERROR(CheckProbe(probe));
  if (host_.components->Find(name) != nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("component ", name, " runs on host ", host_.config.host));
  }
  ASSIGN_OR_RETURN(const migration::Targets::GhostOf ghost, targets_.FindGhost(name));
  ASSIGN_OR_RETURN(const std::string fence, Fence(name, ghost.source, request.fenced()));
  ASSIGN_OR_RETURN(v1::FailoverResponse response, targets_.Failover(ghost.id, probe));
  host_.Event(name, "failover",
              absl::StrCat("from an instant ", static_cast<int64_t>(response.age_s() * 1e3),
                           " ms old; host ", ghost.source, " is fenced by ", fence));
  response.set_fence(fence);
  ASSIGN_OR_RETURN(*response.mutable_component(), Described(name));
  return response;
}

void Agent::FailedOver(const std::string& name, const std::string& host, uint64_t epoch) {
  absl::StatusOr<ComponentRow> row = host_.journal.GetComponent(name);
  if (!row.ok() || row->epoch >= epoch) return;
  // First what it may say to anybody, then what it does.
  std::shared_ptr<Copy> copy = host_.components->Find(name);
  if (copy == nullptr) {
    copy = std::make_shared<Copy>(name, keeper::KeeperSocket(host_.config.run_dir, name, ""));
  }
  (void)copy->FenceUp(Deadline::After(kDestroyTimeout));
  host_.components->Remove(name);
  const absl::Status destroyed = copy->Destroy(Deadline::After(kDestroyTimeout));
  if (!destroyed.ok()) host_.Event(name, "cleanup-failed", destroyed.message());
  row->state = v1::LEFT;
  row->where = host;
  row->epoch = epoch;
  row->migration_id.clear();
  if (const absl::Status kept = host_.journal.PutComponent(*row); !kept.ok()) {
    spdlog::error("component {}: {}", name, kept.ToString());
  }
  host_.Event(name, "failed-over",
              absl::StrCat("host ", host, " started it from an instant, with epoch ", epoch,
                           ": the copy here has been ended"));
}

}  // namespace starling::agent
