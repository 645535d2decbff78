#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"

namespace starling {

// open(2) with O_CLOEXEC added; the error names the path.
absl::StatusOr<UniqueFd> OpenFile(const std::string& path, int flags, unsigned mode = 0644);

// The whole content, at most `limit` bytes (kResourceExhausted beyond). Works for /proc and /sys
// files too.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t limit = 64u << 20);

// Writes into an existing file (a cgroup or proc knob) with one write(2).
absl::Status WriteKnob(const std::string& path, absl::string_view value);

// Replaces `path` by a file with this content: a temporary file beside it, fsync, rename. After a
// crash either the old or the new content is there, never a mix.
absl::Status WriteFileAtomic(const std::string& path, absl::string_view content,
                             unsigned mode = 0644);

// All of `data` to `fd`, over partial writes and EINTR.
absl::Status WriteAll(int fd, const void* data, size_t size);

// Exactly `size` bytes; false (and OK) when the stream ended before the first byte; kDataLoss when
// it ended inside.
absl::StatusOr<bool> ReadExactly(int fd, void* data, size_t size);

// mkdir -p; an existing folder is fine.
absl::Status MakeDirectories(const std::string& path, unsigned mode = 0755);

// rm -r; a missing path is fine. Does not follow symbolic links nor cross into other file systems'
// mounts by intent: callers hand in only folders that they made.
absl::Status RemoveTree(const std::string& path);

}  // namespace starling
