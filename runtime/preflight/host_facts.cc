#include "runtime/preflight/host_facts.h"

#include <linux/magic.h>
#include <net/if_arp.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "runtime/preflight/file_content.h"
#include "runtime/preflight/proc_parse.h"
#include "runtime/preflight/target_check.h"

namespace starling::preflight {
namespace {

HostFile LookAt(const v1::FileFact& wanted) {
  HostFile file;
  if (!absl::StartsWith(wanted.path(), "/") || wanted.path().find('\0') != std::string::npos) {
    file.error = "it is not an absolute path";
    return file;
  }
  Hash hash = Hash::kNever;
  if (!wanted.is_directory() && !wanted.writable()) {
    if (wanted.content_hash() != 0) {
      hash = Hash::kAlways;
    } else if (!wanted.build_id().empty()) {
      hash = Hash::kWithoutBuildId;
    }
  }
  const auto content = LookAtFile(wanted.path(), hash);
  if (absl::IsNotFound(content.status())) return file;
  if (!content.ok()) {
    file.error = std::string(content.status().message());
    return file;
  }
  file.exists = true;
  file.mode = content->stat.st_mode;
  file.size = static_cast<uint64_t>(content->stat.st_size);
  file.build_id = content->build_id;
  file.content_hash = content->hash;
  file.modified_ns = ModifiedNs(content->stat);
  return file;
}

// The first existing folder of `path` and those above it.
std::string ExistingFolder(std::string path) {
  struct stat stat;
  while (path.size() > 1 && ::stat(path.c_str(), &stat) != 0) {
    path.resize(std::max<size_t>(path.rfind('/'), 1));
  }
  return path;
}

// The freezer came with Linux 5.2; the root cgroup itself has no cgroup.freeze to look for.
bool HasFreezer(const std::string& cgroup_path, const std::string& kernel) {
  struct statfs fs;
  const std::string folder = ExistingFolder(cgroup_path);
  if (::statfs(folder.c_str(), &fs) != 0 || fs.f_type != CGROUP2_SUPER_MAGIC) return false;
  return MajorMinor(kernel) >= std::pair<int, int>(5, 2);
}

bool IsEthernet(const std::string& device) {
  if (device.empty() || absl::StrContains(device, '/')) return false;
  const auto type = ReadFile(absl::StrCat("/sys/class/net/", device, "/type"));
  int number = 0;
  return type.ok() && absl::SimpleAtoi(*type, &number) && number == ARPHRD_ETHER;
}

}  // namespace

HostFacts GatherHost(const v1::ExamineRequest& request, const HostOptions& options) {
  HostFacts facts;
  facts.options = options;
  facts.kernel = KernelRelease();
  facts.cpu_flags = CpuFlags();
  facts.memory_available_bytes = MemoryAvailable(options.cgroup_path);
  facts.cgroup_freezer = HasFreezer(options.cgroup_path, facts.kernel);
  facts.ethernet = IsEthernet(options.parent_device);
  for (std::string path : request.spec().shared()) {
    while (path.size() > 1 && path.back() == '/') path.pop_back();
    struct stat stat;
    if (::stat(path.c_str(), &stat) != 0) facts.missing_shared.push_back(path);
  }
  for (const v1::ShippedPath& shipped : request.shipped()) {
    facts.shipped.push_back(shipped.path().empty() ? ShippedPlace() : LookAtPlace(shipped.path()));
  }
  const int count = std::min(request.files_size(), kMaxFiles);
  facts.files.reserve(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) facts.files.push_back(LookAt(request.files(i)));
  return facts;
}

std::vector<std::string> CpuFlags() {
  const std::string text = ReadFile("/proc/cpuinfo").value_or("");
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::pair<absl::string_view, absl::string_view> field =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    const absl::string_view key = absl::StripAsciiWhitespace(field.first);
    if (key == "flags" || key == "Features") {
      return absl::StrSplit(absl::StripAsciiWhitespace(field.second), ' ', absl::SkipEmpty());
    }
  }
  return {};
}

std::string KernelRelease() {
  struct utsname name;
  return ::uname(&name) == 0 ? name.release : "";
}

uint64_t MemoryAvailable(const std::string& cgroup_path) {
  uint64_t available = 0;
  const auto fields = ParseStatus(ReadFile("/proc/meminfo").value_or(""));
  if (const auto it = fields.find("MemAvailable"); it != fields.end()) {
    const std::vector<std::string> words = absl::StrSplit(it->second, ' ');
    if (absl::SimpleAtoi(words[0], &available)) available *= kKiB;
  }
  if (cgroup_path.empty()) return available;
  for (std::string folder = ExistingFolder(cgroup_path); folder.size() > 1;
       folder.resize(std::max<size_t>(folder.rfind('/'), 1))) {
    uint64_t max = 0, current = 0;
    const auto max_text = ReadFile(folder + "/memory.max");
    const auto current_text = ReadFile(folder + "/memory.current");
    // "max" stands for no limit and is no number.
    if (!max_text.ok() || !current_text.ok() || !absl::SimpleAtoi(*max_text, &max) ||
        !absl::SimpleAtoi(*current_text, &current)) {
      continue;
    }
    available = std::min(available, max > current ? max - current : 0);
  }
  return available;
}

}  // namespace starling::preflight
