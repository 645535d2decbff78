#include "runtime/preflight/ship_facts.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace starling::preflight {
namespace {

std::string ParentOf(const std::string& path) {
  return path.substr(0, std::max<size_t>(path.rfind('/'), 1));
}

}  // namespace

bool IsBelow(const std::string& path, const std::string& folder) {
  return path == folder || absl::StartsWith(path, absl::StrCat(folder, "/"));
}

bool IsShipped(const std::string& path, const v1::ComponentSpec& spec) {
  return std::any_of(spec.ship().begin(), spec.ship().end(),
                     [&](const std::string& folder) { return IsBelow(path, folder); });
}

ShippedFact LookAtShipped(const std::string& path) {
  ShippedFact fact;
  fact.path = path;
  struct stat root;
  struct stat parent;
  if (::lstat(path.c_str(), &root) != 0 || ::stat(ParentOf(path).c_str(), &parent) != 0) {
    return fact;
  }
  fact.movable = S_ISDIR(root.st_mode) || S_ISREG(root.st_mode);
  if (!fact.movable) return fact;
  if (root.st_dev != parent.st_dev) fact.mounts.push_back(path);
  fact.bytes = static_cast<uint64_t>(root.st_blocks) * 512;
  std::vector<std::string> folders;
  if (S_ISDIR(root.st_mode)) folders.push_back(path);
  while (!folders.empty()) {
    const std::string folder = folders.back();
    folders.pop_back();
    // What vanishes meanwhile was a running component's, and is no obstacle.
    std::error_code error;
    for (std::filesystem::directory_iterator item(folder, error), end; !error && item != end;
         item.increment(error)) {
      const std::string name = item->path().string();
      struct stat info;
      if (::lstat(name.c_str(), &info) != 0) continue;
      if (info.st_dev != root.st_dev) {
        fact.mounts.push_back(name);
        continue;
      }
      fact.bytes += static_cast<uint64_t>(info.st_blocks) * 512;
      if (S_ISCHR(info.st_mode) || S_ISBLK(info.st_mode)) fact.devices.push_back(name);
      if (S_ISDIR(info.st_mode)) folders.push_back(name);
    }
  }
  return fact;
}

ShippedPlace LookAtPlace(const std::string& path) {
  ShippedPlace place;
  const std::string parent = ParentOf(path);
  struct stat info;
  place.has_folder = ::stat(parent.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
  if (::lstat(path.c_str(), &info) == 0) {
    std::error_code error;
    place.taken = !S_ISDIR(info.st_mode) || !std::filesystem::is_empty(path, error) || error;
  }
  struct statvfs space;
  if (::statvfs(parent.c_str(), &space) == 0) place.free_bytes = space.f_bavail * space.f_frsize;
  return place;
}

}  // namespace starling::preflight
