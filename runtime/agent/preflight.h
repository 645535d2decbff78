#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "runtime/agent/components.h"
#include "runtime/agent/host.h"
#include "runtime/agent/peer_client.h"

namespace starling::agent {

// All that stands in the way of moving the component to the peer; nothing is started. Errors: what
// keeps this host or that one from looking.
absl::StatusOr<v1::CheckResponse> Preflight(Host& host, const std::string& name, Copy& copy,
                                            const ComponentRow& row, PeerClient& peer);

}  // namespace starling::agent
