#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "base/units.h"

namespace starling::preflight {

// What two hosts compare of a regular file.
struct FileContent {
  struct stat stat = {};
  std::string build_id;
  uint64_t hash = 0;  // XXH3-64; 0: not taken
};

// Larger files are compared without their content.
inline constexpr uint64_t kMaxHashedBytes = 16 * kMiB;

// Looks at `path` without following a last symbolic link into a device or blocking on a FIFO: only
// regular files are opened. `want_hash`: when the hash is taken (never beyond kMaxHashedBytes).
// Errors: those of open(2) and stat(2) as absl codes, naming the path.
enum class Hash { kNever, kWithoutBuildId, kAlways };
absl::StatusOr<FileContent> LookAtFile(const std::string& path, Hash want_hash);

int64_t ModifiedNs(const struct stat& stat);

}  // namespace starling::preflight
