#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// Error types are absl::Status and absl::StatusOr everywhere on setup and control paths. The
// function that decides that something is an error says so once, with cause and errno; callers add
// context with Annotate() and pass it on.

namespace starling {

// The status for `error` (an errno value) with "what: <strerror>" as its message.
absl::Status ErrnoStatus(int error, absl::string_view what);

// The status for the current errno.
absl::Status ErrnoStatus(absl::string_view what);

// `status` with "context: " put before its message; an OK status is passed through.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

}  // namespace starling

#define STARLING_CONCAT_INNER(a, b) a##b
#define STARLING_CONCAT(a, b) STARLING_CONCAT_INNER(a, b)

// The name is one that no member has: `status_` would hide the member in RETURN_IF_ERROR(status_).
#define RETURN_IF_ERROR(expression)                                         \
  do {                                                                      \
    if (absl::Status returned_error = (expression); !returned_error.ok()) { \
      return returned_error;                                                \
    }                                                                       \
  } while (false)

#define ASSIGN_OR_RETURN(target, expression) \
  ASSIGN_OR_RETURN_IMPL(STARLING_CONCAT(status_or_, __LINE__), target, expression)
#define ASSIGN_OR_RETURN_IMPL(holder, target, expression) \
  auto holder = (expression);                             \
  if (!holder.ok()) return holder.status();               \
  target = std::move(holder).value()
