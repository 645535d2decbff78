#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/config.h"
#include "runtime/security/certificates.h"
#include "runtime/security/refusals.h"
#include "runtime/security/roles.h"

namespace starling::agent {

// How this host's agent and the others know one another: mutual TLS 1.3 with certificates of one
// authority, and what each may do. Made once at start. Thread-safe.
class ControlSecurity {
 public:
  // Before gRPC is used for the first time: from then on it makes no TLS older than 1.3, and what
  // it refuses in a handshake comes to `refusals` of the ControlSecurity that lives.
  static void Prepare();

  // Reads the certificates. `tell` hears of refusals that are new. Errors: those of
  // LoadCredentials(); kFailedPrecondition when the agent would listen beyond loopback without any
  // and the configuration does not say that it may.
  static absl::StatusOr<std::unique_ptr<ControlSecurity>> Load(const Config& config,
                                                               security::Refusals::Tell tell);
  ~ControlSecurity();

  // Nobody is known: no certificates. Told in every report.
  bool insecure() const { return credentials_.certificate.empty(); }
  // "2027-11-21"; empty when insecure.
  const std::string& certificate_ends() const { return credentials_.ends; }
  int certificate_days_left() const { return credentials_.days_left; }

  std::shared_ptr<grpc::ServerCredentials> server() const;
  std::shared_ptr<grpc::ChannelCredentials> channel() const;

  // The host that calls, as its certificate says; empty when insecure. kUnauthenticated without
  // one, kPermissionDenied for a host without a role here. Refusals are counted.
  absl::StatusOr<std::string> Caller(const grpc::ServerContext& context,
                                     absl::string_view what) const;
  // Whether `caller` (of Caller()) may be the one that calls itself `claimed`, and may move the
  // component as asked. Always when insecure.
  absl::Status Check(const std::string& caller, absl::string_view claimed,
                     absl::string_view component, security::Direction direction) const;

  const security::Roles& roles() const { return roles_; }
  security::Refusals& refusals() const { return refusals_; }

 private:
  ControlSecurity(const Config& config, security::Credentials credentials,
                  security::Refusals::Tell tell);

  const security::Credentials credentials_;
  const security::Roles roles_;
  mutable security::Refusals refusals_;
};

}  // namespace starling::agent
