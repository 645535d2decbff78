#include "runtime/names.h"

#include <arpa/inet.h>

#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace starling {
namespace {

// For messages: hostile text is shown, never long nor with control characters.
std::string Quoted(absl::string_view text) {
  std::string shown;
  for (const char c : text.substr(0, 64)) {
    shown += c >= ' ' && c <= '~' ? c : '?';
  }
  return absl::StrCat("'", shown, text.size() > 64 ? "...'" : "'");
}

bool AllOf(absl::string_view text, bool (*allowed)(char)) {
  for (const char c : text) {
    if (!allowed(c)) return false;
  }
  return true;
}

bool IsLowerOrDigit(char c) { return absl::ascii_islower(c) || absl::ascii_isdigit(c); }

absl::Status CheckName(absl::string_view name, absl::string_view what) {
  if (!name.empty() && name.size() <= 48 && IsLowerOrDigit(name[0]) &&
      AllOf(name, [](char c) { return IsLowerOrDigit(c) || c == '-'; })) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(name), " cannot name ", what,
                   ": 1 to 48 of a-z, 0-9 and '-', not beginning with '-'"));
}

// In host order.
std::optional<uint32_t> ParseAddress(const std::string& text) {
  in_addr parsed = {};
  if (inet_pton(AF_INET, text.c_str(), &parsed) != 1 || text.find('\0') != std::string::npos)
    return std::nullopt;
  return ntohl(parsed.s_addr);
}

bool IsOfHost(uint32_t address) {
  const uint32_t first = address >> 24;
  return first != 0 && first != 127 && first < 224;
}

}  // namespace

absl::Status CheckComponentName(absl::string_view name) { return CheckName(name, "a component"); }

absl::Status CheckApplicationName(absl::string_view name) {
  return CheckName(name, "an application");
}

absl::Status CheckRelation(absl::string_view text) {
  if (absl::ConsumePrefix(&text, kOfApplication)) return CheckApplicationName(text);
  return CheckComponentName(text);
}

absl::Status CheckHostName(absl::string_view name) {
  if (!name.empty() && name.size() <= 64 && absl::ascii_isalnum(name[0]) && AllOf(name, [](char c) {
        return absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_';
      })) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(name),
                   " cannot name a host: 1 to 64 of A-Z, a-z, 0-9, '.', '_' and "
                   "'-', beginning with a letter or digit"));
}

absl::Status CheckProfileUser(absl::string_view name) {
  if (!name.empty() && name.size() <= 31 && absl::ascii_isalnum(name[0]) && AllOf(name, [](char c) {
        return absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_' || c == '@';
      })) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(name),
                   " cannot name a user: 1 to 31 of A-Z, a-z, 0-9, '.', '_', '@' and "
                   "'-', beginning with a letter or digit"));
}

absl::Status CheckMigrationId(absl::string_view id) {
  if (!id.empty() && id.size() <= 64 && AllOf(id, [](char c) {
        return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f') || c == '-';
      })) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(id), " cannot be a migration's id: 1 to 64 of 0-9, a-f and '-'"));
}

absl::Status CheckAbsolutePath(absl::string_view path) {
  const auto wrong = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(path), " ", why));
  };
  if (path.empty() || path[0] != '/') return wrong("is not an absolute path");
  if (path.size() > 4095) return wrong("is longer than 4095 bytes");
  if (path.find('\0') != absl::string_view::npos) return wrong("has a NUL in it");
  if (path == "/") return absl::OkStatus();
  for (const absl::string_view part : absl::StrSplit(path.substr(1), '/')) {
    if (part.empty() || part == "." || part == "..") {
      return wrong("has an empty, '.' or '..' part: write the path out");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckHostAddress(absl::string_view text) {
  const std::optional<uint32_t> address = ParseAddress(std::string(text));
  if (address && IsOfHost(*address)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      Quoted(text), address ? " is not an address that a host may have" : " is no IPv4 address"));
}

absl::StatusOr<IpPrefix> ParseIpPrefix(absl::string_view text) {
  const auto wrong = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(text), " ", why, ": write ADDR/LEN, such as 10.77.0.50/24"));
  };
  const size_t slash = text.find('/');
  if (slash == absl::string_view::npos) return wrong("has no prefix length");
  IpPrefix prefix;
  prefix.address = std::string(text.substr(0, slash));
  const std::optional<uint32_t> parsed = ParseAddress(prefix.address);
  if (!parsed) return wrong("has no IPv4 address");
  const absl::string_view length = text.substr(slash + 1);
  if (length.empty() || length.size() > 2 ||
      !AllOf(length, [](char c) { return static_cast<bool>(absl::ascii_isdigit(c)); }) ||
      !absl::SimpleAtoi(length, &prefix.length) || prefix.length < 1 || prefix.length > 32) {
    return wrong("has a prefix length that is not 1 to 32");
  }
  const uint32_t address = *parsed;
  if (!IsOfHost(address)) return wrong("is not an address that a host may have");
  if (prefix.length <= 30) {
    const uint32_t host_bits = ~uint32_t{0} >> prefix.length;
    if ((address & host_bits) == 0) return wrong("is the network's own address");
    if ((address & host_bits) == host_bits) return wrong("is the network's broadcast address");
  }
  return prefix;
}

absl::StatusOr<Endpoint> ParseEndpoint(absl::string_view text) {
  const auto wrong = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(text), " ", why, ": write ADDR:PORT, such as 10.77.0.1:7400"));
  };
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos) return wrong("has no port");
  Endpoint endpoint;
  endpoint.address = std::string(text.substr(0, colon));
  if (!CheckHostName(endpoint.address).ok()) return wrong("has no IPv4 address or host name");
  const absl::string_view digits = text.substr(colon + 1);
  int port = 0;
  if (digits.empty() || digits.size() > 5 ||
      !AllOf(digits, [](char c) { return static_cast<bool>(absl::ascii_isdigit(c)); }) ||
      !absl::SimpleAtoi(digits, &port) || port < 1 || port > 65535) {
    return wrong("has a port that is not 1 to 65535");
  }
  endpoint.port = static_cast<uint16_t>(port);
  return endpoint;
}

}  // namespace starling
