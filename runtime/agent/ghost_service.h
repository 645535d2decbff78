#pragma once

#include <string>

#include "runtime/agent/agent.h"
#include "runtime/proto/ghost.grpc.pb.h"

namespace starling::agent {

// `starling ghost` and `starling failover`, over the local socket. Thread-safe.
class GhostService final : public v1::Ghosts::Service {
 public:
  explicit GhostService(Agent& agent) : agent_(agent) {}
  grpc::Status Add(grpc::ServerContext*, const v1::AddGhostRequest*,
                   v1::AddGhostResponse*) override;
  grpc::Status List(grpc::ServerContext*, const v1::ListGhostsRequest*,
                    v1::ListGhostsResponse*) override;
  grpc::Status Drop(grpc::ServerContext*, const v1::DropGhostRequest*,
                    v1::DropGhostResponse*) override;
  grpc::Status Failover(grpc::ServerContext*, const v1::FailoverRequest*,
                        v1::FailoverResponse*) override;

 private:
  Agent& agent_;
};

// The same between agents. What is asked of a ghost is asked of its migration, which belongs to the
// host that reserved it. Thread-safe.
class GhostPeerService final : public v1::GhostPeer::Service {
 public:
  GhostPeerService(Agent& agent, migration::Targets& targets) : agent_(agent), targets_(targets) {}
  grpc::Status Keep(grpc::ServerContext*, const v1::KeepGhostRequest*,
                    v1::ReserveResponse*) override;
  grpc::Status SendInstant(grpc::ServerContext*, grpc::ServerReader<v1::InstantPiece>*,
                           v1::ImagesResponse*) override;
  grpc::Status CommitInstant(grpc::ServerContext*, const v1::CommitInstantRequest*,
                             v1::CommitInstantResponse*) override;
  grpc::Status Standing(grpc::ServerContext*, const v1::StandingRequest*,
                        v1::StandingResponse*) override;

 private:
  absl::Status CheckOwner(const grpc::ServerContext& context, absl::string_view what,
                          const std::string& migration_id);
  const ControlSecurity& security() const { return *agent_.host().security; }

  Agent& agent_;
  migration::Targets& targets_;
};

}  // namespace starling::agent
