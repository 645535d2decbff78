#pragma once

#include <netinet/in.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/fd.h"

// Addresses and TCP sockets, as the providers need them. Private to the room.

namespace starling::transport {

// An IPv4 address or a host's name that stands for one. kNotFound.
absl::StatusOr<sockaddr_in> Resolve(const std::string& address, uint16_t port);

// "10.77.0.1:40100"
std::string AddressText(const sockaddr* address);
// "10.77.0.1:40100 -> 10.77.0.2:7401"
std::string SocketText(int socket);

// A non-blocking one.
absl::StatusOr<UniqueFd> TcpSocket();
// kUnavailable when nobody listens there. `what` begins the message, as below.
absl::StatusOr<UniqueFd> ConnectTcp(const std::string& address, uint16_t port, Deadline deadline,
                                    absl::string_view what);
// `port` 0 lets the kernel choose. kAlreadyExists when somebody listens there.
absl::StatusOr<UniqueFd> ListenTcp(const std::string& address, uint16_t port);

// On non-blocking sockets. kUnavailable when the peer has gone.
absl::Status Await(int socket, int16_t events, Deadline deadline, absl::string_view what);
absl::Status WriteWhole(int socket, std::span<const std::byte> bytes, Deadline deadline,
                        absl::string_view what);
absl::Status ReadWhole(int socket, std::span<std::byte> bytes, Deadline deadline,
                       absl::string_view what);

}  // namespace starling::transport
