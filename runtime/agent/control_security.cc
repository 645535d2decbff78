#include "runtime/agent/control_security.h"

#include <grpc/support/log.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <stdlib.h>

#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/names.h"

namespace starling::agent {
namespace {

// gRPC 1.51 has no setting for the least version of TLS, but one for the ciphers of TLS 1.2: one
// that needs a key shared beforehand, which there never is, leaves TLS 1.3 alone.
constexpr char kNoOlderCipher[] = "PSK-AES256-GCM-SHA384";

// gRPC tells of a failed handshake in its log alone, and its log is one for the process.
std::mutex living_mutex;
security::Refusals* living = nullptr;

void TakeGrpcLog(gpr_log_func_args* args) {
  const absl::string_view message(args->message);
  if (absl::StartsWith(message, "Handshake failed")) {
    const std::lock_guard lock(living_mutex);
    if (living != nullptr) living->Add("certificate", message);
    return;
  }
  spdlog::debug("gRPC: {}", args->message);
}

bool OnLoopback(const std::string& listen) {
  const absl::StatusOr<Endpoint> endpoint = ParseEndpoint(listen);
  return endpoint.ok() &&
         (absl::StartsWith(endpoint->address, "127.") || endpoint->address == "localhost");
}

std::vector<std::string> PeerNames(const Config& config) {
  std::vector<std::string> names;
  for (const PeerConfig& peer : config.peers) names.push_back(peer.name);
  return names;
}

}  // namespace

void ControlSecurity::Prepare() {
  ::setenv("GRPC_SSL_CIPHER_SUITES", kNoOlderCipher, /*overwrite=*/1);
  gpr_set_log_function(TakeGrpcLog);
}

ControlSecurity::ControlSecurity(const Config& config, security::Credentials credentials,
                                 security::Refusals::Tell tell)
    : credentials_(std::move(credentials)),
      roles_(config.security.allow, PeerNames(config)),
      refusals_(std::move(tell)) {
  const std::lock_guard lock(living_mutex);
  living = &refusals_;
}

ControlSecurity::~ControlSecurity() {
  const std::lock_guard lock(living_mutex);
  if (living == &refusals_) living = nullptr;
}

absl::StatusOr<std::unique_ptr<ControlSecurity>> ControlSecurity::Load(
    const Config& config, security::Refusals::Tell tell) {
  security::Credentials credentials;
  if (config.security.has_certificates()) {
    ASSIGN_OR_RETURN(credentials,
                     security::LoadCredentials({config.security.authority,
                                                config.security.certificate, config.security.key},
                                               config.host));
  } else if (!config.security.insecure) {
    std::vector<std::pair<absl::string_view, std::string>> listens = {
        {"control.listen", config.control.listen}, {"data.listen", config.data.listen}};
    if (config.Opens("roce")) listens.emplace_back("roce.listen", config.roce.listen);
    for (const auto& [key, listen] : listens) {
      if (OnLoopback(listen)) continue;
      return absl::FailedPreconditionError(absl::StrCat(
          key, " is ", listen,
          ", beyond loopback, and this agent has no certificates: whoever reached it could take "
          "its "
          "components. Make certificates with `starling cert` and name them in [security], or set "
          "security.insecure = true (--insecure) where nobody else is on the network"));
    }
  }
  return std::unique_ptr<ControlSecurity>(
      new ControlSecurity(config, std::move(credentials), std::move(tell)));
}

std::shared_ptr<grpc::ServerCredentials> ControlSecurity::server() const {
  if (insecure()) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options(
      GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = credentials_.authority;
  options.pem_key_cert_pairs.push_back({credentials_.key, credentials_.certificate});
  return grpc::SslServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> ControlSecurity::channel() const {
  if (insecure()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = credentials_.authority;
  options.pem_private_key = credentials_.key;
  options.pem_cert_chain = credentials_.certificate;
  return grpc::SslCredentials(options);
}

absl::StatusOr<std::string> ControlSecurity::Caller(const grpc::ServerContext& context,
                                                    absl::string_view what) const {
  if (insecure()) return std::string();
  const auto auth = context.auth_context();
  const std::vector<grpc::string_ref> names = auth == nullptr
                                                  ? std::vector<grpc::string_ref>()
                                                  : auth->FindPropertyValues("x509_common_name");
  if (names.size() != 1 || !auth->IsPeerAuthenticated()) {
    refusals_.Add("certificate", absl::StrCat(what, ": a caller without a certificate"));
    return absl::UnauthenticatedError("a certificate is needed");
  }
  std::string caller(names[0].data(), names[0].size());
  // The name is the authority's word, but not necessarily one of ours.
  absl::Status may = CheckHostName(caller);
  if (may.ok()) may = roles_.MayCall(caller);
  if (may.ok()) return caller;
  refusals_.Add("role", absl::StrCat(what, ": ", may.message()));
  return absl::PermissionDeniedError(may.message());
}

absl::Status ControlSecurity::Check(const std::string& caller, absl::string_view claimed,
                                    absl::string_view component,
                                    security::Direction direction) const {
  if (insecure()) return absl::OkStatus();
  absl::Status may;
  if (caller != claimed) {
    may = absl::PermissionDeniedError(
        absl::StrCat("host ", caller, " says that it is host ", claimed));
  } else {
    may = roles_.MayMove(caller, component, direction);
  }
  if (!may.ok()) refusals_.Add("role", may.message());
  return may;
}

}  // namespace starling::agent
