#include "runtime/agent/ghost_service.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "runtime/agent/rpc_status.h"
#include "runtime/migration/images.h"
#include "runtime/names.h"

namespace starling::agent {
namespace {

template <typename T>
grpc::Status Answer(absl::StatusOr<T> result, T* response) {
  if (!result.ok()) return ToGrpc(result.status());
  *response = *std::move(result);
  return grpc::Status::OK;
}

}  // namespace

grpc::Status GhostService::Add(grpc::ServerContext*, const v1::AddGhostRequest* request,
                               v1::AddGhostResponse* response) {
  v1::GhostWish wish = request->wish();
  wish.set_by_loop(false);  // whoever calls is none
  absl::StatusOr<v1::GhostInfo> ghost = agent_.AddGhost(std::move(wish));
  if (!ghost.ok()) return ToGrpc(ghost.status());
  *response->mutable_ghost() = *std::move(ghost);
  return grpc::Status::OK;
}

grpc::Status GhostService::List(grpc::ServerContext*, const v1::ListGhostsRequest*,
                                v1::ListGhostsResponse* response) {
  *response = agent_.ListGhosts();
  return grpc::Status::OK;
}

grpc::Status GhostService::Drop(grpc::ServerContext*, const v1::DropGhostRequest* request,
                                v1::DropGhostResponse*) {
  return ToGrpc(agent_.DropGhost(request->component(), request->on()));
}

grpc::Status GhostService::Failover(grpc::ServerContext*, const v1::FailoverRequest* request,
                                    v1::FailoverResponse* response) {
  return Answer(agent_.Failover(*request), response);
}

absl::Status GhostPeerService::CheckOwner(const grpc::ServerContext& context,
                                          absl::string_view what, const std::string& migration_id) {
  ASSIGN_OR_RETURN(const std::string caller, security().Caller(context, what));
  RETURN_IF_ERROR(CheckMigrationId(migration_id));
  if (security().insecure()) return absl::OkStatus();
  const std::string owner = targets_.Owner(migration_id);
  if (owner == caller) return absl::OkStatus();
  const std::string refused =
      absl::StrCat("migration ", migration_id, " is not host ", caller, "'s");
  security().refusals().Add("ownership", absl::StrCat(what, ": ", refused));
  return absl::PermissionDeniedError(refused);
}

grpc::Status GhostPeerService::Keep(grpc::ServerContext* context,
                                    const v1::KeepGhostRequest* request,
                                    v1::ReserveResponse* response) {
  const absl::StatusOr<std::string> caller = security().Caller(*context, "Keep");
  if (!caller.ok()) return ToGrpc(caller.status());
  const v1::ReserveRequest& reserve = request->reserve();
  const absl::Status may = security().Check(*caller, reserve.source_host(), reserve.spec().name(),
                                            security::Direction::kFrom);
  if (!may.ok()) return ToGrpc(may);
  return Answer(targets_.Reserve(reserve, &request->wish()), response);
}

grpc::Status GhostPeerService::SendInstant(grpc::ServerContext* context,
                                           grpc::ServerReader<v1::InstantPiece>* reader,
                                           v1::ImagesResponse* response) {
  v1::InstantPiece piece;
  if (!reader->Read(&piece))
    return ToGrpc(absl::InvalidArgumentError("a stream of images without any"));
  const absl::Status owns = CheckOwner(*context, "SendInstant", piece.piece().migration_id());
  if (!owns.ok()) return ToGrpc(owns);
  const absl::StatusOr<std::string> folder =
      targets_.InstantFolder(piece.piece().migration_id(), piece.instant());
  if (!folder.ok()) return ToGrpc(folder.status());
  migration::ImageReceiver receiver(*folder);
  do {
    if (const absl::Status taken = receiver.Take(piece.piece()); !taken.ok()) return ToGrpc(taken);
  } while (reader->Read(&piece));
  if (const absl::Status whole = receiver.Finish(); !whole.ok()) return ToGrpc(whole);
  response->set_bytes(receiver.bytes());
  return grpc::Status::OK;
}

grpc::Status GhostPeerService::CommitInstant(grpc::ServerContext* context,
                                             const v1::CommitInstantRequest* request,
                                             v1::CommitInstantResponse* response) {
  const absl::Status owns = CheckOwner(*context, "CommitInstant", request->migration_id());
  if (!owns.ok()) return ToGrpc(owns);
  if (!std::isfinite(request->age_s()) || !std::isfinite(request->taken()))
    return ToGrpc(absl::InvalidArgumentError("an instant of no time"));
  return Answer(targets_.CommitInstant(*request), response);
}

grpc::Status GhostPeerService::Standing(grpc::ServerContext* context,
                                        const v1::StandingRequest* request,
                                        v1::StandingResponse* response) {
  const absl::StatusOr<std::string> caller = security().Caller(*context, "Standing");
  if (!caller.ok()) return ToGrpc(caller.status());
  absl::Status may = CheckComponentName(request->component());
  if (may.ok()) {
    may =
        security().Check(*caller, request->host(), request->component(), security::Direction::kTo);
  }
  if (!may.ok()) return ToGrpc(may);
  *response = agent_.Standing(request->component());
  return grpc::Status::OK;
}

}  // namespace starling::agent
