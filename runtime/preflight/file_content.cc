#include "runtime/preflight/file_content.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/status.h"
#include "runtime/preflight/build_id.h"

namespace starling::preflight {
namespace {

absl::StatusOr<uint64_t> HashFile(int fd, const std::string& path) {
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(),
                                                                       &XXH3_freeState);
  XXH3_64bits_reset(state.get());
  std::vector<char> buffer(256 * kKiB);
  uint64_t offset = 0;
  while (offset <= kMaxHashedBytes) {
    const ssize_t n = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(absl::StrCat("reading ", path));
    if (n == 0) break;
    XXH3_64bits_update(state.get(), buffer.data(), static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  // 0 stands for "not taken"; the one content in 2^64 that hashes to it becomes 1 on both sides.
  return std::max<uint64_t>(XXH3_64bits_digest(state.get()), 1);
}

}  // namespace

int64_t ModifiedNs(const struct stat& stat) {
  return int64_t{stat.st_mtim.tv_sec} * 1'000'000'000 + stat.st_mtim.tv_nsec;
}

absl::StatusOr<FileContent> LookAtFile(const std::string& path, Hash want_hash) {
  // Opened as a path first: opening a device or FIFO for reading could act or block.
  const UniqueFd there(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!there) return ErrnoStatus(path);
  FileContent content;
  if (::fstat(there.get(), &content.stat) != 0) return ErrnoStatus(path);
  if (!S_ISREG(content.stat.st_mode) || want_hash == Hash::kNever) return content;

  const std::string again = absl::StrCat("/proc/self/fd/", there.get());
  const UniqueFd fd(::open(again.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!fd) return ErrnoStatus(path);
  content.build_id = ReadBuildId(fd.get());
  const bool small = static_cast<uint64_t>(content.stat.st_size) <= kMaxHashedBytes;
  if (small && (want_hash == Hash::kAlways || content.build_id.empty())) {
    ASSIGN_OR_RETURN(content.hash, HashFile(fd.get(), path));
  }
  return content;
}

}  // namespace starling::preflight
