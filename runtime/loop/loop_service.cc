#include "runtime/loop/loop_service.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "runtime/agent/rpc_status.h"
#include "runtime/loop/messages.h"
#include "runtime/names.h"

namespace starling::loop {

using reservations::Kind;
using reservations::Lease;

namespace {

absl::StatusOr<Duration> LengthOf(double seconds) {
  if (std::isfinite(seconds) && seconds > 0 && seconds <= Seconds(reservations::Ledger::kLongest)) {
    return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
  }
  return absl::InvalidArgumentError(absl::StrCat("a lease of ", seconds,
                                                 " s; allowed is more than 0 and at most ",
                                                 Seconds(reservations::Ledger::kLongest)));
}

}  // namespace

grpc::Status LoopService::Forecast(grpc::ServerContext*, const v1::ForecastRequest* request,
                                   v1::ForecastResponse* response) {
  absl::StatusOr<v1::ForecastResponse> forecast = loop_.Forecast(*request);
  if (!forecast.ok()) return ToGrpc(forecast.status());
  *response = *std::move(forecast);
  return grpc::Status::OK;
}

grpc::Status LoopService::Leases(grpc::ServerContext*, const v1::LeasesRequest*,
                                 v1::LeasesResponse* response) {
  *response = loop_.Leases();
  return grpc::Status::OK;
}

grpc::Status LoopService::Why(grpc::ServerContext*, const v1::WhyRequest* request,
                              v1::WhyResponse* response) {
  absl::StatusOr<v1::WhyResponse> why = loop_.Why(*request);
  if (!why.ok()) return ToGrpc(why.status());
  *response = *std::move(why);
  return grpc::Status::OK;
}

grpc::Status LoopService::Park(grpc::ServerContext*, const v1::ParkRequest* request,
                               v1::ParkResponse*) {
  return ToGrpc(loop_.Park(request->name()));
}

grpc::Status LoopService::Unpark(grpc::ServerContext*, const v1::UnparkRequest* request,
                                 v1::UnparkResponse*) {
  return ToGrpc(loop_.Unpark(request->name()));
}

absl::Status LoopPeerService::CheckCaller(const grpc::ServerContext& context,
                                          absl::string_view what, const std::string& host) const {
  ASSIGN_OR_RETURN(const std::string caller, host_.security->Caller(context, what));
  RETURN_IF_ERROR(CheckHostName(host));
  if (host_.security->insecure() || caller == host) return absl::OkStatus();
  const std::string refused = absl::StrCat("host ", caller, " says that it is host ", host);
  host_.security->refusals().Add("ownership", absl::StrCat(what, ": ", refused));
  return absl::PermissionDeniedError(refused);
}

grpc::Status LoopPeerService::Answer(const absl::StatusOr<Lease>& lease,
                                     v1::LeaseResponse* response) const {
  if (!lease.ok()) return ToGrpc(lease.status());
  *response->mutable_lease() = ToMessage(*lease, host_.config.host, Clock::now());
  return grpc::Status::OK;
}

grpc::Status LoopPeerService::Look(grpc::ServerContext* context, const v1::LookRequest* request,
                                   v1::LookResponse* response) {
  const absl::Status may = CheckCaller(*context, "Look", request->host());
  if (!may.ok()) return ToGrpc(may);
  *response = loop_.Look(request->host(), request->changes());
  return grpc::Status::OK;
}

absl::StatusOr<Lease> LoopPeerService::Grant(const grpc::ServerContext& context,
                                             const v1::AskLeaseRequest& request) {
  const v1::LeaseInfo& wanted = request.lease();
  ASSIGN_OR_RETURN(const std::string caller, host_.security->Caller(context, "AskLease"));
  RETURN_IF_ERROR(CheckHostName(request.host()));
  RETURN_IF_ERROR(CheckComponentName(wanted.component()));
  RETURN_IF_ERROR(host_.security->Check(caller, request.host(), wanted.component(),
                                        security::Direction::kFrom));
  reservations::Ask ask;
  ask.id = wanted.id();
  ask.holder = request.host();
  ask.component = wanted.component();
  ask.priority = wanted.priority();
  if (wanted.kind() != "soft" && wanted.kind() != "firm") {
    return absl::InvalidArgumentError("a lease is asked for as \"soft\" or as \"firm\"");
  }
  ask.kind = wanted.kind() == "firm" ? Kind::kFirm : Kind::kSoft;
  ask.may_borrow = request.may_borrow();
  ask.amount = FromMessage(wanted.amount());
  ASSIGN_OR_RETURN(ask.length, LengthOf(request.length_s()));
  return leases_.Grant(Clock::now(), ask);
}

grpc::Status LoopPeerService::AskLease(grpc::ServerContext* context,
                                       const v1::AskLeaseRequest* request,
                                       v1::LeaseResponse* response) {
  const absl::StatusOr<Lease> lease = Grant(*context, *request);
  if (lease.ok() && request->files_size() > 0) {
    loop_.warmth().Warm(lease->id, {request->files().begin(), request->files().end()});
  }
  return Answer(lease, response);
}

grpc::Status LoopPeerService::RenewLease(grpc::ServerContext* context,
                                         const v1::RenewLeaseRequest* request,
                                         v1::LeaseResponse* response) {
  const absl::Status may = CheckCaller(*context, "RenewLease", request->host());
  if (!may.ok()) return ToGrpc(may);
  const absl::StatusOr<Duration> length = LengthOf(request->length_s());
  if (!length.ok()) return ToGrpc(length.status());
  std::optional<reservations::Amounts> amount;
  if (request->has_amount()) amount = FromMessage(request->amount());
  return Answer(leases_.Renew(Clock::now(), request->id(), request->host(), *length, amount),
                response);
}

grpc::Status LoopPeerService::ClaimLease(grpc::ServerContext* context,
                                         const v1::ClaimLeaseRequest* request,
                                         v1::LeaseResponse* response) {
  const absl::Status may = CheckCaller(*context, "ClaimLease", request->host());
  if (!may.ok()) return ToGrpc(may);
  return Answer(leases_.Claim(Clock::now(), request->id(), request->host()), response);
}

grpc::Status LoopPeerService::GiveBackLease(grpc::ServerContext* context,
                                            const v1::GiveBackLeaseRequest* request,
                                            v1::GiveBackLeaseResponse*) {
  const absl::Status may = CheckCaller(*context, "GiveBackLease", request->host());
  if (!may.ok()) return ToGrpc(may);
  const absl::Status given = leases_.GiveBack(Clock::now(), request->id(), request->host());
  if (given.ok()) loop_.warmth().Drop(request->id());
  return ToGrpc(given);
}

}  // namespace starling::loop
