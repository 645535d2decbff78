#include <string>

#include "absl/strings/str_cat.h"
#include "runtime/security/certificates.h"
#include "tools/starling/commands.h"

namespace starling::cli {
namespace {

ExitCode CodeOf(const absl::Status& status) {
  if (absl::IsInvalidArgument(status)) return ExitCode::kUsage;
  if (absl::IsAlreadyExists(status) || absl::IsFailedPrecondition(status))
    return ExitCode::kRefused;
  if (absl::IsPermissionDenied(status)) return ExitCode::kNotPermitted;
  return ExitCode::kFailed;
}

}  // namespace

ExitCode Cert(Io& io, const CertOptions& options) {
  absl::StatusOr<security::Made> made;
  if (options.host.empty()) {
    made = security::MakeAuthority(options.out,
                                   options.days > 0 ? options.days : security::kAuthorityDays);
  } else {
    security::HostRequest request;
    request.authority = options.authority.empty() ? options.out : options.authority;
    request.folder = options.out;
    request.host = options.host;
    request.addresses = options.addresses;
    if (options.days > 0) request.days = options.days;
    made = security::MakeHostCertificate(request);
  }
  if (!made.ok()) return Fail(io, CodeOf(made.status()), made.status().message());
  io.out << "wrote " << made->certificate << " and " << made->key << ", good until " << made->ends
         << std::endl;
  return ExitCode::kOk;
}

}  // namespace starling::cli
