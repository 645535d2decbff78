#pragma once

#include <string>

#include "runtime/proto/ghost.pb.h"

// What `starling ghost` and `starling failover` show, as pure functions of the agent's messages; as
// render.h. Text ends with a newline, JSON does not.

namespace starling::cli {

std::string GhostsText(const v1::ListGhostsResponse& list);
std::string GhostsJson(const v1::ListGhostsResponse& list);
std::string GhostText(const v1::GhostInfo& ghost);
std::string GhostJson(const v1::GhostInfo& ghost);

std::string FailoverText(const v1::FailoverResponse& done);
std::string FailoverJson(const v1::FailoverResponse& done);

}  // namespace starling::cli
