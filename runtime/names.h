#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// The rules for what people and peers write: checked by the command line, and again by the agent,
// which trusts nobody. All pure; errors are kInvalidArgument, naming the text and the rule.

namespace starling {

// [a-z0-9][a-z0-9-]{0,47}: it becomes part of paths, cgroup and interface names.
absl::Status CheckComponentName(absl::string_view name);

// A named group of components. As a component's.
absl::Status CheckApplicationName(absl::string_view name);

// Whom a component is to be near to or apart from: another one, or "application:NAME", all others
// of that application.
inline constexpr absl::string_view kOfApplication = "application:";
absl::Status CheckRelation(absl::string_view text);

// [A-Za-z0-9][A-Za-z0-9._-]{0,63}.
absl::Status CheckHostName(absl::string_view name);

// A person, of whom there may be a profile: [A-Za-z0-9][A-Za-z0-9._@-]{0,30}.
absl::Status CheckProfileUser(absl::string_view name);

// [0-9a-f-]{1,64}.
absl::Status CheckMigrationId(absl::string_view id);

// Absolute, at most 4095 bytes, no NUL, no "." or ".." part, no empty part ("//").
absl::Status CheckAbsolutePath(absl::string_view path);

// An IPv4 address that a host may have: not loopback, multicast or 0.0.0.0.
absl::Status CheckHostAddress(absl::string_view text);

struct IpPrefix {
  std::string address;  // "10.77.0.50"
  int length = 0;       // 24
};

// "ADDR/LEN": IPv4, LEN 1 to 32, an address that a host may have (not the network's own nor its
// broadcast address, loopback, multicast or 0.0.0.0).
absl::StatusOr<IpPrefix> ParseIpPrefix(absl::string_view text);

struct Endpoint {
  std::string address;  // an IPv4 address or a host name
  uint16_t port = 0;    // 1 to 65535
};

// "ADDR:PORT".
absl::StatusOr<Endpoint> ParseEndpoint(absl::string_view text);

}  // namespace starling
