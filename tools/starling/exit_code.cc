#include "tools/starling/exit_code.h"

namespace starling::cli {

ExitCode ExitCodeOf(absl::StatusCode code, bool agent_answered) {
  if (!agent_answered) {
    switch (code) {
      // What a broken connection is reported as, depending on where it breaks.
      case absl::StatusCode::kUnavailable:
      case absl::StatusCode::kUnknown:
      case absl::StatusCode::kCancelled:
      case absl::StatusCode::kInternal:
        return ExitCode::kAgentUnreachable;
      default:
        break;
    }
  }
  switch (code) {
    case absl::StatusCode::kOk:
      return ExitCode::kOk;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return ExitCode::kUsage;
    case absl::StatusCode::kNotFound:
      return ExitCode::kNotFound;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kResourceExhausted:
      return ExitCode::kRefused;
    case absl::StatusCode::kAborted:
      return ExitCode::kCalledOff;
    case absl::StatusCode::kUnknown:
      return ExitCode::kInDoubt;
    case absl::StatusCode::kUnavailable:
      return ExitCode::kPeerUnreachable;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return ExitCode::kNotPermitted;
    default:
      return ExitCode::kFailed;
  }
}

ExitCode MigrationExitCode(v1::Step last_step, absl::StatusCode code, bool agent_answered) {
  if (last_step == v1::DONE) return ExitCode::kOk;
  if (last_step == v1::CALLED_OFF) return ExitCode::kCalledOff;
  // A stream that ended well without a last word: an agent that does not keep to the protocol.
  if (code == absl::StatusCode::kOk) return ExitCode::kFailed;
  return ExitCodeOf(code, agent_answered);
}

}  // namespace starling::cli
