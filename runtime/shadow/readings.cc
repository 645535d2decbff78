#include "runtime/shadow/readings.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace starling::shadow {
namespace {

std::vector<absl::string_view> Words(absl::string_view line) {
  return absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
}

// "key=123"
bool Field(absl::string_view word, absl::string_view key, uint64_t* value) {
  return absl::ConsumePrefix(&word, key) && absl::ConsumePrefix(&word, "=") &&
         absl::SimpleAtoi(word, value);
}

// The number behind `key` on a line of its own.
std::optional<uint64_t> Keyed(absl::string_view text, absl::string_view key) {
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> words = Words(line);
    uint64_t value = 0;
    if (words.size() == 2 && words[0] == key && absl::SimpleAtoi(words[1], &value)) return value;
  }
  return std::nullopt;
}

}  // namespace

std::optional<uint64_t> ParseCpuUsage_us(absl::string_view text) {
  return Keyed(text, "usage_usec");
}

std::optional<uint64_t> ParseInactiveFile(absl::string_view text) {
  return Keyed(text, "inactive_file");
}

std::optional<uint64_t> ParseMeminfo(absl::string_view text, absl::string_view key) {
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> words = Words(line);
    uint64_t value = 0;
    if (words.size() == 3 && words[0] == absl::StrCat(key, ":") && words[2] == "kB" &&
        absl::SimpleAtoi(words[1], &value) && value < uint64_t{1} << 42) {
      return value * 1024;
    }
  }
  return std::nullopt;
}

std::optional<ProcessorTicks> ParseProcessorTicks(absl::string_view text) {
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> words = Words(line);
    // user nice system idle iowait irq softirq steal; guests are in user already.
    if (words.size() < 9 || words[0] != "cpu") continue;
    ProcessorTicks ticks;
    for (size_t i = 1; i < 9; ++i) {
      uint64_t value = 0;
      if (!absl::SimpleAtoi(words[i], &value)) return std::nullopt;
      ticks.all += value;
      if (i != 4 && i != 5) ticks.busy += value;
    }
    return ticks;
  }
  return std::nullopt;
}

std::optional<uint64_t> ParseNumber(absl::string_view text) {
  uint64_t value = 0;
  if (!absl::SimpleAtoi(absl::StripAsciiWhitespace(text), &value)) return std::nullopt;
  return value;
}

std::optional<IoBytes> ParseIoStat(absl::string_view text) {
  IoBytes bytes;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    for (const absl::string_view word : Words(line)) {
      uint64_t value = 0;
      if (Field(word, "rbytes", &value)) bytes.read += value;
      if (Field(word, "wbytes", &value)) bytes.written += value;
    }
  }
  return bytes;
}

std::optional<Pressure> ParsePressure(absl::string_view text) {
  Pressure pressure;
  bool any = false;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> words = Words(line);
    if (words.size() != 5 || (words[0] != "some" && words[0] != "full")) continue;
    absl::string_view average = words[1];
    double percent = 0;
    uint64_t total = 0;
    if (!absl::ConsumePrefix(&average, "avg10=") || !absl::SimpleAtod(average, &percent) ||
        !(percent >= 0 && percent <= 100) || !Field(words[4], "total", &total)) {
      continue;
    }
    if (words[0] == "some") {
      pressure.some_avg10 = percent / 100;
      pressure.some_total_us = total;
      any = true;
    } else {
      pressure.full_avg10 = percent / 100;
    }
  }
  if (!any) return std::nullopt;
  return pressure;
}

std::optional<uint64_t> ParseIpDelivered(absl::string_view text) {
  // Two lines of "Ip:": names, then numbers.
  std::vector<absl::string_view> names;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> words = Words(line);
    if (words.empty() || words[0] != "Ip:") continue;
    if (names.empty()) {
      names = words;
      continue;
    }
    for (size_t i = 1; i < std::min(names.size(), words.size()); ++i) {
      uint64_t packets = 0;
      if (names[i] == "InDelivers" && absl::SimpleAtoi(words[i], &packets)) return packets;
    }
  }
  return std::nullopt;
}

std::optional<IoBytes> ParseBlockStat(absl::string_view text) {
  constexpr size_t kSectorsRead = 2, kSectorsWritten = 6;
  constexpr uint64_t kSector = 512, kMostSectors = UINT64_MAX / kSector;
  std::vector<absl::string_view> words =
      absl::StrSplit(text, absl::ByAnyChar(" \t\n"), absl::SkipEmpty());
  IoBytes bytes;
  if (words.size() <= kSectorsWritten || !absl::SimpleAtoi(words[kSectorsRead], &bytes.read) ||
      !absl::SimpleAtoi(words[kSectorsWritten], &bytes.written) || bytes.read > kMostSectors ||
      bytes.written > kMostSectors) {
    return std::nullopt;
  }
  return IoBytes{bytes.read * kSector, bytes.written * kSector};
}

std::optional<NetBytes> ParseNetDev(absl::string_view text, const std::set<std::string>* only) {
  NetBytes bytes;
  bool any = false;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (parts.size() != 2) continue;
    const std::vector<absl::string_view> words = Words(parts[1]);
    uint64_t received = 0, sent = 0;
    if (words.size() < 16 || !absl::SimpleAtoi(words[0], &received) ||
        !absl::SimpleAtoi(words[8], &sent)) {
      continue;
    }
    any = true;
    const absl::string_view device = absl::StripAsciiWhitespace(parts[0]);
    if (only != nullptr ? !only->contains(std::string(device)) : device == "lo") continue;
    bytes.received += received;
    bytes.sent += sent;
  }
  if (!any) return std::nullopt;
  return bytes;
}

}  // namespace starling::shadow
