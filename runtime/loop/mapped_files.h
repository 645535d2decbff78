#pragma once

#include <string>
#include <vector>

namespace starling::loop {

// Programs and libraries that the processes of a cgroup have mapped, each once, the program first:
// what a host that the component may come to can read ahead. At most `most`.
std::vector<std::string> MappedFiles(const std::string& cgroup, size_t most,
                                     const std::string& proc = "/proc");

}  // namespace starling::loop
