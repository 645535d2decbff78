#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "runtime/proto/starling.grpc.pb.h"

namespace starling::agent {

// Another host's agent, over gRPC. Every call has a deadline; an unreachable peer answers
// kUnavailable or kDeadlineExceeded with the peer's name and address in the message. Thread-safe.
class PeerClient {
 public:
  // `credentials`: this host's. The peer must show a certificate with its name, unless they are
  // insecure.
  PeerClient(std::string name, std::string address,
             const std::shared_ptr<grpc::ChannelCredentials>& credentials);

  const std::string& name() const { return name_; }
  const std::string& address() const { return address_; }
  // For other services of the same agent.
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  absl::StatusOr<v1::HelloResponse> Hello(const v1::HelloRequest& request, Deadline deadline);
  absl::StatusOr<v1::ExamineResponse> Examine(const v1::ExamineRequest& request, Deadline deadline);
  absl::StatusOr<v1::ReserveResponse> Reserve(const v1::ReserveRequest& request, Deadline deadline);
  absl::StatusOr<v1::GrowResponse> Grow(const v1::GrowRequest& request, Deadline deadline);
  absl::StatusOr<v1::RenewResponse> Renew(const v1::RenewRequest& request, Deadline deadline);
  absl::StatusOr<v1::RestoreResponse> Restore(const v1::RestoreRequest& request, Deadline deadline);
  absl::StatusOr<v1::ProbeResponse> Probe(const v1::ProbeRequest& request, Deadline deadline);
  absl::StatusOr<v1::VerdictResponse> Commit(const v1::CommitRequest& request, Deadline deadline);
  absl::StatusOr<v1::VerdictResponse> Abort(const v1::AbortRequest& request, Deadline deadline);
  absl::StatusOr<v1::VerdictResponse> Query(const v1::QueryRequest& request, Deadline deadline);
  absl::StatusOr<v1::OpenOfferResponse> OpenOffer(const v1::OpenOfferRequest& request,
                                                  Deadline deadline);
  absl::StatusOr<v1::DrainOfferResponse> DrainOffer(const v1::DrainOfferRequest& request,
                                                    Deadline deadline);

  // Sends every regular file of `folder` but those whose name `skip` accepts; returns the bytes
  // sent.
  // One stream of a component's files: `send` hands over the pieces. Its error, or the target's.
  absl::Status SendFiles(
      const std::function<absl::Status(const std::function<bool(const v1::FilePiece&)>&)>& send,
      Deadline deadline);
  absl::StatusOr<uint64_t> SendImages(const std::string& migration_id, const std::string& folder,
                                      const std::function<bool(const std::string&)>& skip,
                                      Deadline deadline);

 private:
  template <typename Method, typename Request>
  auto Call(Method method, const Request& request, Deadline deadline);

  absl::Status Named(const absl::Status& status) const;

  std::string name_;
  std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Peer::Stub> stub_;
};

// True for the codes that say that nothing was heard: whether the peer acted on the call is not
// known.
bool Unheard(const absl::Status& status);

}  // namespace starling::agent
