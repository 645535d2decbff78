#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/fd.h"

namespace starling {

// Local message sockets (AF_UNIX, SOCK_SEQPACKET): message borders are kept, descriptors can ride
// along.

// Longest message in bytes. Larger content goes through a file or memfd whose descriptor is passed.
inline constexpr size_t kMaxUnixMessage = 64 * 1024;

struct UnixMessage {
  std::string bytes;          // empty: the peer closed
  std::vector<UniqueFd> fds;  // at most 8
};

struct UnixPair {
  UniqueFd first;
  UniqueFd second;
};

// Binds and listens; an old socket file at `path` is replaced. `path` has at most 107 bytes.
absl::StatusOr<UniqueFd> ListenUnix(const std::string& path, unsigned mode = 0600);
absl::StatusOr<UniqueFd> ConnectUnix(const std::string& path);
absl::StatusOr<UniqueFd> AcceptUnix(int listener);
absl::StatusOr<UnixPair> MakeUnixPair();

// Descriptors are borrowed, the kernel duplicates them.
absl::Status SendUnix(int socket, absl::string_view bytes, const std::vector<int>& fds = {});

// Waits until `deadline`: kDeadlineExceeded then. Received descriptors are close-on-exec.
absl::StatusOr<UnixMessage> ReceiveUnix(int socket, Deadline deadline = Deadline::Never());

}  // namespace starling
