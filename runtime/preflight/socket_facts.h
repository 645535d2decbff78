#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace starling::preflight {

struct SocketFact {
  uint64_t inode = 0;
  int family = 0;           // AF_*
  int type = 0;             // SOCK_*
  int protocol = 0;         // IPPROTO_*
  int state = 0;            // TCP only: TCP_* of netinet/tcp.h
  uint64_t network = 0;     // inode of its network namespace, 0: not to be found out
  uint64_t peer_inode = 0;  // Unix only: of the connected socket, 0: none
  std::string peer_name;    // Unix only: what the peer is bound to, '@' first if abstract
  std::string name;         // for people: "10.0.0.2:6379 - 10.0.0.3:40112", "/run/x.sock"
};

// What socket `inode`, descriptor `fd` of process `pid`, is. Borrows a copy of the descriptor for
// the time of the call (pidfd_getfd(2)), the process does not notice.
// Errors: kNotFound when the descriptor is gone or another by now; others from the kernel.
absl::StatusOr<SocketFact> LookAtSocket(int pid, int fd, uint64_t inode);

struct UnixSocket {
  uint64_t peer_inode = 0;
  std::string name;  // '@' first if abstract, empty if not bound
};

// All Unix sockets of process `pid`'s network namespace by inode (sock_diag(7)).
absl::StatusOr<std::map<uint64_t, UnixSocket>> UnixSockets(int pid);

}  // namespace starling::preflight
