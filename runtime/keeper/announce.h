#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "runtime/keeper/netns.h"

namespace starling::keeper {

// Tells everybody on the component's network that its address is at this host now: gratuitous ARP,
// as a request and as a reply, since switches and hosts differ in which they believe (RFC 5227,
// 5944).
class Announcer {
 public:
  static absl::StatusOr<Announcer> Create(const NetworkNamespace& network, const MacAddress& mac,
                                          const Ipv4Prefix& address);

  // Sends one of each. Not stopped by an error of the first.
  absl::Status SendOnce() const;

 private:
  UniqueFd socket_;  // stays in the component's namespace
  int device_ = 0;
  MacAddress mac_;
  Ipv4Prefix address_;
};

}  // namespace starling::keeper
