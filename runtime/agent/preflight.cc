#include "runtime/agent/preflight.h"

#include <algorithm>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "runtime/migration/images.h"
#include "runtime/migration/make_source.h"
#include "runtime/names.h"
#include "runtime/preflight/component_facts.h"
#include "runtime/preflight/host_facts.h"
#include "runtime/preflight/limits.h"
#include "runtime/preflight/source_check.h"
#include "runtime/preflight/storage_token.h"
#include "runtime/preflight/target_check.h"

namespace starling::agent {
namespace {

constexpr auto kKeeperTimeout = std::chrono::seconds(10);
// Files come and go while two hosts are looked at one after the other.
constexpr int kMostLooks = 5;
constexpr auto kBetweenLooks = std::chrono::milliseconds(50);

// One look at the component and at the peer's side. True if one of the obstacles may be gone at the
// next look: it is a file on shared storage, which may have been opened and removed (a database's
// journal) between the two.
absl::StatusOr<bool> ExamineBothSides(Host& host, const keeper::v1::Status& status,
                                      const ComponentRow& row, PeerClient& peer,
                                      v1::CheckResponse& response) {
  ASSIGN_OR_RETURN(const preflight::ComponentFacts facts, Gather(host, row.spec, status));
  for (v1::Obstacle& obstacle : preflight::CheckSource(facts))
    *response.add_obstacles() = std::move(obstacle);
  v1::ExamineRequest examine = preflight::MakeExamineRequest(facts, ThisHost(host));
  std::vector<v1::Obstacle> storage;
  const preflight::StorageTokens tokens = preflight::StorageTokens::Write(
      absl::StrCat("/proc/", status.root_pid(), "/root"), host.config.host, &examine, &storage);
  for (v1::Obstacle& obstacle : storage) *response.add_obstacles() = std::move(obstacle);
  ASSIGN_OR_RETURN(const v1::ExamineResponse answer,
                   peer.Examine(examine, Deadline::After(host.config.migration.step_timeout)));
  bool passing = false;
  for (const v1::Obstacle& obstacle : answer.obstacles()) {
    *response.add_obstacles() = obstacle;
    for (const v1::FileFact& file : examine.files()) {
      passing = passing || (file.shared() && file.path() == obstacle.thing());
    }
  }
  return passing;
}

v1::Obstacle NoRole(const std::string& host, const absl::Status& why) {
  return preflight::MakeObstacle(preflight::Limit::kNoRole, host, {{"cause", why.message()}});
}

}  // namespace

absl::StatusOr<preflight::ComponentFacts> Gather(const Host& host, const v1::ComponentSpec& spec,
                                                 const keeper::v1::Status& status) {
  preflight::GatherOptions gather;
  gather.cgroup_path = status.cgroup();
  gather.root_pid = status.root_pid();
  gather.carried.push_back(migration::LogPath(host.config.log_dir, spec.name()));
  return preflight::GatherComponent(spec, gather);
}

preflight::SourceHost ThisHost(const Host& host) {
  preflight::SourceHost source;
  source.host = host.config.host;
  source.cpu_flags = preflight::CpuFlags();
  source.kernel = host.kernel;
  source.criu = checkpoint::FormatCriuVersion(host.criu->version);
  source.protocol = kProtocol;
  return source;
}

absl::StatusOr<v1::CheckResponse> Preflight(Host& host, Copy& copy, const ComponentRow& row,
                                            PeerClient& peer, const std::string& transport) {
  v1::CheckResponse response;
  ASSIGN_OR_RETURN(const transport::Fabric* const fabric, host.Transport(transport));
  if (!host.criu.ok()) return host.criu.status();
  response.set_provider(fabric->name());
  response.set_insecure(host.security->insecure());
  if (const absl::Status may =
          host.security->roles().MayMove(peer.name(), row.spec.name(), security::Direction::kTo);
      !host.security->insecure() && !may.ok()) {
    host.security->refusals().Add("role", may.message());
    *response.add_obstacles() = NoRole(host.config.host, may);
    return response;
  }
  v1::HelloRequest hello;
  hello.set_protocol(kProtocol);
  hello.set_host(host.config.host);
  const absl::StatusOr<v1::HelloResponse> said =
      peer.Hello(hello, Deadline::After(host.config.migration.peer_timeout));
  if (absl::IsUnavailable(said.status()) || absl::IsDeadlineExceeded(said.status())) {
    const v1::Obstacle obstacle = preflight::MakeObstacle(
        preflight::Limit::kPeerUnreachable, peer.name(), {{"cause", said.status().message()}});
    return absl::UnavailableError(
        absl::StrCat(obstacle.reason(), " [", obstacle.code(), "] ", obstacle.mend()));
  }
  if (absl::IsPermissionDenied(said.status()) || absl::IsUnauthenticated(said.status())) {
    *response.add_obstacles() = NoRole(peer.name(), said.status());
    return response;
  }
  RETURN_IF_ERROR(said.status());
  const v1::HelloResponse& greeting = *said;
  if (greeting.host() != peer.name()) {
    return absl::FailedPreconditionError(absl::StrCat("host ", peer.name(), " at ", peer.address(),
                                                      " calls itself ", greeting.host(),
                                                      ": mend the [[peer]] of that address"));
  }
  if (const auto& offered = greeting.providers();
      std::find(offered.begin(), offered.end(), fabric->name()) == offered.end()) {
    const auto& closed = greeting.closed_providers();
    if (const auto why = closed.find(fabric->name()); why != closed.end()) {
      *response.add_obstacles() =
          preflight::MakeObstacle(preflight::Limit::kTransportNotOpen, peer.name(),
                                  {{"transport", fabric->name()}, {"cause", why->second}});
      return response;
    }
    *response.add_obstacles() = preflight::MakeObstacle(
        preflight::Limit::kTransportNotOffered, peer.name(),
        {{"transport", fabric->name()},
         {"offered", offered.empty() ? "none" : absl::StrJoin(offered, ", ")}});
    return response;
  }
  response.set_peer_kernel(greeting.kernel());
  response.set_peer_criu(greeting.criu());
  ASSIGN_OR_RETURN(const keeper::v1::Status status, copy.Status(Deadline::After(kKeeperTimeout)));
  ASSIGN_OR_RETURN(const std::string tracker,
                   migration::ChooseTracker(host.config.migration.tracker,
                                            migration::FactsFor(status.cgroup(), *host.criu)));
  response.set_tracker(tracker);
  for (int look = 1;; ++look) {
    response.clear_obstacles();
    const absl::StatusOr<bool> looked = ExamineBothSides(host, status, row, peer, response);
    if (absl::IsPermissionDenied(looked.status())) {
      *response.add_obstacles() = NoRole(peer.name(), looked.status());
      return response;
    }
    ASSIGN_OR_RETURN(const bool passing, looked);
    if (!passing || look == kMostLooks) return response;
    std::this_thread::sleep_for(kBetweenLooks);
  }
}

}  // namespace starling::agent
