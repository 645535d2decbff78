#include "runtime/preflight/target_check.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <set>
#include <unordered_set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/units.h"
#include "runtime/preflight/limits.h"
#include "runtime/preflight/storage_token.h"

namespace starling::preflight {
namespace {

// x86 flags of /proc/cpuinfo that change what unprivileged code may execute or how registers are
// saved. Most of the others are the kernel's own business (virtualisation, mitigations, topology).
constexpr const char* kUserFlags[] = {
    "fpu",           "cx8",        "cmov",      "mmx",      "mmxext",     "fxsr",      "sse",
    "sse2",          "pni",        "ssse3",     "sse4_1",   "sse4_2",     "sse4a",     "cx16",
    "popcnt",        "abm",        "lahf_lm",   "movbe",    "aes",        "pclmulqdq", "xsave",
    "xsaveopt",      "xsavec",     "xgetbv1",   "avx",      "avx2",       "f16c",      "fma",
    "fma4",          "xop",        "tbm",       "rdrand",   "rdseed",     "rdpid",     "rdtscp",
    "bmi1",          "bmi2",       "adx",       "fsgsbase", "sha_ni",     "sha512",    "sm3",
    "sm4",           "clflushopt", "clwb",      "cldemote", "clzero",     "movdiri",   "movdir64b",
    "waitpkg",       "serialize",  "gfni",      "vaes",     "vpclmulqdq", "3dnow",     "3dnowext",
    "3dnowprefetch", "rtm",        "hle",       "ospke",    "mwaitx",     "monitorx",  "enqcmd",
    "uintr",         "user_shstk", "cmpccxadd", "amx_tile", "amx_int8",   "amx_bf16",  "amx_fp16",
    "amx_complex",
};
// Whole families: every member is an instruction set.
constexpr const char* kUserFlagPrefixes[] = {"avx512", "avx_", "avx10"};

bool IsX86(const std::vector<std::string>& flags) {
  return std::find(flags.begin(), flags.end(), "fpu") != flags.end();
}

bool UserCanUse(const std::string& flag) {
  static const auto* const names =
      new std::unordered_set<std::string>(std::begin(kUserFlags), std::end(kUserFlags));
  if (names->count(flag) > 0) return true;
  return std::any_of(std::begin(kUserFlagPrefixes), std::end(kUserFlagPrefixes),
                     [&flag](const char* prefix) { return absl::StartsWith(flag, prefix); });
}

std::string KindOf(mode_t mode) {
  if (S_ISREG(mode)) return "a file";
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a FIFO";
  return "of another kind";
}

class TargetCheck {
 public:
  TargetCheck(const v1::ExamineRequest& request, const HostFacts& facts)
      : request_(request), facts_(facts), host_(facts.options.host) {}

  std::vector<v1::Obstacle> Run() {
    CheckVersions();
    CheckHost();
    CheckSharedPaths();
    CheckShipped();
    // The files' own lines come in the second pass: where the storage is another, they say nothing.
    for (int i = 0; i < request_.files_size(); ++i) {
      if (static_cast<size_t>(i) >= facts_.files.size()) break;
      if (IsStorageToken(request_.files(i).path())) {
        CheckToken(request_.files(i), facts_.files[static_cast<size_t>(i)]);
      }
    }
    for (int i = 0; i < request_.files_size(); ++i) {
      const v1::FileFact& file = request_.files(i);
      if (static_cast<size_t>(i) >= facts_.files.size()) {
        Add(Limit::kFileUnreadable, file.path(),
            {{"host", host_}, {"cause", "the list of files is too long"}});
        break;
      }
      CheckFile(file, facts_.files[static_cast<size_t>(i)]);
    }
    return std::move(obstacles_);
  }

 private:
  void Add(Limit limit, const std::string& thing,
           std::initializer_list<std::pair<absl::string_view, absl::string_view>> values) {
    v1::Obstacle obstacle = MakeObstacle(limit, thing, values);
    if (seen_.insert({obstacle.code(), thing}).second) obstacles_.push_back(std::move(obstacle));
  }

