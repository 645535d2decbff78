#include "checkpoint/component_memory.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/pagemap_scan.h"

namespace starling::checkpoint {
namespace {

// From Documentation/admin-guide/mm/pagemap.rst.
constexpr uint64_t kEntrySoftDirty = uint64_t{1} << 55;
constexpr uint64_t kEntryFile = uint64_t{1} << 61;
constexpr uint64_t kEntrySwapped = uint64_t{1} << 62;
constexpr uint64_t kEntryPresent = uint64_t{1} << 63;

constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;
constexpr uint32_t kHugetlbfsMagic = 0x958458f6;

// What one process_vm_readv takes (UIO_MAXIOV).
constexpr size_t kMaxPieces = 1024;
// Read at once through /proc/PID/mem.
constexpr size_t kSlowPages = 128;

bool Gone(const absl::Status& status) {
  return absl::IsNotFound(status) || absl::IsPermissionDenied(status) ||
         absl::StrContains(status.message(), "No such process");
}

void Append(std::vector<ResidentRange>& out, const ResidentRange& next) {
  if (!out.empty() && out.back().range.end() == next.range.address &&
      out.back().soft_dirty == next.soft_dirty) {
    out.back().range.pages += next.range.pages;
    return;
  }
  out.push_back(next);
}

bool IsVdso(const Mapping& mapping) { return mapping.name == "[vdso]"; }

}  // namespace

void Append(std::vector<PageRange>& ranges, const PageRange& range) {
  if (!ranges.empty() && ranges.back().end() == range.address) {
    ranges.back().pages += range.pages;
  } else {
    ranges.push_back(range);
  }
}

uint64_t CountPages(std::span<const PageRange> ranges) {
  uint64_t pages = 0;
  for (const PageRange& range : ranges) pages += range.pages;
  return pages;
}

std::vector<PageRange> Subtract(std::span<const PageRange> a, std::span<const PageRange> b) {
  std::vector<PageRange> rest;
  size_t i = 0;
  for (const PageRange& range : a) {
    uint64_t at = range.address;
    while (i < b.size() && b[i].end() <= at) ++i;
    for (size_t k = i; k < b.size() && b[k].address < range.end(); ++k) {
      if (b[k].address > at) Append(rest, {at, (b[k].address - at) / kPageSize});
      at = std::max(at, std::min(range.end(), b[k].end()));
    }
    if (at < range.end()) Append(rest, {at, (range.end() - at) / kPageSize});
  }
  return rest;
}

std::vector<PageRange> Intersect(std::span<const PageRange> a, std::span<const PageRange> b) {
  return Subtract(a, Subtract(a, b));
}

std::vector<PageRange> Unite(std::span<const PageRange> a, std::span<const PageRange> b) {
  std::vector<PageRange> all;
  const std::vector<PageRange> rest = Subtract(b, a);
  std::merge(a.begin(), a.end(), rest.begin(), rest.end(), std::back_inserter(all),
             [](const PageRange& x, const PageRange& y) { return x.address < y.address; });
  std::vector<PageRange> joined;
  for (const PageRange& range : all) Append(joined, range);
  return joined;
}

absl::StatusOr<std::vector<Mapping>> ParseMaps(absl::string_view maps) {
  std::vector<Mapping> mappings;
  for (const absl::string_view line : absl::StrSplit(maps, '\n', absl::SkipEmpty())) {
    const std::vector<absl::string_view> fields = absl::StrSplit(line, absl::MaxSplits(' ', 5));
    Mapping mapping;
    uint64_t major = 0, minor = 0;
    bool good = fields.size() >= 5 && fields[1].size() == 4;
    if (good) {
      const std::vector<absl::string_view> ends = absl::StrSplit(fields[0], '-');
      const std::vector<absl::string_view> device = absl::StrSplit(fields[3], ':');
      good = ends.size() == 2 && absl::SimpleHexAtoi(ends[0], &mapping.start) &&
             absl::SimpleHexAtoi(ends[1], &mapping.end) && mapping.start < mapping.end &&
             mapping.start % kPageSize == 0 && mapping.end % kPageSize == 0 && device.size() == 2 &&
             absl::SimpleHexAtoi(device[0], &major) && absl::SimpleHexAtoi(device[1], &minor);
    }
    if (!good) return absl::DataLossError(absl::StrCat("a line of maps: ", line));
    mapping.readable = fields[1][0] == 'r';
    mapping.executable = fields[1][2] == 'x';
    mapping.shared = fields[1][3] == 's';
    mapping.device = major << 20 | minor;
    if (fields.size() > 5) mapping.name = std::string(absl::StripLeadingAsciiWhitespace(fields[5]));
    mappings.push_back(std::move(mapping));
  }
  return mappings;
}

bool Tracked(const Mapping& mapping, bool hugetlb) {
  return !mapping.shared && !hugetlb && !absl::StartsWith(mapping.name, "[vvar") &&
         mapping.name != "[vsyscall]";
}

absl::StatusOr<uint64_t> InnermostPid(pid_t pid) {
  ASSIGN_OR_RETURN(const std::string status, ReadFile(absl::StrCat("/proc/", pid, "/status")));
  for (absl::string_view line : absl::StrSplit(status, '\n')) {
    if (!absl::ConsumePrefix(&line, "NSpid:")) continue;
    const std::vector<absl::string_view> pids =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipWhitespace());
    uint64_t inside;
    if (!pids.empty() && absl::SimpleAtoi(pids.back(), &inside)) return inside;
  }
  return absl::InternalError(absl::StrCat("process ", pid, " does not tell its pid inside"));
}

