#include "runtime/migration/ghost_peer.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "base/xxh3.h"
#include "runtime/agent/rpc_status.h"
#include "runtime/migration/images.h"
#include "runtime/proto/ghost.grpc.pb.h"

namespace starling::migration {
namespace {

// As PeerClient's: under gRPC's default limit.
constexpr size_t kPieceBytes = 1u << 20;

void SetDeadline(grpc::ClientContext& context, Deadline deadline) {
  context.set_deadline(std::chrono::system_clock::now() + deadline.Left());
}

absl::Status Named(const agent::PeerClient& peer, const absl::Status& status) {
  return Annotate(status, absl::StrCat("host ", peer.name(), " (", peer.address(), ")"));
}

template <typename Request, typename Response>
absl::StatusOr<Response> Call(const agent::PeerClient& peer,
                              grpc::Status (v1::GhostPeer::Stub::*method)(grpc::ClientContext*,
                                                                          const Request&,
                                                                          Response*),
                              const Request& request, Deadline deadline) {
  const auto stub = v1::GhostPeer::NewStub(peer.channel());
  grpc::ClientContext context;
  SetDeadline(context, deadline);
  Response response;
  const grpc::Status status = (stub.get()->*method)(&context, request, &response);
  if (!status.ok()) return Named(peer, FromGrpc(status));
  return response;
}

}  // namespace

absl::StatusOr<v1::ReserveResponse> KeepGhost(const agent::PeerClient& peer,
                                              const v1::ReserveRequest& reserve,
                                              const GhostTerms& terms, Deadline deadline) {
  v1::KeepGhostRequest request;
  *request.mutable_reserve() = reserve;
  v1::GhostWish& wish = *request.mutable_wish();
  wish.set_component(reserve.spec().name());
  wish.set_on(peer.name());
  wish.set_warm(terms.warm);
  wish.set_rate_bytes_per_s(terms.rate_bytes_per_s);
  wish.set_every_s(terms.every_s);
  wish.set_by_loop(terms.by_loop);
  wish.set_checkpoint_every_s(terms.instants ? terms.checkpoint_every_s : 0);
  return Call(peer, &v1::GhostPeer::Stub::Keep, request, deadline);
}

absl::StatusOr<uint64_t> SendInstant(const agent::PeerClient& peer, const std::string& migration_id,
                                     uint64_t instant, const std::string& folder,
                                     Deadline deadline) {
  const auto stub = v1::GhostPeer::NewStub(peer.channel());
  grpc::ClientContext context;
  SetDeadline(context, deadline);
  v1::ImagesResponse response;
  const auto writer = stub->SendInstant(&context, &response);
  uint64_t sent = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string file = entry.path().filename().string();
    if (!entry.is_regular_file(error) || entry.is_symlink(error) || !IsSkeletonImage(file))
      continue;
    ASSIGN_OR_RETURN(const std::string content, ReadFile(entry.path().string()));
    for (size_t at = 0; at == 0 || at < content.size(); at += kPieceBytes) {
      v1::InstantPiece out;
      out.set_instant(instant);
      v1::ImagePiece& piece = *out.mutable_piece();
      piece.set_migration_id(migration_id);
      piece.set_file(file);
      piece.set_data(content.substr(at, kPieceBytes));
      piece.set_last(at + kPieceBytes >= content.size());
      if (piece.last()) piece.set_hash(Xxh3(content.data(), content.size()));
      // A false answer means that the stream has broken; Finish() then says why.
      if (!writer->Write(out)) break;
    }
    sent += content.size();
  }
  writer->WritesDone();
  const grpc::Status status = writer->Finish();
  if (!status.ok()) return Named(peer, FromGrpc(status));
  if (error) return ErrnoStatus(error.value(), absl::StrCat("read folder ", folder));
  if (response.bytes() != sent) {
    return Named(peer, absl::DataLossError(absl::StrCat("took ", response.bytes(), " of ", sent,
                                                        " bytes of an instant's images")));
  }
  return sent;
}

absl::StatusOr<v1::CommitInstantResponse> CommitInstant(const agent::PeerClient& peer,
                                                        const v1::CommitInstantRequest& instant,
                                                        Deadline deadline) {
  return Call(peer, &v1::GhostPeer::Stub::CommitInstant, instant, deadline);
}

absl::StatusOr<v1::StandingResponse> AskStanding(const agent::PeerClient& peer,
                                                 const v1::StandingRequest& request,
                                                 Deadline deadline) {
  return Call(peer, &v1::GhostPeer::Stub::Standing, request, deadline);
}

}  // namespace starling::migration