  void CheckVersions() {
    if (request_.protocol() != facts_.options.protocol) {
      Add(Limit::kProtocolVersion, request_.source_host(),
          {{"theirs", absl::StrCat(request_.protocol())},
           {"ours", absl::StrCat(facts_.options.protocol)}});
    }
    if (facts_.options.criu.empty()) {
      Add(Limit::kCriuMissing, host_, {{"cause", facts_.options.criu_error}});
    } else if (!request_.source_criu().empty() &&
               MajorMinor(request_.source_criu()) != MajorMinor(facts_.options.criu)) {
      Add(Limit::kCriuVersion, host_,
          {{"theirs", facts_.options.criu}, {"ours", request_.source_criu()}});
    }
    if (MajorMinor(facts_.kernel) < MajorMinor(request_.source_kernel())) {
      Add(Limit::kKernelOlder, host_,
          {{"theirs", facts_.kernel}, {"ours", request_.source_kernel()}});
    }
    const std::vector<std::string> missing = MissingCpuFlags(
        {request_.cpu_flags().begin(), request_.cpu_flags().end()}, facts_.cpu_flags);
    if (!missing.empty()) {
      Add(Limit::kCpuFlags, host_, {{"flags", absl::StrJoin(missing, ", ")}});
    }
  }

  void CheckHost() {
    const v1::ComponentSpec& spec = request_.spec();
    if (facts_.options.name_taken) Add(Limit::kNameTaken, host_, {{"name", spec.name()}});
    if (!facts_.cgroup_freezer) {
      Add(Limit::kKernelFeature, host_,
          {{"feature", "cgroup v2 with its freezer"},
           {"hint", "Linux 5.2 or later with cgroup v2 mounted on /sys/fs/cgroup"}});
    }
    if (!spec.ip().empty() && !facts_.ethernet) {
      Add(Limit::kNoEthernet, host_, {{"device", facts_.options.parent_device}});
    }
    const double needed =
        static_cast<double>(request_.memory_bytes()) * facts_.options.memory_factor;
    if (needed > static_cast<double>(facts_.memory_available_bytes)) {
      // Beyond what a uint64_t holds only if the request lies.
      const auto bytes = static_cast<uint64_t>(std::min(needed, 9e18));
      Add(Limit::kTargetMemory, host_,
          {{"available", FormatBytes(facts_.memory_available_bytes)},
           {"needed", FormatBytes(bytes)}});
    }
  }

  void CheckSharedPaths() {
    for (const std::string& path : facts_.missing_shared) {
      Add(Limit::kSharedMissing, path, {{"host", host_}});
    }
  }

  void CheckShipped() {
    for (size_t i = 0; i < facts_.shipped.size(); ++i) {
      const v1::ShippedPath& wanted = request_.shipped(static_cast<int>(i));
      const ShippedPlace& place = facts_.shipped[i];
      if (!place.has_folder) {
        Add(Limit::kShippedFolder, wanted.path(), {{"host", host_}});
        continue;
      }
      if (place.taken) Add(Limit::kShippedTaken, wanted.path(), {{"host", host_}});
      if (place.free_bytes < wanted.bytes()) {
        Add(Limit::kShippedSpace, wanted.path(),
            {{"host", host_},
             {"available", FormatBytes(place.free_bytes)},
             {"needed", FormatBytes(wanted.bytes())}});
      }
    }
  }

  void CheckFile(const v1::FileFact& wanted, const HostFile& have) {
    if (IsStorageToken(wanted.path()) || (wanted.shared() && OnOtherStorage(wanted.path()))) return;
    if (!have.error.empty()) {
      Add(Limit::kFileUnreadable, wanted.path(), {{"host", host_}, {"cause", have.error}});
      return;
    }
    if (!have.exists) {
      Add(Limit::kFileMissing, wanted.path(), {{"host", host_}});
      return;
    }
    const std::string difference = Difference(wanted, have);
    if (!difference.empty()) {
      Add(Limit::kFileDifferent, wanted.path(), {{"host", host_}, {"difference", difference}});
    }
  }

