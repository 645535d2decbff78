#include "runtime/agent/peer_service.h"

#include "absl/strings/str_cat.h"
#include "runtime/agent/rpc_status.h"
#include "runtime/migration/images.h"
#include "runtime/migration/offers.h"
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

absl::Status PeerService::CheckOwner(const grpc::ServerContext& context, absl::string_view what,
                                     const std::string& migration_id) {
  ASSIGN_OR_RETURN(const std::string caller, security().Caller(context, what));
  if (security().insecure()) return absl::OkStatus();
  RETURN_IF_ERROR(CheckMigrationId(migration_id));
  const std::string owner = targets_.Owner(migration_id);
  // One that nobody began is nobody's: the answer to it is that it never will be.
  if (owner.empty() || owner == caller) return absl::OkStatus();
  const std::string refused =
      absl::StrCat("migration ", migration_id, " is not host ", caller, "'s");
  security().refusals().Add("ownership", absl::StrCat(what, ": ", refused));
  return absl::PermissionDeniedError(refused);
}

absl::Status PeerService::CheckTaker(const grpc::ServerContext& context, absl::string_view what,
                                     const std::string& migration_id, const std::string& host) {
  ASSIGN_OR_RETURN(const std::string caller, security().Caller(context, what));
  RETURN_IF_ERROR(CheckMigrationId(migration_id));
  const absl::Status takes = !security().insecure() && caller != host
                                 ? absl::PermissionDeniedError(absl::StrCat(
                                       "host ", caller, " says that it is host ", host))
                                 : agent_.host().offers->MayTake(migration_id, host);
  if (absl::IsPermissionDenied(takes)) {
    security().refusals().Add("ownership", absl::StrCat(what, ": ", takes.message()));
  }
  return takes;
}

grpc::Status PeerService::Hello(grpc::ServerContext* context, const v1::HelloRequest* request,
                                v1::HelloResponse* response) {
  const absl::StatusOr<std::string> caller = security().Caller(*context, "Hello");
  if (!caller.ok()) return ToGrpc(caller.status());
  if (request->protocol() != kProtocol) {
    return ToGrpc(absl::FailedPreconditionError(
        absl::StrCat("host ", agent_.host().config.host, " speaks protocol ", kProtocol,
                     " and host ", request->host(), " ", request->protocol(),
                     ": bring both to the same version of Starling")));
  }
  *response = agent_.Hello();
  return grpc::Status::OK;
}

grpc::Status PeerService::Examine(grpc::ServerContext* context, const v1::ExamineRequest* request,
                                  v1::ExamineResponse* response) {
  const absl::StatusOr<std::string> caller = security().Caller(*context, "Examine");
  if (!caller.ok()) return ToGrpc(caller.status());
  const absl::Status may = security().Check(*caller, request->source_host(), request->spec().name(),
                                            security::Direction::kFrom);
  if (!may.ok()) return ToGrpc(may);
  return Answer(agent_.Examine(*request), response);
}

grpc::Status PeerService::Reserve(grpc::ServerContext* context, const v1::ReserveRequest* request,
                                  v1::ReserveResponse* response) {
  const absl::StatusOr<std::string> caller = security().Caller(*context, "Reserve");
  if (!caller.ok()) return ToGrpc(caller.status());
  const absl::Status may = security().Check(*caller, request->source_host(), request->spec().name(),
                                            security::Direction::kFrom);
  if (!may.ok()) return ToGrpc(may);
  return Answer(targets_.Reserve(*request), response);
}

grpc::Status PeerService::Grow(grpc::ServerContext* context, const v1::GrowRequest* request,
                               v1::GrowResponse* response) {
  const absl::Status owns = CheckOwner(*context, "Grow", request->migration_id());
  if (!owns.ok()) return ToGrpc(owns);
  return Answer(targets_.Grow(*request), response);
}

grpc::Status PeerService::Renew(grpc::ServerContext* context, const v1::RenewRequest* request,
                                v1::RenewResponse*) {
  const absl::Status owns = CheckOwner(*context, "Renew", request->migration_id());
  if (!owns.ok()) return ToGrpc(owns);
  return ToGrpc(targets_.Renew(request->migration_id()));
}

