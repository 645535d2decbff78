#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "checkpoint/injected_calls.h"
#include "checkpoint/pagemap_scan.h"
#include "checkpoint/tracker.h"

#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

namespace starling::checkpoint {
namespace {

// For a process to come to the injected call.
constexpr auto kInjectTime = std::chrono::seconds(2);

absl::Status EnableAsync(int userfault) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_WP_ASYNC;
  if (::ioctl(userfault, UFFDIO_API, &api) != 0) {
    return ErrnoStatus("this kernel does not write-protect asynchronously");
  }
  return absl::OkStatus();
}

// A userfaultfd of the process's memory: made by itself, and not left in it.
absl::StatusOr<UniqueFd> MakeUserfault(pid_t pid) {
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) return ErrnoStatus(absl::StrCat("open process ", pid));
  ASSIGN_OR_RETURN(const auto calls, InjectedCalls::Begin(pid, Deadline::After(kInjectTime)));
  ASSIGN_OR_RETURN(
      const int64_t made,
      calls->Call(SYS_userfaultfd, {O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY, 0, 0}));
  if (made < 0) {
    return ErrnoStatus(static_cast<int>(-made), absl::StrCat("a userfaultfd of process ", pid));
  }
  UniqueFd ours(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), made, 0)));
  const absl::Status taken =
      ours ? absl::OkStatus() : ErrnoStatus(absl::StrCat("take process ", pid, "'s userfaultfd"));
  const absl::StatusOr<int64_t> closed =
      calls->Call(SYS_close, {static_cast<uint64_t>(made), 0, 0});
  RETURN_IF_ERROR(closed.status());
  RETURN_IF_ERROR(calls->End());
  RETURN_IF_ERROR(taken);
  RETURN_IF_ERROR(EnableAsync(ours.get()));
  return ours;
}

class PagemapScanTracker : public Tracker {
 public:
  explicit PagemapScanTracker(std::string cgroup) : cgroup_(std::move(cgroup)) {}

  const char* name() const override { return "pagemap-scan"; }

  absl::StatusOr<MemoryChanges> List() override { return ListAll(/*last=*/false); }

  absl::StatusOr<MemoryChanges> ListLast() override {
    absl::StatusOr<MemoryChanges> changes = ListAll(/*last=*/true);
    // The kernel takes protection and registration away with the last descriptor.
    Forget();
    RETURN_IF_ERROR(changes.status());
    for (const ProcessChanges& process : changes->processes) {
      const absl::Status cleared = process.memory->ClearSoftDirty();
      if (!absl::IsNotFound(cleared)) RETURN_IF_ERROR(cleared);
    }
    return changes;
  }

  void Forget() override {
    known_.Clear();
    userfaults_.clear();
  }

  void Sent(const AddressSpace&, uint64_t, std::span<const std::byte>) override {}

 private:
  absl::StatusOr<MemoryChanges> ListAll(bool last) {
    MemoryChanges changes;
    ASSIGN_OR_RETURN(std::vector<std::unique_ptr<ProcessMemory>> processes, OpenProcesses(cgroup_));
    for (std::unique_ptr<ProcessMemory>& memory : processes) {
      ProcessChanges process;
      process.memory = std::move(memory);
      const absl::Status listed = ListProcess(process, last);
      if (absl::IsNotFound(listed)) continue;
      RETURN_IF_ERROR(listed);
      changes.processes.push_back(std::move(process));
    }
    known_.Keep(changes.processes);
    for (auto it = userfaults_.begin(); it != userfaults_.end();) {
      const bool there = std::any_of(
          changes.processes.begin(), changes.processes.end(),
          [&](const ProcessChanges& process) { return process.memory->space() == it->first; });
      it = there ? std::next(it) : userfaults_.erase(it);
    }
    return changes;
  }

  absl::Status ListProcess(ProcessChanges& process, bool last) {
    const AddressSpace& space = process.memory->space();
    process.is_new = known_.Learn(*process.memory);
    if (process.is_new) userfaults_.erase(space);
    if (!last && !userfaults_.contains(space)) Watch(*process.memory);
    ASSIGN_OR_RETURN(const std::vector<Mapping> mappings, process.memory->TrackedMappings());
    const auto userfault = userfaults_.find(space);
    outdated_ = false;
    for (const Mapping& mapping : mappings) {
      if (userfault != userfaults_.end() && mapping.name != "[vdso]") {
        ASSIGN_OR_RETURN(const bool scanned,
                         Scan(*process.memory, userfault->second.get(), mapping, last, process));
        if (scanned) continue;
      }
      // Not watched: all of it counts as written.
      ASSIGN_OR_RETURN(const std::vector<ResidentRange> resident,
                       process.memory->Resident({&mapping, 1}));
      for (const ResidentRange& range : resident) {
        Append(process.resident, range.range);
        Append(process.changed, range.range);
      }
    }
    if (process.is_new) process.changed = process.resident;
    process.watched = userfault != userfaults_.end() && !outdated_;
    if (outdated_) userfaults_.erase(space);
    return absl::OkStatus();
  }

