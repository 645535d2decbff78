#include "checkpoint/lazy_index.h"

#include <sys/mman.h>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "checkpoint/criu_images.h"
#include "checkpoint/lazy_index.pb.h"
#include "checkpoint/page_stream.h"

namespace starling::checkpoint {

uint64_t LazyIndex::pages() const {
  uint64_t pages = 0;
  for (const auto& [pid, process] : processes) pages += process.pages.key_count();
  return pages;
}

std::string EncodeLazyIndex(const LazyIndex& index) {
  lazy::Index message;
  for (const auto& [pid, process] : index.processes) {
    lazy::Process& to = *message.add_processes();
    to.set_pid(pid);
    to.mutable_runs()->Reserve(static_cast<int>(3 * process.pages.run_count()));
    process.pages.ForEach([&](const RunMap<SlotValue>::Run& run) {
      to.add_runs(run.first);
      to.add_runs(run.count);
      to.add_runs(run.value.slot);
    });
    for (uint64_t page : process.mappings) to.add_mappings(page);
    for (const LazyMapping& run : process.recent) {
      to.add_recent(run.first);
      to.add_recent(run.count);
    }
  }
  index.missing.ForEach([&](const RunMap<Missing>::Run& run) {
    message.add_missing(run.first);
    message.add_missing(run.count);
  });
  return message.SerializeAsString();
}

absl::StatusOr<LazyIndex> DecodeLazyIndex(absl::string_view bytes) {
  lazy::Index message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError("not an index of waiting pages");
  }
  constexpr uint64_t kMost = uint64_t{1} << 52;  // pages of a 64-bit address space
  LazyIndex index;
  for (const lazy::Process& from : message.processes()) {
    LazyProcess& process = index.processes[from.pid()];
    if (from.runs_size() % 3 != 0) return absl::DataLossError("an index of waiting pages is cut");
    for (int i = 0; i < from.runs_size(); i += 3) {
      if (from.runs(i) >= kMost || from.runs(i + 1) > kMost || from.runs(i + 2) >= kMost) {
        return absl::DataLossError(absl::StrCat(
            "an index of waiting pages has an impossible run for process ", from.pid()));
      }
      process.pages.Assign(from.runs(i), from.runs(i + 1), {from.runs(i + 2)});
    }
    process.mappings.assign(from.mappings().begin(), from.mappings().end());
    if (from.recent_size() % 2 != 0) return absl::DataLossError("an index of waiting pages is cut");
    for (int i = 0; i < from.recent_size(); i += 2) {
      if (from.recent(i) >= kMost || from.recent(i + 1) > kMost) {
        return absl::DataLossError("an index of waiting pages has an impossible hint");
      }
      process.recent.push_back({from.recent(i), from.recent(i + 1)});
    }
  }
  if (message.missing_size() % 2 != 0) {
    return absl::DataLossError("an index of waiting pages is cut");
  }
  for (int i = 0; i < message.missing_size(); i += 2) {
    if (message.missing(i) >= kMost || message.missing(i + 1) > kMost) {
      return absl::DataLossError("an index of waiting pages misses impossible slots");
    }
    index.missing.Assign(message.missing(i), message.missing(i + 1), {});
  }
  return index;
}

std::string MmFileName(uint64_t pid) { return absl::StrCat("mm-", pid, ".img"); }

absl::StatusOr<std::vector<LazyMapping>> LazyMappings(absl::string_view mm_image) {
  // Status bits from CRIU's criu/include/image.h.
  constexpr uint32_t kNotOurs =
      1 << 1 /* stack */ | 1 << 2 /* vsyscall */ | 1 << 3 /* vdso */ | 1 << 12 /* vvar */;
  ASSIGN_OR_RETURN(const std::vector<Vma> vmas, DecodeMm(mm_image));
  std::vector<LazyMapping> mappings;
  for (const Vma& vma : vmas) {
    constexpr uint32_t kWanted = MAP_PRIVATE | MAP_ANONYMOUS;
    constexpr uint32_t kUnwanted = MAP_LOCKED | MAP_HUGETLB | MAP_GROWSDOWN;
    if ((vma.flags & kWanted) != kWanted || (vma.flags & kUnwanted) != 0) continue;
    if ((vma.status & kNotOurs) != 0 || vma.end <= vma.start) continue;
    mappings.push_back({vma.start / kPageSize, (vma.end - vma.start) / kPageSize});
  }
  return mappings;
}

}  // namespace starling::checkpoint
