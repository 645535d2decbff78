#pragma once

#include <string>

#include "runtime/proto/profile.pb.h"

// What `starling profile` shows, as pure functions of the agent's messages; as render.h. Text ends
// with a newline, JSON does not.

namespace starling::cli {

std::string ProfilesText(const v1::ListProfilesResponse& list);
std::string ProfilesJson(const v1::ListProfilesResponse& list);
std::string ProfileText(const v1::ShowProfileResponse& profile);
std::string ProfileJson(const v1::ShowProfileResponse& profile);

}  // namespace starling::cli
