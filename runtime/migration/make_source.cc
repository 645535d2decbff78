#include "runtime/migration/make_source.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/criu_source.h"
#include "checkpoint/memory_source.h"

namespace starling::migration {

absl::StatusOr<std::string> ChooseTracker(absl::string_view wanted, const TrackerFacts& facts) {
  if (wanted == "auto") return facts.soft_dirty ? "soft-dirty" : "criu-predump";
  // CRIU's final dump leaves unchanged pages out by their soft-dirty bits, whoever tracks.
  if (!facts.soft_dirty && wanted != "criu-predump") {
    return absl::FailedPreconditionError(
        absl::StrCat("migration.tracker is \"", wanted,
                     "\", and this kernel does not track soft-dirty pages; \"auto\" takes what "
                     "works here"));
  }
  return std::string(wanted);
}

std::unique_ptr<checkpoint::PageSource> MakeSource(SourceParts parts) {
  checkpoint::FrozenMemoryOpener memory = [cgroup = parts.cgroup] {
    return checkpoint::OpenCgroupMemory(cgroup);
  };
  if (parts.tracker == "criu-predump") {
    return std::make_unique<checkpoint::CriuSource>(parts.criu, parts.folder,
                                                    std::move(parts.pre_dump),
                                                    std::move(parts.dumper), std::move(memory));
  }
  auto tracker = parts.tracker == "hash"
                     ? checkpoint::MakeHashTracker(parts.cgroup)
                     : checkpoint::MakeSoftDirtyTracker(parts.cgroup, std::move(parts.freezer));
  checkpoint::MemorySource::Options options;
  options.version = parts.criu;
  options.folder = parts.folder;
  options.max_rate_bytes_per_s = parts.max_rate_bytes_per_s;
  options.flush_timeout = parts.step_timeout;
  return std::make_unique<checkpoint::MemorySource>(std::move(options), std::move(tracker),
                                                    std::move(parts.dumper), std::move(memory));
}

}  // namespace starling::migration
