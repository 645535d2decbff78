#include "runtime/agent/peer_client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <filesystem>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/xxh3.h"
#include "runtime/agent/rpc_status.h"

namespace starling::agent {
namespace {

// Large enough to be few messages, small enough to stay under gRPC's default limit of 4 MiB.
constexpr size_t kPieceBytes = 1u << 20;

void SetDeadline(grpc::ClientContext& context, Deadline deadline) {
  context.set_deadline(std::chrono::system_clock::now() + deadline.Left());
}

}  // namespace

PeerClient::PeerClient(std::string name, std::string address,
                       const std::shared_ptr<grpc::ChannelCredentials>& credentials)
    : name_(std::move(name)), address_(std::move(address)) {
  grpc::ChannelArguments arguments;
  // A link that was cut and healed must be found again in about a second, not after gRPC's two
  // minutes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  // Also the least time that an attempt is given, and a handshake may take long on a busy host.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5'000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
  arguments.SetInt(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, 64 << 20);
  // Each peer has a channel of its own, and no proxy from the environment stands between hosts of a
  // pool.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Who answers is checked by name: an address says where a host is, not which.
  arguments.SetSslTargetNameOverride(name_);
  channel_ = grpc::CreateCustomChannel(address_, credentials, arguments);
  stub_ = v1::Peer::NewStub(channel_);
}

absl::Status PeerClient::Named(const absl::Status& status) const {
  return Annotate(status, absl::StrCat("host ", name_, " (", address_, ")"));
}

template <typename Method, typename Request>
auto PeerClient::Call(Method method, const Request& request, Deadline deadline) {
  using Response = std::remove_pointer_t<decltype(
      []<typename R>(grpc::Status (v1::Peer::Stub::*)(grpc::ClientContext*, const Request&,
                                                      R*)) -> R* { return nullptr; }(method))>;
  grpc::ClientContext context;
  SetDeadline(context, deadline);
  Response response;
  const grpc::Status status = (stub_.get()->*method)(&context, request, &response);
  if (!status.ok()) return absl::StatusOr<Response>(Named(FromGrpc(status)));
  return absl::StatusOr<Response>(std::move(response));
}

absl::StatusOr<v1::HelloResponse> PeerClient::Hello(const v1::HelloRequest& request,
                                                    Deadline deadline) {
  return Call(&v1::Peer::Stub::Hello, request, deadline);
}
absl::StatusOr<v1::ExamineResponse> PeerClient::Examine(const v1::ExamineRequest& request,
                                                        Deadline deadline) {
  return Call(&v1::Peer::Stub::Examine, request, deadline);
}
absl::StatusOr<v1::ReserveResponse> PeerClient::Reserve(const v1::ReserveRequest& request,
                                                        Deadline deadline) {
  return Call(&v1::Peer::Stub::Reserve, request, deadline);
}
absl::StatusOr<v1::GrowResponse> PeerClient::Grow(const v1::GrowRequest& request,
                                                  Deadline deadline) {
  return Call(&v1::Peer::Stub::Grow, request, deadline);
}
absl::StatusOr<v1::RenewResponse> PeerClient::Renew(const v1::RenewRequest& request,
                                                    Deadline deadline) {
  return Call(&v1::Peer::Stub::Renew, request, deadline);
}
absl::StatusOr<v1::RestoreResponse> PeerClient::Restore(const v1::RestoreRequest& request,
                                                        Deadline deadline) {
  return Call(&v1::Peer::Stub::Restore, request, deadline);
}
absl::StatusOr<v1::ProbeResponse> PeerClient::Probe(const v1::ProbeRequest& request,
                                                    Deadline deadline) {
  return Call(&v1::Peer::Stub::Probe, request, deadline);
}
absl::StatusOr<v1::VerdictResponse> PeerClient::Commit(const v1::CommitRequest& request,
                                                       Deadline deadline) {
  return Call(&v1::Peer::Stub::Commit, request, deadline);
}
absl::StatusOr<v1::VerdictResponse> PeerClient::Abort(const v1::AbortRequest& request,
                                                      Deadline deadline) {
  return Call(&v1::Peer::Stub::Abort, request, deadline);
}
absl::StatusOr<v1::VerdictResponse> PeerClient::Query(const v1::QueryRequest& request,
                                                      Deadline deadline) {
  return Call(&v1::Peer::Stub::Query, request, deadline);
}

absl::StatusOr<v1::OpenOfferResponse> PeerClient::OpenOffer(const v1::OpenOfferRequest& request,
                                                            Deadline deadline) {
  return Call(&v1::Peer::Stub::OpenOffer, request, deadline);
}
absl::StatusOr<v1::DrainOfferResponse> PeerClient::DrainOffer(const v1::DrainOfferRequest& request,
                                                              Deadline deadline) {
  return Call(&v1::Peer::Stub::DrainOffer, request, deadline);
}

absl::StatusOr<uint64_t> PeerClient::SendImages(const std::string& migration_id,
                                                const std::string& folder,
                                                const std::function<bool(const std::string&)>& skip,
                                                Deadline deadline) {
  grpc::ClientContext context;
  SetDeadline(context, deadline);
  v1::ImagesResponse response;
  auto writer = stub_->SendImages(&context, &response);
  uint64_t sent = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string file = entry.path().filename().string();
    if (!entry.is_regular_file(error) || entry.is_symlink(error) || skip(file)) continue;
    ASSIGN_OR_RETURN(const std::string content, ReadFile(entry.path().string()));
    for (size_t at = 0; at == 0 || at < content.size(); at += kPieceBytes) {
      v1::ImagePiece piece;
      piece.set_migration_id(migration_id);
      piece.set_file(file);
      piece.set_data(content.substr(at, kPieceBytes));
      piece.set_last(at + kPieceBytes >= content.size());
      if (piece.last()) piece.set_hash(Xxh3(content.data(), content.size()));
      // Together with the next ones: there are dozens of small images, and the component waits.
      // A false answer means that the stream has broken; Finish() then says why.
      if (!writer->Write(piece, grpc::WriteOptions().set_buffer_hint())) break;
    }
    sent += content.size();
  }
  writer->WritesDone();
  const grpc::Status status = writer->Finish();
  if (!status.ok()) return Named(FromGrpc(status));
  if (error) return ErrnoStatus(error.value(), absl::StrCat("read folder ", folder));
  if (response.bytes() != sent) {
    return Named(absl::DataLossError(
        absl::StrCat("took ", response.bytes(), " of ", sent, " bytes of images")));
  }
  return sent;
}

absl::Status PeerClient::SendFiles(
    const std::function<absl::Status(const std::function<bool(const v1::FilePiece&)>&)>& send,
    Deadline deadline) {
  grpc::ClientContext context;
  SetDeadline(context, deadline);
  v1::FilesResponse response;
  auto writer = stub_->SendFiles(&context, &response);
  const absl::Status sent =
      send([&writer](const v1::FilePiece& piece) { return writer->Write(piece); });
  // A piece that is not taken says that the stream has broken; the target's answer says why.
  if (!sent.ok() && !absl::IsUnavailable(sent)) context.TryCancel();
  writer->WritesDone();
  const grpc::Status status = writer->Finish();
  if (!sent.ok() && !absl::IsUnavailable(sent)) return sent;
  if (!status.ok()) return Named(FromGrpc(status));
  return sent;
}

bool Unheard(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsCancelled(status);
}

}  // namespace starling::agent
