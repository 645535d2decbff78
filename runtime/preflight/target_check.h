#pragma once

#include <string>
#include <vector>

#include "runtime/preflight/host_facts.h"
#include "runtime/proto/starling.pb.h"

namespace starling::preflight {

// All obstacles on the target's side, at once. Pure; `facts.files` answers `request.files` one by
// one, in order (those that it lacks are reported as not looked at).
std::vector<v1::Obstacle> CheckTarget(const v1::ExamineRequest& request, const HostFacts& facts);

// Flags of `source` that unprivileged code can use and `target` lacks, in the source's order. Pure.
std::vector<std::string> MissingCpuFlags(const std::vector<std::string>& source,
                                         const std::vector<std::string>& target);

// Major and minor number of "6.12.9-amd64" or "3.17.1"; {0, 0} for anything else. Pure.
std::pair<int, int> MajorMinor(const std::string& version);

}  // namespace starling::preflight
