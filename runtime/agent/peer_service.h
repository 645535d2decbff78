#pragma once

#include "runtime/agent/agent.h"
#include "runtime/proto/starling.grpc.pb.h"

namespace starling::agent {

// The calls of other agents: checks who calls and whether it may, and translates; the meaning is
// Agent's and Targets'. A migration belongs to the host whose certificate reserved it.
// Thread-safe.
class PeerService final : public v1::Peer::Service {
 public:
  PeerService(Agent& agent, migration::Targets& targets) : agent_(agent), targets_(targets) {}

  grpc::Status Hello(grpc::ServerContext*, const v1::HelloRequest*, v1::HelloResponse*) override;
  grpc::Status Examine(grpc::ServerContext*, const v1::ExamineRequest*,
                       v1::ExamineResponse*) override;
  grpc::Status Reserve(grpc::ServerContext*, const v1::ReserveRequest*,
                       v1::ReserveResponse*) override;
  grpc::Status Grow(grpc::ServerContext*, const v1::GrowRequest*, v1::GrowResponse*) override;
  grpc::Status Renew(grpc::ServerContext*, const v1::RenewRequest*, v1::RenewResponse*) override;
  grpc::Status SendImages(grpc::ServerContext*, grpc::ServerReader<v1::ImagePiece>*,
                          v1::ImagesResponse*) override;
  grpc::Status SendFiles(grpc::ServerContext*, grpc::ServerReader<v1::FilePiece>*,
                         v1::FilesResponse*) override;
  grpc::Status Restore(grpc::ServerContext*, const v1::RestoreRequest*,
                       v1::RestoreResponse*) override;
  grpc::Status Probe(grpc::ServerContext*, const v1::ProbeRequest*, v1::ProbeResponse*) override;
  grpc::Status Commit(grpc::ServerContext*, const v1::CommitRequest*,
                      v1::VerdictResponse*) override;
  grpc::Status Abort(grpc::ServerContext*, const v1::AbortRequest*, v1::VerdictResponse*) override;
  grpc::Status Query(grpc::ServerContext*, const v1::QueryRequest*, v1::VerdictResponse*) override;
  grpc::Status OpenOffer(grpc::ServerContext*, const v1::OpenOfferRequest*,
                         v1::OpenOfferResponse*) override;
  grpc::Status DrainOffer(grpc::ServerContext*, const v1::DrainOfferRequest*,
                          v1::DrainOfferResponse*) override;

 private:
  const ControlSecurity& security() const { return *agent_.host().security; }
  // Of the calls about one migration: it is the caller's.
  absl::Status CheckOwner(const grpc::ServerContext& context, absl::string_view what,
                          const std::string& migration_id);
  // Of the calls about what a migration away from here left behind: the caller is the host it says
  // it is. Whether the migration went there, the offer knows.
  absl::Status CheckTaker(const grpc::ServerContext& context, absl::string_view what,
                          const std::string& migration_id, const std::string& host);

  Agent& agent_;
  migration::Targets& targets_;
};

}  // namespace starling::agent
