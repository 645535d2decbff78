#pragma once

#include <compare>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace starling::checkpoint {

// CRIU's version. Both hosts of a migration must have the same major and minor: images are only
// promised to be read by the version that wrote them or a later one, and the page server's messages
// have changed.
struct CriuVersion {
  int major = 0;
  int minor = 0;
  int sublevel = 0;
  friend auto operator<=>(const CriuVersion&, const CriuVersion&) = default;
};

// From "3.17.1", "4.2" or the first line of `criu --version` ("Version: 3.17.1"). Numbers only: a
// suffix ("4.2-rc1") is refused, since nobody can say what its messages look like.
// Errors: kInvalidArgument naming the text.
absl::StatusOr<CriuVersion> ParseCriuVersion(absl::string_view text);

// "3.17.1"; the sublevel is left out when it is 0.
std::string FormatCriuVersion(const CriuVersion& version);

}  // namespace starling::checkpoint