  void CheckToken(const v1::FileFact& wanted, const HostFile& have) {
    const std::string folder = StorageTokenFolder(wanted.path());
    const auto& missing = facts_.missing_shared;
    if (std::find(missing.begin(), missing.end(), folder) != missing.end()) return;
    if (!have.exists || have.content_hash != wanted.content_hash()) {
      Add(Limit::kSharedNotSame, folder, {{"host", host_}});
      other_storage_.push_back(folder);
    }
  }

  bool OnOtherStorage(const std::string& path) const {
    const auto holds = [&](const std::string& folder) {
      return folder == "/" || path == folder || absl::StartsWith(path, absl::StrCat(folder, "/"));
    };
    return std::any_of(other_storage_.begin(), other_storage_.end(), holds) ||
           std::any_of(facts_.missing_shared.begin(), facts_.missing_shared.end(), holds);
  }

  static std::string Difference(const v1::FileFact& wanted, const HostFile& have) {
    if (wanted.mode() != 0 && wanted.mode() != have.mode) {
      if ((wanted.mode() & S_IFMT) != (have.mode & S_IFMT)) {
        return absl::StrCat("it is ", KindOf(have.mode), " there and ", KindOf(wanted.mode()),
                            " at the source");
      }
      return absl::StrFormat("its permissions are %04o there and %04o at the source",
                             have.mode & 07777, wanted.mode() & 07777);
    }
    if (wanted.is_directory() || wanted.writable() || !S_ISREG(have.mode)) return "";
    if (wanted.shared()) {
      // A modification time is only given for files that had settled when they were looked at.
      if (wanted.modified_ns() == 0) return "";
      if (wanted.size() != have.size || wanted.modified_ns() != have.modified_ns) {
        return "its size or its time of modification on the shared storage is another";
      }
      return "";
    }
    if (wanted.build_id() != have.build_id) {
      return absl::StrCat("its build id is ", have.build_id.empty() ? "missing" : have.build_id,
                          " there and ", wanted.build_id().empty() ? "missing" : wanted.build_id(),
                          " at the source");
    }
    if (wanted.size() != have.size) {
      return absl::StrCat("it has ", have.size, " bytes there and ", wanted.size(),
                          " at the source");
    }
    if (wanted.content_hash() != 0 && wanted.content_hash() != have.content_hash) {
      return "its content is another";
    }
    return "";
  }

  const v1::ExamineRequest& request_;
  const HostFacts& facts_;
  const std::string& host_;
  std::vector<std::string> other_storage_;  // declared as shared
  std::set<std::pair<std::string, std::string>> seen_;
  std::vector<v1::Obstacle> obstacles_;
};

}  // namespace

std::vector<v1::Obstacle> CheckTarget(const v1::ExamineRequest& request, const HostFacts& facts) {
  return TargetCheck(request, facts).Run();
}

std::vector<std::string> MissingCpuFlags(const std::vector<std::string>& source,
                                         const std::vector<std::string>& target) {
  const std::set<std::string> have(target.begin(), target.end());
  // On arm64 and others, /proc/cpuinfo lists only what programs may use.
  const bool x86 = IsX86(source);
  std::vector<std::string> missing;
  for (const std::string& flag : source) {
    if (have.count(flag) == 0 && (!x86 || UserCanUse(flag))) missing.push_back(flag);
  }
  return missing;
}

std::pair<int, int> MajorMinor(const std::string& version) {
  int major = 0, minor = 0;
  if (std::sscanf(version.c_str(), "%5d.%5d", &major, &minor) != 2) return {0, 0};
  return {major, minor};
}

}  // namespace starling::preflight
