#include "checkpoint/frozen_memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/component_memory.h"

namespace starling::checkpoint {
namespace {

// From Documentation/admin-guide/mm/pagemap.rst.
constexpr uint64_t kPagemapPresent = uint64_t{1} << 63;
constexpr uint64_t kPagemapFrame = (uint64_t{1} << 55) - 1;
constexpr uint64_t kFlagZeroPage = uint64_t{1} << 24;
constexpr uint64_t kHugePages = (2u << 20) / kPageSize;

struct Process {
  pid_t pid = 0;  // as we count
  UniqueFd memory;
  UniqueFd pagemap;
};

class CgroupMemory : public FrozenMemory {
 public:
  CgroupMemory(std::map<uint64_t, Process> processes, UniqueFd page_flags)
      : processes_(std::move(processes)), page_flags_(std::move(page_flags)) {}

  absl::Status Read(const AddressSpace& space, uint64_t address,
                    std::span<std::byte> bytes) const override {
    ASSIGN_OR_RETURN(const Process* process, Find(space));
    for (size_t done = 0; done < bytes.size();) {
      const ssize_t got = ::pread(process->memory.get(), bytes.data() + done, bytes.size() - done,
                                  static_cast<off_t>(address + done));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) {
        return absl::DataLossError(
            absl::StrFormat("process %u cannot be read at %#x", space.id, address + done));
      }
      done += static_cast<size_t>(got);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<PageRun>> HugeZeroPages(const PageRun& run) const override {
    std::vector<PageRun> zero;
    if (run.space.kind != AddressSpace::Kind::kProcess) return zero;
    const uint64_t first = run.address / kPageSize;
    const uint64_t end = first + run.pages;
    uint64_t page = (first + kHugePages - 1) / kHugePages * kHugePages;
    if (page + kHugePages > end) return zero;
    ASSIGN_OR_RETURN(const Process* process, Find(run.space));
    for (; page + kHugePages <= end; page += kHugePages) {
      ASSIGN_OR_RETURN(const uint64_t entry, Number(process->pagemap.get(), page));
      if ((entry & kPagemapPresent) == 0) continue;
      ASSIGN_OR_RETURN(const uint64_t flags, Number(page_flags_.get(), entry & kPagemapFrame));
      if ((flags & kFlagZeroPage) == 0) continue;
      if (!zero.empty() && zero.back().address / kPageSize + zero.back().pages == page) {
        zero.back().pages += kHugePages;
      } else {
        zero.push_back({run.space, page * kPageSize, kHugePages});
      }
    }
    return zero;
  }

  absl::StatusOr<std::vector<PageRun>> CallPages(const AddressSpace& space) const override {
    std::vector<PageRun> pages;
    if (space.kind != AddressSpace::Kind::kProcess) return pages;
    ASSIGN_OR_RETURN(const Process* process, Find(space));
    ASSIGN_OR_RETURN(const std::string maps,
                     ReadFile(absl::StrCat("/proc/", process->pid, "/maps")));
    ASSIGN_OR_RETURN(const std::vector<Mapping> mappings, ParseMaps(maps));
    for (const Mapping& mapping : mappings) {
      if (mapping.executable) pages.push_back({space, mapping.start, 1});
    }
    return pages;
  }

 private:
  absl::StatusOr<const Process*> Find(const AddressSpace& space) const {
    const auto found = processes_.find(space.id);
    if (space.kind != AddressSpace::Kind::kProcess || found == processes_.end()) {
      return absl::NotFoundError(
          absl::StrCat(space.kind == AddressSpace::Kind::kProcess ? "process " : "shared memory ",
                       space.id, " cannot be read from outside"));
    }
    return &found->second;
  }

  static absl::StatusOr<uint64_t> Number(int fd, uint64_t index) {
    uint64_t value;
    const ssize_t got =
        ::pread(fd, &value, sizeof(value), static_cast<off_t>(index * sizeof(value)));
    if (got < 0) return ErrnoStatus("read a page's state");
    if (got != sizeof(value)) return absl::DataLossError("a page's state ends early");
    return value;
  }

  const std::map<uint64_t, Process> processes_;
  const UniqueFd page_flags_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<FrozenMemory>> OpenCgroupMemory(const std::string& cgroup) {
  ASSIGN_OR_RETURN(const std::string pids, ReadFile(absl::StrCat(cgroup, "/cgroup.procs")));
  std::map<uint64_t, Process> processes;
  for (absl::string_view pid : absl::StrSplit(pids, '\n', absl::SkipWhitespace())) {
    pid_t number;
    if (!absl::SimpleAtoi(pid, &number)) {
      return absl::DataLossError(absl::StrCat("a process of ", cgroup, ": ", pid));
    }
    ASSIGN_OR_RETURN(const uint64_t inside, InnermostPid(number));
    Process process;
    process.pid = number;
    ASSIGN_OR_RETURN(process.memory, OpenFile(absl::StrCat("/proc/", pid, "/mem"), O_RDONLY));
    ASSIGN_OR_RETURN(process.pagemap, OpenFile(absl::StrCat("/proc/", pid, "/pagemap"), O_RDONLY));
    processes.emplace(inside, std::move(process));
  }
  ASSIGN_OR_RETURN(UniqueFd page_flags, OpenFile("/proc/kpageflags", O_RDONLY));
  return std::make_unique<CgroupMemory>(std::move(processes), std::move(page_flags));
}

}  // namespace starling::checkpoint
