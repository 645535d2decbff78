#include "base/random.h"

#include <sys/random.h>

#include <cerrno>

#include "base/status.h"

namespace starling {

absl::Status FillRandom(std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t got = ::getrandom(bytes.data(), bytes.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return ErrnoStatus("ask the kernel for random bytes");
    bytes = bytes.subspan(static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> RandomBytes(size_t count) {
  std::string bytes(count, '\0');
  RETURN_IF_ERROR(FillRandom(std::as_writable_bytes(std::span(bytes))));
  return bytes;
}

}  // namespace starling
