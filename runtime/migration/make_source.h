#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/units.h"
#include "checkpoint/criu_session.h"
#include "checkpoint/criu_stream.h"
#include "checkpoint/page_stream.h"
#include "checkpoint/shared_tracker.h"
#include "checkpoint/tracker.h"

namespace starling::migration {

// Which ways of finding written pages work on this kernel, for this component.
struct TrackerFacts {
  bool soft_dirty = false;
  bool async_protection = false;  // PAGEMAP_SCAN and what it needs
  uint64_t shared_bytes = 0;      // shared memory in use, at least
};
TrackerFacts FactsFor(const std::string& cgroup, const checkpoint::CriuFacts& criu);

// With trackers of our own CRIU sends shared memory whole inside the freeze; its pre-dumps send it
// in rounds. Up to this much the former is the shorter.
inline constexpr uint64_t kMostSharedBytes = 8 * kMiB;

// `wanted` is `migration.tracker`. Answers a tracker's name; for "auto" the best that works.
// Errors: kFailedPrecondition when the one that was asked for does not work here.
absl::StatusOr<std::string> ChooseTracker(absl::string_view wanted, const TrackerFacts& facts);

// Seconds that a tracker may keep the component frozen, should nobody be left to thaw it.
inline constexpr double kListTerm = 5;

// What a component's source is made of.
struct SourceParts {
  std::string tracker;  // as ChooseTracker answers
  checkpoint::CriuVersion criu;
  std::string folder;  // of images
  std::string cgroup;
  int threads = 1;                   // that read
  double max_rate_bytes_per_s = 0;   // 0: no limit
  std::function<double()> max_rate;  // as MemorySource::Options; may be null
  bool goes_on = false;              // as MemorySource::Options
  // As MemorySource::Options; may be null.
  std::function<Duration(uint64_t bytes, Duration worked)> hold_back;
  Duration step_timeout{};
  checkpoint::CriuWorker pre_dump;
  checkpoint::CriuDumper dumper;
  checkpoint::Freezer freezer;
  // Beside whom it reads the component's pages; null: alone. Then `freezer` may outlive the source.
  std::shared_ptr<checkpoint::SharedTracker> shared;
};
// kFailedPrecondition: as SharedTracker's.
absl::StatusOr<std::unique_ptr<checkpoint::PageSource>> MakeSource(SourceParts parts);

}  // namespace starling::migration
