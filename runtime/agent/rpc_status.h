#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "base/status.h"

// absl's and gRPC's status codes are the same numbers; these carry one over into the other.

namespace starling {

inline grpc::Status ToGrpc(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.raw_code()),
                      std::string(status.message()));
}

inline absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace starling
