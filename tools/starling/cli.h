#pragma once

#include <string>
#include <vector>

#include "tools/starling/commands.h"

namespace starling::cli {

// The whole of `starling`: `arguments` without the program's name. Answers what to exit with.
// `interrupter` may be used from another thread meanwhile.
int RunCli(const std::vector<std::string>& arguments, Io& io, Interrupter& interrupter);

}  // namespace starling::cli
