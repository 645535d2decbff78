#include "checkpoint/criu_version.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace starling::checkpoint {

absl::StatusOr<CriuVersion> ParseCriuVersion(absl::string_view text) {
  absl::string_view line = absl::StripAsciiWhitespace(text);
  absl::ConsumePrefix(&line, "Version:");
  line = absl::StripAsciiWhitespace(line.substr(0, line.find('\n')));
  const std::vector<absl::string_view> parts = absl::StrSplit(line, '.');
  int numbers[3] = {0, 0, 0};
  bool good = parts.size() == 2 || parts.size() == 3;
  for (size_t i = 0; good && i < parts.size(); ++i) {
    // SimpleAtoi takes signs and blanks, which no version has.
    for (const char c : parts[i]) good = good && absl::ascii_isdigit(c);
    good = good && parts[i].size() <= 4 && absl::SimpleAtoi(parts[i], &numbers[i]);
  }
  if (!good || numbers[0] == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("not a CRIU version: \"", line.substr(0, 60), "\""));
  }
  return CriuVersion{numbers[0], numbers[1], numbers[2]};
}

std::string FormatCriuVersion(const CriuVersion& version) {
  std::string text = absl::StrCat(version.major, ".", version.minor);
  if (version.sublevel != 0) absl::StrAppend(&text, ".", version.sublevel);
  return text;
}

}  // namespace starling::checkpoint
