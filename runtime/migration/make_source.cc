#include "runtime/migration/make_source.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/criu_source.h"
#include "checkpoint/memory_source.h"

namespace starling::migration {

namespace {

// What a process has of shared memory in its page tables.
uint64_t SharedBytes(pid_t pid) {
  const auto status = ReadFile(absl::StrCat("/proc/", pid, "/status"));
  for (absl::string_view line : absl::StrSplit(status.value_or(""), '\n')) {
    uint64_t kib;
    if (absl::ConsumePrefix(&line, "RssShmem:") && absl::ConsumeSuffix(&line, "kB") &&
        absl::SimpleAtoi(line, &kib)) {
      return kib * kKiB;
    }
  }
  return 0;
}

}  // namespace

TrackerFacts FactsFor(const std::string& cgroup, const checkpoint::CriuFacts& criu) {
  TrackerFacts facts;
  facts.soft_dirty = criu.memory_tracking;
  facts.async_protection = checkpoint::HasAsyncProtection();
  const auto pids = ReadFile(absl::StrCat(cgroup, "/cgroup.procs"));
  for (const absl::string_view text :
       absl::StrSplit(pids.value_or(""), '\n', absl::SkipWhitespace())) {
    pid_t pid;
    if (!absl::SimpleAtoi(text, &pid)) continue;
    facts.shared_bytes = std::max(facts.shared_bytes, SharedBytes(pid));
  }
  return facts;
}

absl::StatusOr<std::string> ChooseTracker(absl::string_view wanted, const TrackerFacts& facts) {
  if (wanted == "auto") {
    if (!facts.soft_dirty || facts.shared_bytes > kMostSharedBytes) return "criu-predump";
    // pagemap-scan is for those who ask for it by name: an agent that is killed in the middle of
    // the call that it injects takes the component with it.
    return "soft-dirty";
  }
  const auto refused = [&](absl::string_view why) {
    return absl::FailedPreconditionError(absl::StrCat("migration.tracker is \"", wanted, "\", and ",
                                                      why, "; \"auto\" takes what works here"));
  };
  // CRIU's final dump leaves unchanged pages out by their soft-dirty bits, whoever tracks.
  if (!facts.soft_dirty && wanted != "criu-predump") {
    return refused("this kernel does not track soft-dirty pages");
  }
  if (wanted == "pagemap-scan" && !facts.async_protection) {
    return refused("this kernel does not write-protect asynchronously (Linux 6.7 does)");
  }
  return std::string(wanted);
}

namespace {

// CRIU's pre-dumps, and for as long as they are the source nobody else's lists.
class LoneCriuSource : public checkpoint::CriuSource {
 public:
  template <typename... Parts>
  explicit LoneCriuSource(std::shared_ptr<void> alone, Parts&&... parts)
      : CriuSource(std::forward<Parts>(parts)...), alone_(std::move(alone)) {}

 private:
  const std::shared_ptr<void> alone_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<checkpoint::PageSource>> MakeSource(SourceParts parts) {
  checkpoint::FrozenMemoryOpener memory = [cgroup = parts.cgroup] {
    return checkpoint::OpenCgroupMemory(cgroup);
  };
  if (parts.tracker == "criu-predump") {
    std::shared_ptr<void> alone;
    if (parts.shared != nullptr) {
      ASSIGN_OR_RETURN(alone, parts.shared->Alone());
    }
    return std::make_unique<LoneCriuSource>(std::move(alone), parts.criu, parts.folder,
                                            std::move(parts.pre_dump), std::move(parts.dumper),
                                            std::move(memory));
  }
  std::unique_ptr<checkpoint::Tracker> tracker;
  const auto by_marks = [&]() -> std::unique_ptr<checkpoint::Tracker> {
    if (parts.tracker == "pagemap-scan") return checkpoint::MakePagemapScanTracker(parts.cgroup);
    return checkpoint::MakeSoftDirtyTracker(parts.cgroup, std::move(parts.freezer));
  };
  if (parts.tracker == "hash") {
    // Of what this source sent: nothing of it is anybody else's.
    tracker = checkpoint::MakeHashTracker(parts.cgroup);
  } else if (parts.shared != nullptr) {
    ASSIGN_OR_RETURN(tracker, parts.shared->Join(parts.tracker, by_marks));
  } else {
    tracker = by_marks();
  }
  checkpoint::MemorySource::Options options;
  options.version = parts.criu;
  options.folder = parts.folder;
  options.threads = parts.threads;
  options.max_rate_bytes_per_s = parts.max_rate_bytes_per_s;
  options.max_rate = std::move(parts.max_rate);
  options.goes_on = parts.goes_on;
  options.hold_back = std::move(parts.hold_back);
  options.flush_timeout = parts.step_timeout;
  return std::make_unique<checkpoint::MemorySource>(std::move(options), std::move(tracker),
                                                    std::move(parts.dumper), std::move(memory));
}

}  // namespace starling::migration
