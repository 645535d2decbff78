#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "runtime/agent/components.h"
#include "runtime/agent/host.h"
#include "runtime/agent/peer_client.h"
#include "runtime/preflight/component_facts.h"
#include "runtime/preflight/source_check.h"

namespace starling::agent {

// What the keeper's component is made of now, and what this host is.
absl::StatusOr<preflight::ComponentFacts> Gather(const Host& host, const v1::ComponentSpec& spec,
                                                 const keeper::v1::Status& status);
preflight::SourceHost ThisHost(const Host& host);

// All that stands in the way of moving the component to the peer over the transport (empty: this
// host's own); nothing is started. Errors: what keeps this host or that one from looking.
absl::StatusOr<v1::CheckResponse> Preflight(Host& host, Copy& copy, const ComponentRow& row,
                                            PeerClient& peer, const std::string& transport);

}  // namespace starling::agent
