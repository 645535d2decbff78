#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/proto/starling.pb.h"

// What there is at a path that a component ships, here and at a target.

namespace starling::preflight {

struct ShippedFact {
  std::string path;
  bool movable = false;  // a folder or a regular file is there
  uint64_t bytes = 0;    // on the disk
  std::vector<std::string> devices;
  std::vector<std::string> mounts;  // other file systems, at the path itself or below
};

// Blocking: looks at every file below. Does not follow symbolic links.
ShippedFact LookAtShipped(const std::string& path);

// The same path as the target sees it.
struct ShippedPlace {
  bool has_folder = false;  // that it lies in
  bool taken = false;       // something is there, and not just an empty folder
  uint64_t free_bytes = 0;
};
ShippedPlace LookAtPlace(const std::string& path);

// Is `path` a shipped one or below one? By whole path components, without looking at disk.
bool IsShipped(const std::string& path, const v1::ComponentSpec& spec);

// Is `path` the folder, or below it?
bool IsBelow(const std::string& path, const std::string& folder);

}  // namespace starling::preflight