absl::StatusOr<std::unique_ptr<ProcessMemory>> ProcessMemory::Open(pid_t pid) {
  std::unique_ptr<ProcessMemory> process(new ProcessMemory);
  process->pid_ = pid;
  const std::string folder = absl::StrCat("/proc/", pid);
  const auto open = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(process->space_.id, InnermostPid(pid));
    ASSIGN_OR_RETURN(const std::string stat, ReadFile(absl::StrCat(folder, "/stat")));
    // The name, in brackets, may hold anything. What follows begins with field 3 of proc(5).
    const std::vector<absl::string_view> fields =
        absl::StrSplit(absl::string_view(stat).substr(stat.rfind(')') + 2), ' ');
    if (fields.size() < 20 || !absl::SimpleAtoi(fields[19], &process->started_)) {
      return absl::DataLossError(absl::StrCat(folder, "/stat: ", stat));
    }
    ASSIGN_OR_RETURN(process->memory_, OpenFile(absl::StrCat(folder, "/mem"), O_RDONLY));
    ASSIGN_OR_RETURN(process->pagemap_, OpenFile(absl::StrCat(folder, "/pagemap"), O_RDONLY));
    return absl::OkStatus();
  };
  const absl::Status opened = open();
  if (opened.ok()) return process;
  if (Gone(opened)) return absl::NotFoundError(opened.message());
  return opened;
}

absl::StatusOr<bool> ProcessMemory::HugeTlb(const Mapping& mapping) const {
  if (mapping.device == 0) return false;
  struct statfs system;
  const std::string path =
      absl::StrFormat("/proc/%d/map_files/%x-%x", pid_, mapping.start, mapping.end);
  // A mapping that has gone meanwhile: what is done about it comes to nothing.
  if (::statfs(path.c_str(), &system) != 0) {
    if (errno == ENOENT || errno == ESRCH) return false;
    return ErrnoStatus(path);
  }
  return static_cast<uint32_t>(system.f_type) == kHugetlbfsMagic;
}

absl::StatusOr<std::vector<Mapping>> ProcessMemory::TrackedMappings() const {
  absl::StatusOr<std::string> maps = ReadFile(absl::StrCat("/proc/", pid_, "/maps"));
  if (!maps.ok()) {
    return Gone(maps.status()) ? absl::NotFoundError(maps.status().message()) : maps.status();
  }
  ASSIGN_OR_RETURN(std::vector<Mapping> mappings, ParseMaps(*maps));
  // Asked once for each device; hugetlbfs has one for every size of its pages and every mount.
  std::vector<std::pair<uint64_t, bool>> devices;
  std::vector<Mapping> tracked;
  for (Mapping& mapping : mappings) {
    bool hugetlb = false;
    if (!mapping.shared && mapping.device != 0) {
      auto known = std::find_if(devices.begin(), devices.end(),
                                [&](const auto& d) { return d.first == mapping.device; });
      if (known == devices.end()) {
        ASSIGN_OR_RETURN(const bool is, HugeTlb(mapping));
        known = devices.insert(devices.end(), {mapping.device, is});
      }
      hugetlb = known->second;
    }
    if (Tracked(mapping, hugetlb)) tracked.push_back(std::move(mapping));
  }
  return tracked;
}

