#include "runtime/preflight/proc_parse.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace starling::preflight {
namespace {

bool ParseHex(absl::string_view text, uint64_t* value) {
  if (text.empty() || text.size() > 16) return false;
  *value = 0;
  for (char c : text) {
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) return false;
    *value = *value * 16 + static_cast<uint64_t>(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
  }
  return true;
}

// The next word of `*text`, which is taken off it together with the blanks around it.
absl::string_view TakeWord(absl::string_view* text) {
  *text = absl::StripLeadingAsciiWhitespace(*text);
  const size_t end = std::min(text->find(' '), text->size());
  const absl::string_view word = text->substr(0, end);
  text->remove_prefix(end);
  return word;
}

}  // namespace

std::optional<StatLine> ParseStat(absl::string_view text) {
  const size_t open = text.find('(');
  const size_t close = text.rfind(')');
  if (open == absl::string_view::npos || close == absl::string_view::npos || close < open) {
    return std::nullopt;
  }
  StatLine line;
  if (!absl::SimpleAtoi(absl::StripAsciiWhitespace(text.substr(0, open)), &line.pid)) {
    return std::nullopt;
  }
  line.name = std::string(text.substr(open + 1, close - open - 1));
  absl::string_view rest = text.substr(close + 1);
  const absl::string_view state = TakeWord(&rest);
  if (state.size() != 1 || !absl::SimpleAtoi(TakeWord(&rest), &line.parent)) return std::nullopt;
  line.state = state[0];
  return line;
}

std::map<std::string, std::string> ParseStatus(absl::string_view text) {
  std::map<std::string, std::string> fields;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const size_t colon = line.find(':');
    if (colon == absl::string_view::npos) continue;
    fields[std::string(line.substr(0, colon))] =
        std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
  }
  return fields;
}

std::vector<MapLine> ParseMaps(absl::string_view text) {
  std::vector<MapLine> maps;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    MapLine map;
    const absl::string_view range = TakeWord(&line);
    const absl::string_view flags = TakeWord(&line);
    TakeWord(&line);  // offset
    TakeWord(&line);  // device: not what stat(2) says on some file systems
    const absl::string_view inode = TakeWord(&line);
    const size_t dash = range.find('-');
    if (dash == absl::string_view::npos || flags.size() < 4 ||
        !ParseHex(range.substr(0, dash), &map.start) ||
        !ParseHex(range.substr(dash + 1), &map.end) || !absl::SimpleAtoi(inode, &map.inode)) {
      continue;
    }
    map.writable = flags[1] == 'w';
    map.shared = flags[3] == 's';
    map.path = Unescape(absl::StripLeadingAsciiWhitespace(line));
    map.deleted = StripDeleted(&map.path);
    maps.push_back(std::move(map));
  }
  return maps;
}

FdInfo ParseFdInfo(absl::string_view text) {
  FdInfo info;
  const auto fields = ParseStatus(text);
  if (const auto it = fields.find("flags"); it != fields.end()) {
    info.flags = static_cast<int>(std::strtol(it->second.c_str(), nullptr, 8)) & ~O_CLOEXEC;
  }
  if (const auto it = fields.find("mnt_id"); it != fields.end()) {
    (void)absl::SimpleAtoi(it->second, &info.mount_id);
  }
  if (const auto it = fields.find("tty-index"); it != fields.end()) {
    if (!absl::SimpleAtoi(it->second, &info.tty_index)) info.tty_index = -1;
  }
  return info;
}

std::vector<MountLine> ParseMountInfo(absl::string_view text) {
  std::vector<MountLine> mounts;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    // id parent major:minor root point options [fields...] - type source options
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    const auto dash = std::find(words.begin(), words.end(), "-");
    if (words.size() < 7 || dash == words.end() || dash + 1 == words.end()) continue;
    MountLine mount;
    const std::vector<absl::string_view> numbers = absl::StrSplit(words[2], ':');
    unsigned major = 0, minor = 0;
    if (!absl::SimpleAtoi(words[0], &mount.id) || numbers.size() != 2 ||
        !absl::SimpleAtoi(numbers[0], &major) || !absl::SimpleAtoi(numbers[1], &minor)) {
      continue;
    }
    mount.dev = makedev(major, minor);
    mount.point = Unescape(words[4]);
    mount.type = std::string(*(dash + 1));
    for (absl::string_view option : absl::StrSplit(words[5], ',')) {
      mount.read_only |= option == "ro";
    }
    if (dash + 3 < words.end()) {
      for (absl::string_view option : absl::StrSplit(*(dash + 3), ',')) {
        mount.read_only |= option == "ro";
      }
    }
    mounts.push_back(std::move(mount));
  }
  return mounts;
}

bool StripDeleted(std::string* path) {
  absl::string_view rest = *path;
  if (!absl::ConsumeSuffix(&rest, " (deleted)")) return false;
  *path = std::string(rest);
  return true;
}

std::string Unescape(absl::string_view text) {
  std::string plain;
  const auto octal = [](char c) { return c >= '0' && c <= '7'; };
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size() && octal(text[i + 1]) && octal(text[i + 2]) &&
        octal(text[i + 3])) {
      plain.push_back(static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 +
                                        (text[i + 3] - '0')));
      i += 3;
    } else {
      plain.push_back(text[i]);
    }
  }
  return plain;
}

}  // namespace starling::preflight
