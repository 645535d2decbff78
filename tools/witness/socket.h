#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace starling::witness {

// An IPv4 address and port.
struct Endpoint {
  uint32_t address = 0;  // host byte order
  uint16_t port = 0;

  // Parses "10.77.0.50:6379".
  static absl::StatusOr<Endpoint> Parse(absl::string_view text);
  std::string ToString() const;
};

// Owns a socket descriptor; empty is -1.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept;
  Socket& operator=(Socket&& other) noexcept;
  ~Socket();

  int fd() const { return fd_; }

 private:
  int fd_ = -1;
};

// Connects over TCP; tries again until `deadline_ns`, since the server may only just be starting.
// The socket does not block and does not delay small segments. kDeadlineExceeded: names the last
// cause.
absl::StatusOr<Socket> ConnectTcp(const Endpoint& server, int64_t deadline_ns);

// A UDP socket bound to `port` of every address. Its receive calls give up after `timeout_ms`.
absl::StatusOr<Socket> ListenUdp(uint16_t port, int timeout_ms);

}  // namespace starling::witness
