#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "base/clock.h"
#include "runtime/proto/starling.pb.h"

namespace starling::migration {

// The latest progress of one migration: written by its thread, read by any number of watchers.
// Thread-safe.
class ProgressBoard {
 public:
  explicit ProgressBoard(starling::v1::MigrationProgress first)
      : progress_(std::move(first)), begun_(Clock::now()) {}

  // Changes the progress under the lock and wakes every watcher.
  void Update(const std::function<void(starling::v1::MigrationProgress&)>& change);

  // The last update there will be.
  void Finish(const std::function<void(starling::v1::MigrationProgress&)>& change);

  // Waits until something newer than `version` is there or `deadline`; false when finished and
  // nothing newer is left, in which case `progress` holds the last word. `version` starts at 0.
  bool WaitNewer(uint64_t& version, starling::v1::MigrationProgress& progress, Deadline deadline);

  // Waits for the end and returns the last word.
  starling::v1::MigrationProgress WaitFinished();

  bool finished() const;
  starling::v1::MigrationProgress Latest() const;

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  starling::v1::MigrationProgress progress_;
  TimePoint begun_;
  uint64_t version_ = 1;
  bool finished_ = false;
};

}  // namespace starling::migration
