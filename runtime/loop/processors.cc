#include "runtime/loop/processors.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/file.h"

namespace starling::loop {
namespace {

constexpr int kMostProcessor = 65535;
constexpr int kCacheIndices = 8;

std::optional<Processors> ReadProcessors(const std::string& path) {
  const auto text = ReadFile(path);
  if (!text.ok()) return std::nullopt;
  return ParseProcessors(absl::StripAsciiWhitespace(*text));
}

// Those that share this one's cache of the highest level.
std::optional<Processors> Sharing(const std::string& processor) {
  std::optional<Processors> sharing;
  int highest = 0;
  for (int index = 0; index < kCacheIndices; ++index) {
    const std::string cache = absl::StrCat(processor, "/cache/index", index);
    const auto text = ReadFile(cache + "/level");
    int level = 0;
    if (!text.ok() || !absl::SimpleAtoi(*text, &level) || level <= highest) continue;
    auto processors = ReadProcessors(cache + "/shared_cpu_list");
    if (!processors) continue;
    highest = level;
    sharing = std::move(processors);
  }
  return sharing;
}

}  // namespace

std::optional<Processors> ParseProcessors(absl::string_view text) {
  Processors processors;
  if (text.empty()) return processors;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const std::vector<absl::string_view> ends = absl::StrSplit(part, '-');
    int first = 0, last = 0;
    if (ends.size() > 2 || !absl::SimpleAtoi(ends.front(), &first) ||
        !absl::SimpleAtoi(ends.back(), &last) || first < 0 || last < first ||
        last > kMostProcessor) {
      return std::nullopt;
    }
    for (int processor = first; processor <= last; ++processor) processors.push_back(processor);
  }
  std::sort(processors.begin(), processors.end());
  processors.erase(std::unique(processors.begin(), processors.end()), processors.end());
  return processors;
}

std::string WriteProcessors(const Processors& processors) { return absl::StrJoin(processors, ","); }

std::vector<Processors> ProcessorGroups(const std::string& system) {
  const auto online = ReadProcessors(system + "/cpu/online");
  std::vector<Processors> groups;
  if (!online) return groups;
  for (const int processor : *online) {
    const auto sharing = Sharing(absl::StrCat(system, "/cpu/cpu", processor));
    if (!sharing || std::find(sharing->begin(), sharing->end(), processor) == sharing->end()) {
      continue;
    }
    if (std::find(groups.begin(), groups.end(), *sharing) == groups.end()) {
      groups.push_back(*sharing);
    }
  }
  return groups;
}

int GroupOf(const std::string& cgroup, const std::vector<Processors>& groups) {
  const auto confined = ReadProcessors(cgroup + "/cpuset.cpus");
  if (!confined || confined->empty()) return -1;
  for (size_t g = 0; g < groups.size(); ++g) {
    if (std::includes(groups[g].begin(), groups[g].end(), confined->begin(), confined->end())) {
      return static_cast<int>(g);
    }
  }
  return -1;
}

}  // namespace starling::loop
