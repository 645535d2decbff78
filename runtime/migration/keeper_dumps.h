#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "base/clock.h"
#include "checkpoint/criu_stream.h"
#include "runtime/agent/components.h"

namespace starling::migration {

// CRIU's part of a component's source. CRIU itself runs at the keeper; these hand it the folder and
// its end of the page stream, and keep neither. Outlives the source that is made with it.
class KeeperDumps {
 public:
  // `timeout`: of each step.
  KeeperDumps(std::shared_ptr<agent::Copy> copy, Duration timeout)
      : copy_(std::move(copy)), timeout_(timeout) {}

  checkpoint::CriuWorker PreDumper();
  checkpoint::CriuDumper Dumper();

  // Of the final dump, once it is done.
  const keeper::v1::PhaseTimes& phases() const { return phases_; }

 private:
  absl::Status PreDump(checkpoint::CriuWork work);
  absl::Status StageDump(checkpoint::CriuWork work);
  absl::Status Dump();

  const std::shared_ptr<agent::Copy> copy_;
  const Duration timeout_;
  keeper::v1::PhaseTimes phases_;
};

// A component that came here a moment ago may still have memory in this host's arena: waits until
// all of it is in place. `wanted` is asked now and then, and ends the wait with its error.
absl::Status WaitUntilWhole(const agent::Copy& copy, Deadline deadline,
                            const std::function<absl::Status()>& wanted);

}  // namespace starling::migration
