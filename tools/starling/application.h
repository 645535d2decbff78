#pragma once

#include <string>
#include <vector>

#include "runtime/proto/starling.pb.h"

namespace starling::cli {

// The components of an application that run on the host that was listed, in the order in which they
// are to be moved: those that want to be near one another follow one another; otherwise by name.
std::vector<std::string> MembersInOrder(const v1::ListResponse& list,
                                        const std::string& application);

}  // namespace starling::cli