grpc::Status PeerService::SendImages(grpc::ServerContext* context,
                                     grpc::ServerReader<v1::ImagePiece>* reader,
                                     v1::ImagesResponse* response) {
  v1::ImagePiece piece;
  if (!reader->Read(&piece))
    return ToGrpc(absl::InvalidArgumentError("a stream of images without any"));
  const absl::Status owns = CheckOwner(*context, "SendImages", piece.migration_id());
  if (!owns.ok()) return ToGrpc(owns);
  const absl::StatusOr<std::string> folder = targets_.ImagesFolder(piece.migration_id());
  if (!folder.ok()) return ToGrpc(folder.status());
  migration::ImageReceiver receiver(*folder);
  do {
    if (const absl::Status taken = receiver.Take(piece); !taken.ok()) return ToGrpc(taken);
  } while (reader->Read(&piece));
  if (const absl::Status whole = receiver.Finish(); !whole.ok()) return ToGrpc(whole);
  response->set_bytes(receiver.bytes());
  return grpc::Status::OK;
}

grpc::Status PeerService::SendFiles(grpc::ServerContext* context,
                                    grpc::ServerReader<v1::FilePiece>* reader,
                                    v1::FilesResponse* response) {
  v1::FilePiece piece;
  if (!reader->Read(&piece))
    return ToGrpc(absl::InvalidArgumentError("a stream of files without any"));
  const absl::Status owns = CheckOwner(*context, "SendFiles", piece.migration_id());
  if (!owns.ok()) return ToGrpc(owns);
  const absl::StatusOr<std::shared_ptr<migration::FileReceiver>> receiver =
      targets_.Files(piece.migration_id());
  if (!receiver.ok()) return ToGrpc(receiver.status());
  do {
    if (const absl::Status taken = (*receiver)->Take(piece); !taken.ok()) return ToGrpc(taken);
  } while (reader->Read(&piece));
  if (const absl::Status synced = (*receiver)->Sync(); !synced.ok()) return ToGrpc(synced);
  response->set_bytes((*receiver)->bytes());
  return grpc::Status::OK;
}

grpc::Status PeerService::Restore(grpc::ServerContext* context, const v1::RestoreRequest* request,
                                  v1::RestoreResponse* response) {
  const absl::Status owns = CheckOwner(*context, "Restore", request->migration_id());
  if (!owns.ok()) return ToGrpc(owns);
  return Answer(targets_.Restore(*request), response);
}

grpc::Status PeerService::Probe(grpc::ServerContext* context, const v1::ProbeRequest* request,
                                v1::ProbeResponse* response) {
  const absl::Status owns = CheckOwner(*context, "Probe", request->migration_id());
  if (!owns.ok()) return ToGrpc(owns);
  return Answer(targets_.Probe(*request), response);
}

grpc::Status PeerService::Commit(grpc::ServerContext* context, const v1::CommitRequest* request,
                                 v1::VerdictResponse* response) {
  const absl::Status owns = CheckOwner(*context, "Commit", request->migration_id());
  if (!owns.ok()) return ToGrpc(owns);
  return Answer(targets_.Commit(*request), response);
}

grpc::Status PeerService::Abort(grpc::ServerContext* context, const v1::AbortRequest* request,
                                v1::VerdictResponse* response) {
  const absl::Status owns = CheckOwner(*context, "Abort", request->migration_id());
  if (!owns.ok()) return ToGrpc(owns);
  return Answer(targets_.Abort(request->migration_id(), request->reason()), response);
}

grpc::Status PeerService::Query(grpc::ServerContext* context, const v1::QueryRequest* request,
                                v1::VerdictResponse* response) {
  const absl::Status owns = CheckOwner(*context, "Query", request->migration_id());
  if (!owns.ok()) return ToGrpc(owns);
  return Answer(targets_.Query(request->migration_id()), response);
}

grpc::Status PeerService::OpenOffer(grpc::ServerContext* context,
                                    const v1::OpenOfferRequest* request,
                                    v1::OpenOfferResponse* response) {
  const absl::Status takes =
      CheckTaker(*context, "OpenOffer", request->migration_id(), request->host());
  if (!takes.ok()) return ToGrpc(takes);
  return Answer(agent_.host().offers->Open(*request), response);
}

grpc::Status PeerService::DrainOffer(grpc::ServerContext* context,
                                     const v1::DrainOfferRequest* request,
                                     v1::DrainOfferResponse*) {
  const absl::Status takes =
      CheckTaker(*context, "DrainOffer", request->migration_id(), request->host());
  if (!takes.ok()) return ToGrpc(takes);
  return ToGrpc(agent_.host().offers->Drain(*request));
}

}  // namespace starling::agent
