#include "runtime/spec.h"

#include <stdio.h>

#include <array>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/units.h"
#include "runtime/names.h"

namespace starling {
namespace {

constexpr int kMaxWords = 4096;
// What the kernel gives a program for arguments and environment is larger; a component's spec also
// travels in messages.
constexpr size_t kMaxWordBytes = 128 * kKiB;
constexpr uint64_t kMinMemory = 4 * kMiB;
constexpr int kMaxShared = 64;
constexpr int kMaxShip = 64;
constexpr int kMaxNames = 64;
constexpr int kMostPriority = 1000;
constexpr double kMostBlackout_s = 600;
constexpr uint64_t kLeastIo = 64 * kKiB, kMostIo = uint64_t{1} << 50;
constexpr size_t kMostProbeBytes = 16 * kKiB;
constexpr double kLeastProbe_s = 0.1, kMostProbe_s = 3600;
// With its slash. Other names are made of it.
constexpr size_t kMaxShipName = 161;

// Protocol buffers carry text as UTF-8 only. Overlong forms and surrogates are not told apart here:
// the message's own parser refuses those.
bool IsUtf8(absl::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const unsigned char lead = text[i++];
    int more = 0;
    if (lead >= 0xc2 && lead <= 0xdf)
      more = 1;
    else if (lead >= 0xe0 && lead <= 0xef)
      more = 2;
    else if (lead >= 0xf0 && lead <= 0xf4)
      more = 3;
    else if (lead >= 0x80)
      return false;
    for (; more > 0; --more, ++i) {
      if (i >= text.size() || (static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) return false;
    }
  }
  return true;
}

bool HasNul(absl::string_view text) { return text.find('\0') != absl::string_view::npos; }

// Of other components, or of hosts.
template <typename Names>
absl::Status CheckNames(const Names& names, absl::string_view what,
                        absl::Status (*check)(absl::string_view)) {
  if (names.size() > kMaxNames) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": more than ", kMaxNames, " names"));
  }
  for (const std::string& name : names) RETURN_IF_ERROR(Annotate(check(name), what));
  return absl::OkStatus();
}

// Words that execve(2) will be given.
template <typename Words>
absl::Status CheckWords(const Words& words, absl::string_view what) {
  if (words.size() > kMaxWords) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": more than ", kMaxWords, " words"));
  }
  size_t bytes = 0;
  for (const std::string& word : words) {
    if (HasNul(word)) return absl::InvalidArgumentError(absl::StrCat(what, ": has a NUL in it"));
    if (!IsUtf8(word)) return absl::InvalidArgumentError(absl::StrCat(what, ": is not UTF-8"));
    bytes += word.size() + 1;
  }
  if (bytes > kMaxWordBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": more than ", FormatBytes(kMaxWordBytes)));
  }
  return absl::OkStatus();
}

absl::Status CheckUser(absl::string_view user) {
  for (const char c : user) {
    if (!absl::ascii_isalnum(c) && c != '-' && c != '_' && c != '.') {
      return absl::InvalidArgumentError("user: letters, digits, '-', '_' and '.' only");
    }
  }
  if (user.size() > 32) return absl::InvalidArgumentError("user: longer than 32 bytes");
  if (!user.empty() && user[0] == '-') return absl::InvalidArgumentError("user: begins with '-'");
  return absl::OkStatus();
}

absl::Status CheckMac(absl::string_view mac) {
  bool good = mac.size() == 17;
  for (size_t i = 0; good && i < mac.size(); ++i) {
    good = i % 3 == 2 ? mac[i] == ':' : absl::ascii_isxdigit(mac[i]) != 0;
  }
  // The two lowest bits of the first byte: local, and not a group's.
  good = good && (absl::string_view("26aAeE").find(mac[1]) != absl::string_view::npos);
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError("mac: a local unicast address, such as 02:00:5e:10:00:01");
}

bool Nested(absl::string_view a, absl::string_view b) {
  if (a.size() > b.size()) std::swap(a, b);
  return a == "/" || a == b || absl::StartsWith(b, absl::StrCat(a, "/"));
}

