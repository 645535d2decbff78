#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "runtime/proto/starling.pb.h"

namespace starling {

// Whether `spec` can be run: name, command (an absolute path first, at most 4096 words and 128 KiB,
// no NUL), user, ip, mac (empty, or a local unicast address "02:..."), memory (0 or at least 4
// MiB), shared paths, directory, environment, priority, blackout, names of others, application,
// storage, probe. kInvalidArgument names the first field that is wrong. The command line checks
// before it asks, the agent again for requests and for peers' words.
absl::Status CheckSpec(const v1::ComponentSpec& spec);

// Says whether a component that has arrived is what it should be: a shell command, run behind the
// fence.
struct ProbeSpec {
  std::string command;   // empty: none
  double timeout_s = 0;  // 0: not said
};
// At most 16 KiB of UTF-8 without NUL; 0 (not said) or 0.1 to 3600 s. Otherwise kInvalidArgument.
absl::Status CheckProbe(const ProbeSpec& probe);
// The one of a move: what was asked for it goes before what the component's owner named, and a time
// that is asked for counts for the owner's, too. `otherwise_s` where nobody says one.
ProbeSpec ProbeFor(const v1::ComponentSpec& spec, const ProbeSpec& asked, double otherwise_s);

// The MAC address of a component: local unicast, made from name and ip, so that the same component
// has the same one wherever it runs. Empty for an empty ip.
std::string MakeMac(absl::string_view name, absl::string_view ip);

}  // namespace starling