absl::Status ProcessMemory::ScanByIoctl(const Mapping& mapping,
                                        std::vector<ResidentRange>& out) const {
  std::array<PageRegion, 512> regions;
  PagemapScanArguments scan;
  scan.start = mapping.start;
  scan.end = mapping.end;
  scan.regions = reinterpret_cast<uint64_t>(regions.data());
  scan.region_count = regions.size();
  scan.category_any_of = kPageIsPresent | kPageSwapped;
  // Asked only where it matters: the kernel looks at every single page for it.
  if (mapping.device != 0) scan.category_mask = scan.category_inverted = kPageFile;
  scan.return_mask = kPageSoftDirty;
  while (scan.start < scan.end) {
    const int found = ::ioctl(pagemap_.get(), kPagemapScan, &scan);
    if (found < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(absl::StrCat("list the pages of process ", pid_));
    }
    for (int i = 0; i < found; ++i) {
      const PageRegion& region = regions[static_cast<size_t>(i)];
      Append(out, {{region.start, (region.end - region.start) / kPageSize},
                   (region.categories & kPageSoftDirty) != 0});
    }
    scan.start = scan.walk_end;
  }
  return absl::OkStatus();
}

absl::Status ProcessMemory::ScanByEntries(const Mapping& mapping,
                                          std::vector<ResidentRange>& out) const {
  constexpr size_t kEntries = 16384;
  std::vector<uint64_t> entries(
      std::min<uint64_t>(kEntries, (mapping.end - mapping.start) / kPageSize));
  for (uint64_t at = mapping.start; at < mapping.end;) {
    const size_t want = std::min<uint64_t>(entries.size(), (mapping.end - at) / kPageSize);
    const ssize_t got = ::pread(pagemap_.get(), entries.data(), want * sizeof(uint64_t),
                                static_cast<off_t>(at / kPageSize * sizeof(uint64_t)));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(absl::StrCat("list the pages of process ", pid_));
    const size_t count = static_cast<size_t>(got) / sizeof(uint64_t);
    if (count == 0) break;  // the end of the address space, or of the process
    for (size_t i = 0; i < count; ++i) {
      const uint64_t entry = entries[i];
      if ((entry & (kEntryPresent | kEntrySwapped)) == 0) continue;
      if ((entry & kEntryFile) != 0 && !IsVdso(mapping)) continue;
      Append(out, {{at + i * kPageSize, 1}, (entry & kEntrySoftDirty) != 0});
    }
    at += count * kPageSize;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ResidentRange>> ProcessMemory::Resident(
    std::span<const Mapping> mappings) const {
  static const bool by_ioctl = HasPagemapScan();
  std::vector<ResidentRange> out;
  std::vector<ResidentRange> vdso;
  for (const Mapping& mapping : mappings) {
    std::vector<ResidentRange>& into = IsVdso(mapping) ? vdso : out;
    RETURN_IF_ERROR(by_ioctl ? ScanByIoctl(mapping, into) : ScanByEntries(mapping, into));
    if (!IsVdso(mapping)) continue;
    const bool dirty = std::any_of(vdso.begin(), vdso.end(),
                                   [](const ResidentRange& range) { return range.soft_dirty; });
    Append(out, {{mapping.start, (mapping.end - mapping.start) / kPageSize}, dirty});
  }
  return out;
}

absl::Status ProcessMemory::Read(std::span<const PageRange> ranges, std::span<std::byte> bytes,
                                 std::vector<bool>& there) const {
  there.assign(bytes.size() / kPageSize, true);
  std::array<iovec, kMaxPieces> remote;
  size_t range = 0;       // being read,
  uint64_t in_range = 0;  // from this page of it on
  for (size_t done = 0; done < there.size();) {
    size_t pieces = 0;
    size_t pages = 0;
    uint64_t skip = in_range;
    for (size_t i = range; i < ranges.size() && pieces < kMaxPieces; ++i) {
      remote[pieces++] = {reinterpret_cast<void*>(ranges[i].address + skip * kPageSize),
                          (ranges[i].pages - skip) * kPageSize};
      pages += ranges[i].pages - skip;
      skip = 0;
    }
    const iovec local{bytes.data() + done * kPageSize, pages * kPageSize};
    const ssize_t got = ::process_vm_readv(pid_, &local, 1, remote.data(), pieces, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno != EFAULT && errno != ESRCH) {
      return ErrnoStatus(absl::StrCat("read the memory of process ", pid_));
    }
    size_t advance = got > 0 ? static_cast<size_t>(got) / kPageSize : 0;
    if (advance == 0) {
      // It cannot be read the quick way: not readable to the process itself, or gone.
      const PageRange& here = ranges[range];
      const size_t most = std::min<size_t>(here.pages - in_range, kSlowPages) * kPageSize;
      const ssize_t slow = ::pread(memory_.get(), bytes.data() + done * kPageSize, most,
                                   static_cast<off_t>(here.address + in_range * kPageSize));
      advance = slow > 0 ? static_cast<size_t>(slow) / kPageSize : 0;
      if (advance == 0) there[done] = false;
      advance = std::max<size_t>(advance, 1);
    }
    done += advance;
    in_range += advance;
    while (range < ranges.size() && in_range >= ranges[range].pages) {
      in_range -= ranges[range].pages;
      ++range;
    }
  }
  return absl::OkStatus();
}

absl::Status ProcessMemory::SplitHugePages(std::span<const PageRange> ranges) const {
  // Advice for a part of a huge page has it split first (mm/madvise.c). That the first page of each
  // looks cold for a moment is all that else comes of it.
  std::vector<iovec> parts;
  for (const PageRange& range : ranges) {
    const uint64_t first = (range.address + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
    for (uint64_t at = first; at + kHugePageBytes <= range.end(); at += kHugePageBytes) {
      parts.push_back({reinterpret_cast<void*>(at), kPageSize});
    }
  }
  if (parts.empty()) return absl::OkStatus();
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  if (!process) return absl::NotFoundError("the process has ended");
  for (size_t done = 0; done < parts.size();) {
    const size_t count = std::min<size_t>(parts.size() - done, IOV_MAX);
    const ssize_t advised = ::process_madvise(process.get(), &parts[done], count, MADV_COLD, 0);
    if (advised < 0 && errno == ESRCH) return absl::NotFoundError("the process has ended");
    if (advised < 0 && (errno == ENOSYS || errno == EPERM)) {
      return absl::UnimplementedError("the kernel does not split another process's huge pages");
    }
    const size_t split = advised > 0 ? static_cast<size_t>(advised) / kPageSize : 0;
    // Behind what was done lies one that cannot be split, or is not mapped any more.
    done += split == count ? count : split + 1;
  }
  return absl::OkStatus();
}

absl::Status ProcessMemory::ClearSoftDirty() const {
  const absl::Status status = WriteKnob(absl::StrCat("/proc/", pid_, "/clear_refs"), "4");
  return Gone(status) ? absl::NotFoundError(status.message()) : status;
}

absl::StatusOr<std::vector<std::unique_ptr<ProcessMemory>>> OpenProcesses(
    const std::string& cgroup) {
  ASSIGN_OR_RETURN(const std::string pids, ReadFile(absl::StrCat(cgroup, "/cgroup.procs")));
  std::vector<std::unique_ptr<ProcessMemory>> processes;
  for (const absl::string_view text : absl::StrSplit(pids, '\n', absl::SkipWhitespace())) {
    pid_t pid;
    if (!absl::SimpleAtoi(text, &pid)) continue;
    absl::StatusOr<std::unique_ptr<ProcessMemory>> process = ProcessMemory::Open(pid);
    if (absl::IsNotFound(process.status())) continue;
    RETURN_IF_ERROR(process.status());
    processes.push_back(*std::move(process));
  }
  std::sort(processes.begin(), processes.end(),
            [](const auto& a, const auto& b) { return a->space() < b->space(); });
  return processes;
}

bool HasPagemapScan() {
  const UniqueFd pagemap(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  PagemapScanArguments scan;
  scan.start = scan.end = 0;
  scan.category_any_of = kPageIsPresent;
  scan.return_mask = kPageSoftDirty;
  PageRegion region;
  scan.regions = reinterpret_cast<uint64_t>(&region);
  scan.region_count = 1;
  scan.end = kPageSize;
  return pagemap && ::ioctl(pagemap.get(), kPagemapScan, &scan) >= 0;
}

bool HasSoftDirty() {
  const UniqueFd pagemap(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  void* page = ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (!pagemap || page == MAP_FAILED) return false;
  const auto dirty = [&] {
    uint64_t entry = 0;
    const off_t at = static_cast<off_t>(reinterpret_cast<uint64_t>(page) / kPageSize * 8);
    return ::pread(pagemap.get(), &entry, sizeof(entry), at) == sizeof(entry) &&
           (entry & kEntrySoftDirty) != 0;
  };
  *static_cast<volatile char*>(page) = 1;
  const bool cleared = WriteKnob("/proc/self/clear_refs", "4").ok() && !dirty();
  *static_cast<volatile char*>(page) = 2;
  const bool works = cleared && dirty();
  ::munmap(page, kPageSize);
  return works;
}

}  // namespace starling::checkpoint
