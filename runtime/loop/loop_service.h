#pragma once

#include <string>

#include "runtime/loop/loop.h"
#include "runtime/proto/loop.grpc.pb.h"

namespace starling::loop {

// `starling forecast`, `leases` and `why`, over the local socket. Thread-safe.
class LoopService final : public v1::Loop::Service {
 public:
  explicit LoopService(Loop& loop) : loop_(loop) {}
  grpc::Status Forecast(grpc::ServerContext*, const v1::ForecastRequest*,
                        v1::ForecastResponse*) override;
  grpc::Status Leases(grpc::ServerContext*, const v1::LeasesRequest*, v1::LeasesResponse*) override;
  grpc::Status Why(grpc::ServerContext*, const v1::WhyRequest*, v1::WhyResponse*) override;
  grpc::Status Park(grpc::ServerContext*, const v1::ParkRequest*, v1::ParkResponse*) override;
  grpc::Status Unpark(grpc::ServerContext*, const v1::UnparkRequest*, v1::UnparkResponse*) override;

 private:
  Loop& loop_;
};

// The same between agents: a peer with a role here may look; it may ask for leases for components
// that it may move here, and holds what it asked for. Thread-safe.
class LoopPeerService final : public v1::LoopPeer::Service {
 public:
  LoopPeerService(const agent::Host& host, Loop& loop, reservations::LeaseDesk& leases)
      : host_(host), loop_(loop), leases_(leases) {}
  grpc::Status Look(grpc::ServerContext*, const v1::LookRequest*, v1::LookResponse*) override;
  grpc::Status AskLease(grpc::ServerContext*, const v1::AskLeaseRequest*,
                        v1::LeaseResponse*) override;
  grpc::Status RenewLease(grpc::ServerContext*, const v1::RenewLeaseRequest*,
                          v1::LeaseResponse*) override;
  grpc::Status ClaimLease(grpc::ServerContext*, const v1::ClaimLeaseRequest*,
                          v1::LeaseResponse*) override;
  grpc::Status GiveBackLease(grpc::ServerContext*, const v1::GiveBackLeaseRequest*,
                             v1::GiveBackLeaseResponse*) override;

 private:
  // Whether the caller is the host that it says it is.
  absl::Status CheckCaller(const grpc::ServerContext& context, absl::string_view what,
                           const std::string& host) const;
  absl::StatusOr<reservations::Lease> Grant(const grpc::ServerContext& context,
                                            const v1::AskLeaseRequest& request);
  grpc::Status Answer(const absl::StatusOr<reservations::Lease>& lease,
                      v1::LeaseResponse* response) const;

  const agent::Host& host_;
  Loop& loop_;
  reservations::LeaseDesk& leases_;
};

}  // namespace starling::loop
