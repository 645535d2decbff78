#include "runtime/loop/mapped_files.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "runtime/preflight/proc_parse.h"

namespace starling::loop {

std::vector<std::string> MappedFiles(const std::string& cgroup, size_t most,
                                     const std::string& proc) {
  std::vector<std::string> files;
  std::set<std::string> seen;
  const auto procs = ReadFile(cgroup + "/cgroup.procs");
  if (!procs.ok()) return files;
  for (const absl::string_view pid : absl::StrSplit(*procs, '\n', absl::SkipEmpty())) {
    const auto maps = ReadFile(absl::StrCat(proc, "/", pid, "/maps"));
    if (!maps.ok()) continue;
    for (const preflight::MapLine& line : preflight::ParseMaps(*maps)) {
      // Shared mappings are of data, which is another matter; "[heap]" and such are no files.
      if (line.shared || line.deleted || line.inode == 0 || line.path.empty() ||
          line.path[0] != '/' || !seen.insert(line.path).second) {
        continue;
      }
      files.push_back(line.path);
      if (files.size() >= most) return files;
    }
  }
  return files;
}

}  // namespace starling::loop
