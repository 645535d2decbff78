#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

// Parsers for the files of /proc that preflight reads; formats: proc(5). Pure; a line that does not
// have the expected form is left out, since the kernel may add kinds of lines.

namespace starling::preflight {

struct StatLine {
  int pid = 0;
  std::string name;  // may hold any character, ')' and newline included
  char state = '?';
  int parent = 0;
};
std::optional<StatLine> ParseStat(absl::string_view text);

// "Key:\tvalue" lines of /proc/PID/status, values without surrounding white space.
std::map<std::string, std::string> ParseStatus(absl::string_view text);

struct MapLine {
  uint64_t start = 0;
  uint64_t end = 0;
  bool writable = false;
  bool shared = false;
  uint64_t inode = 0;
  std::string path;  // unescaped; without " (deleted)"
  bool deleted = false;
};
std::vector<MapLine> ParseMaps(absl::string_view text);

struct FdInfo {
  int flags = 0;  // open(2) flags, O_CLOEXEC left out
  int mount_id = 0;
  int tty_index = -1;  // of the pair, for a pseudo terminal's master
};
FdInfo ParseFdInfo(absl::string_view text);

struct MountLine {
  int id = 0;
  uint64_t dev = 0;
  std::string point;  // unescaped
  std::string type;
  bool read_only = false;
};
std::vector<MountLine> ParseMountInfo(absl::string_view text);

// Takes " (deleted)" off the end of a path that the kernel printed; true if it was there.
bool StripDeleted(std::string* path);

// Undoes the kernel's \ooo escapes.
std::string Unescape(absl::string_view text);

}  // namespace starling::preflight