  // A process that cannot be watched is sent whole in every round.
  void Watch(const ProcessMemory& process) {
    absl::StatusOr<UniqueFd> userfault = MakeUserfault(process.pid());
    if (userfault.ok()) userfaults_[process.space()] = *std::move(userfault);
  }

  // Adds what exists in the mapping, and of that what was written since it was protected last;
  // protects it again. False: it cannot be watched.
  absl::StatusOr<bool> Scan(const ProcessMemory& process, int userfault, const Mapping& mapping,
                            bool last, ProcessChanges& changes) {
    std::vector<PageRange> written;
    ASSIGN_OR_RETURN(bool watched, Protect(process, mapping, last, written));
    bool fresh = false;
    if (!watched) {
      if (last) return false;
      uffdio_register request{};
      request.range.start = mapping.start;
      request.range.len = mapping.end - mapping.start;
      request.mode = UFFDIO_REGISTER_MODE_WP;
      if (::ioctl(userfault, UFFDIO_REGISTER, &request) != 0) {
        // Of a memory that is no more: the process has become another program.
        if (errno == ENOMEM || errno == ESRCH) outdated_ = true;
        return false;
      }
      ASSIGN_OR_RETURN(watched, Protect(process, mapping, last, written));
      if (!watched) {
        // Registered, and yet not: in a memory that it shared with another process and has left.
        outdated_ = true;
        return false;
      }
      // It may be protected already where it was moved from another place.
      fresh = true;
    }
    // After what was written has been protected: what appears between the two is new to the next
    // list, and what disappears does not exist.
    ASSIGN_OR_RETURN(const std::vector<ResidentRange> resident, process.Resident({&mapping, 1}));
    for (const ResidentRange& range : resident) {
      Append(changes.resident, range.range);
      if (fresh) Append(changes.changed, range.range);
    }
    if (fresh) return true;
    for (const PageRange& range : written) Append(changes.changed, range);
    return true;
  }

  // Lists the pages that exist and are not protected, and protects them. False: part of the mapping
  // is not registered, and part of it may have been protected without having been listed.
  static absl::StatusOr<bool> Protect(const ProcessMemory& process, const Mapping& mapping,
                                      bool last, std::vector<PageRange>& written) {
    written.clear();
    std::array<PageRegion, 512> regions;
    PagemapScanArguments scan;
    // Without the check, mappings that are not registered pass for clean.
    scan.flags = kScanCheckAsync | (last ? 0 : kScanProtectMatching);
    scan.start = mapping.start;
    scan.end = mapping.end;
    scan.regions = reinterpret_cast<uint64_t>(regions.data());
    scan.region_count = regions.size();
    scan.category_mask = kPageWritten;
    scan.category_any_of = kPageIsPresent | kPageSwapped;
    if (mapping.device != 0) {
      scan.category_mask |= kPageFile;
      scan.category_inverted = kPageFile;
    }
    while (scan.start < scan.end) {
      const int found = ::ioctl(process.pagemap(), kPagemapScan, &scan);
      if (found < 0) {
        if (errno == EINTR) continue;
        if (errno == EPERM) return false;
        return ErrnoStatus(absl::StrCat("list the written pages of process ", process.pid()));
      }
      for (int i = 0; i < found; ++i) {
        const PageRegion& region = regions[static_cast<size_t>(i)];
        Append(written, {region.start, (region.end - region.start) / kPageSize});
      }
      scan.start = scan.walk_end;
    }
    return true;
  }

  const std::string cgroup_;
  KnownProcesses known_;
  absl::btree_map<AddressSpace, UniqueFd> userfaults_;
  bool outdated_ = false;  // found out while a process was scanned
};

}  // namespace

absl::StatusOr<UniqueFd> OpenAsyncUserfault() {
  UniqueFd userfault(
      static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)));
  if (!userfault) return ErrnoStatus("make a userfaultfd");
  RETURN_IF_ERROR(EnableAsync(userfault.get()));
  return userfault;
}

bool HasAsyncProtection() { return HasPagemapScan() && OpenAsyncUserfault().ok(); }

std::unique_ptr<Tracker> MakePagemapScanTracker(std::string cgroup) {
  return std::make_unique<PagemapScanTracker>(std::move(cgroup));
}

}  // namespace starling::checkpoint