// Paths that are put in place by a rename, each for itself.
absl::Status CheckShip(const v1::ComponentSpec& spec) {
  if (spec.ship_size() > kMaxShip) {
    return absl::InvalidArgumentError(absl::StrCat("ship: more than ", kMaxShip, " paths"));
  }
  RETURN_IF_ERROR(CheckWords(spec.ship(), "ship"));
  for (int i = 0; i < spec.ship_size(); ++i) {
    const std::string& path = spec.ship(i);
    RETURN_IF_ERROR(Annotate(CheckAbsolutePath(path), "ship"));
    if (path == "/") {
      return absl::InvalidArgumentError("ship: '/' cannot be moved: name what is below it");
    }
    if (path.size() - path.rfind('/') > kMaxShipName) {
      return absl::InvalidArgumentError(absl::StrCat(
          "ship: the last part of '", path, "' is longer than ", kMaxShipName - 1, " bytes"));
    }
    for (int j = 0; j < i; ++j) {
      if (Nested(path, spec.ship(j))) {
        return absl::InvalidArgumentError(
            absl::StrCat("ship: '", path, "' and '", spec.ship(j), "' lie one in the other"));
      }
    }
    for (const std::string& shared : spec.shared()) {
      if (Nested(path, shared)) {
        return absl::InvalidArgumentError(absl::StrCat("ship: '", path, "' and the shared path '",
                                                       shared, "' lie one in the other"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSpec(const v1::ComponentSpec& spec) {
  RETURN_IF_ERROR(CheckComponentName(spec.name()));
  if (spec.command().empty()) {
    return absl::InvalidArgumentError("command: is empty: say after -- what to run");
  }
  RETURN_IF_ERROR(Annotate(CheckAbsolutePath(spec.command(0)), "command"));
  RETURN_IF_ERROR(CheckWords(spec.command(), "command"));
  RETURN_IF_ERROR(CheckUser(spec.user()));
  if (!spec.ip().empty()) RETURN_IF_ERROR(Annotate(ParseIpPrefix(spec.ip()).status(), "ip"));
  if (!spec.mac().empty()) {
    if (spec.ip().empty()) return absl::InvalidArgumentError("mac: only with an ip");
    RETURN_IF_ERROR(CheckMac(spec.mac()));
  }
  if (spec.memory_bytes() != 0 &&
      (spec.memory_bytes() < kMinMemory || spec.memory_bytes() > INT64_MAX)) {
    return absl::InvalidArgumentError(absl::StrCat("memory: ", spec.memory_bytes(),
                                                   " bytes; allowed is 0 (no limit) or at least ",
                                                   FormatBytes(kMinMemory)));
  }
  const uint64_t io = spec.io_max_bytes_per_s();
  if (io != 0 && (io < kLeastIo || io > kMostIo)) {
    return absl::InvalidArgumentError(
        absl::StrCat("io_max: ", io, " bytes a second; allowed is 0 (no limit) or ",
                     FormatBytes(kLeastIo), " to ", FormatBytes(kMostIo)));
  }
  if (spec.shared_size() > kMaxShared) {
    return absl::InvalidArgumentError(absl::StrCat("shared: more than ", kMaxShared, " paths"));
  }
  RETURN_IF_ERROR(CheckWords(spec.shared(), "shared"));
  for (const std::string& path : spec.shared()) {
    RETURN_IF_ERROR(Annotate(CheckAbsolutePath(path), "shared"));
  }
  RETURN_IF_ERROR(CheckShip(spec));
  if (!IsUtf8(spec.directory())) return absl::InvalidArgumentError("directory: is not UTF-8");
  if (!spec.directory().empty()) {
    RETURN_IF_ERROR(Annotate(CheckAbsolutePath(spec.directory()), "directory"));
  }
  RETURN_IF_ERROR(CheckWords(spec.environment(), "environment"));
  for (const std::string& entry : spec.environment()) {
    if (entry.find('=') == std::string::npos || entry[0] == '=') {
      return absl::InvalidArgumentError("environment: each entry is KEY=VALUE");
    }
  }
  if (spec.priority() < -kMostPriority || spec.priority() > kMostPriority) {
    return absl::InvalidArgumentError(absl::StrCat("priority: ", spec.priority(), "; allowed is ",
                                                   -kMostPriority, " to ", kMostPriority));
  }
  if (!(spec.bears_blackout_s() >= 0 && spec.bears_blackout_s() <= kMostBlackout_s)) {
    return absl::InvalidArgumentError(absl::StrCat("bears_blackout: ", spec.bears_blackout_s(),
                                                   " s; allowed is 0 to ", kMostBlackout_s, " s"));
  }
  if (!spec.application().empty()) {
    RETURN_IF_ERROR(Annotate(CheckApplicationName(spec.application()), "application"));
  }
  RETURN_IF_ERROR(CheckNames(spec.near(), "near", CheckRelation));
  RETURN_IF_ERROR(CheckNames(spec.apart(), "apart", CheckRelation));
  RETURN_IF_ERROR(CheckNames(spec.prefers(), "prefers", CheckHostName));
  if (spec.probe().empty() && spec.probe_timeout_s() != 0) {
    return absl::InvalidArgumentError("probe_timeout: only with a probe");
  }
  return CheckProbe({spec.probe(), spec.probe_timeout_s()});
}

absl::Status CheckProbe(const ProbeSpec& probe) {
  if (HasNul(probe.command)) return absl::InvalidArgumentError("probe: has a NUL in it");
  if (!IsUtf8(probe.command)) return absl::InvalidArgumentError("probe: is not UTF-8");
  if (probe.command.size() > kMostProbeBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("probe: more than ", FormatBytes(kMostProbeBytes), ": put it in a script"));
  }
  const double timeout_s = probe.timeout_s;
  if (timeout_s == 0 || (timeout_s >= kLeastProbe_s && timeout_s <= kMostProbe_s)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("probe_timeout: ", timeout_s, " s; allowed is ",
                                                 kLeastProbe_s, " to ", kMostProbe_s, " s"));
}

ProbeSpec ProbeFor(const v1::ComponentSpec& spec, const ProbeSpec& asked, double otherwise_s) {
  ProbeSpec probe = asked;
  if (probe.command.empty()) {
    probe.command = spec.probe();
    if (probe.timeout_s == 0) probe.timeout_s = spec.probe_timeout_s();
  }
  if (probe.timeout_s == 0) probe.timeout_s = otherwise_s;
  return probe;
}

std::string MakeMac(absl::string_view name, absl::string_view ip) {
  if (ip.empty()) return "";
  // FNV-1a: stable across builds and machines, which std::hash is not.
  uint64_t hash = 0xcbf29ce484222325;
  for (const absl::string_view part : {name, absl::string_view("\0", 1), ip}) {
    for (const char c : part) {
      hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    }
  }
  std::array<char, 18> text;
  snprintf(text.data(), text.size(), "02:%02x:%02x:%02x:%02x:%02x",
           static_cast<unsigned>(hash >> 56 & 0xff), static_cast<unsigned>(hash >> 48 & 0xff),
           static_cast<unsigned>(hash >> 40 & 0xff), static_cast<unsigned>(hash >> 32 & 0xff),
           static_cast<unsigned>(hash >> 24 & 0xff));
  return text.data();
}

}  // namespace starling
