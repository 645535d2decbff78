#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "runtime/agent/peer_client.h"
#include "runtime/migration/source.h"
#include "runtime/proto/ghost.pb.h"

// What hosts that keep ghosts are asked for, beside what every target is. Errors as PeerClient's.

namespace starling::migration {

absl::StatusOr<v1::ReserveResponse> KeepGhost(const agent::PeerClient& peer,
                                              const v1::ReserveRequest& reserve,
                                              const GhostTerms& terms, Deadline deadline);

// Sends the skeleton in `folder` as that of the ghost's `instant`. Returns the bytes sent.
absl::StatusOr<uint64_t> SendInstant(const agent::PeerClient& peer, const std::string& migration_id,
                                     uint64_t instant, const std::string& folder,
                                     Deadline deadline);

absl::StatusOr<v1::CommitInstantResponse> CommitInstant(const agent::PeerClient& peer,
                                                        const v1::CommitInstantRequest& instant,
                                                        Deadline deadline);

// Asked of a component's source by the host that keeps a ghost of it.
absl::StatusOr<v1::StandingResponse> AskStanding(const agent::PeerClient& peer,
                                                 const v1::StandingRequest& request,
                                                 Deadline deadline);

}  // namespace starling::migration
