#pragma once

#include "absl/status/status.h"
#include "runtime/proto/starling.pb.h"

namespace starling::cli {

// What `starling` exits with: part of the interface, documented in docs/cli.md. Numbers are never
// reused.
enum class ExitCode {
  kOk = 0,
  kFailed = 1,            // something went wrong that none of the others names
  kUsage = 2,             // the command line, or an argument in it
  kNotFound = 3,          // no component or host of that name
  kRefused = 4,           // obstacles, or not in this state, or no room: nothing was changed
  kCalledOff = 5,         // the migration was called off: the component runs where it ran
  kInDoubt = 6,           // the component is frozen until the target answers: see `resolve`
  kAgentUnreachable = 7,  // the agent of this host does not run or does not answer
  kNotPermitted = 8,      // not root, not in the group
  kPeerUnreachable = 9,   // another host does not answer
  kInterrupted = 130,     // Ctrl-C: what was begun at the agent goes on
};

// For the status that a call ended with. `agent_answered`: the status is the agent's own word, as
// opposed to what the connection to it came to: UNAVAILABLE and others mean either.
ExitCode ExitCodeOf(absl::StatusCode code, bool agent_answered);

// For a migration: the last progress seen overrules a status that does not say.
ExitCode MigrationExitCode(v1::Step last_step, absl::StatusCode code, bool agent_answered);

}  // namespace starling::cli
