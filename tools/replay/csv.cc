#include "tools/replay/csv.h"

#include <charconv>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"

namespace starling::replay {
namespace {

constexpr size_t kLimitBytes = size_t{1} << 30;

absl::string_view WithoutReturn(absl::string_view line) {
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return line;
}

}  // namespace

absl::StatusOr<Csv> Csv::Read(const std::string& path) {
  Csv csv;
  csv.path_ = path;
  ASSIGN_OR_RETURN(std::string content, ReadFile(path, kLimitBytes));
  csv.content_ = std::make_unique<const std::string>(std::move(content));
  bool first = true;
  for (absl::string_view line : absl::StrSplit(*csv.content_, '\n')) {
    line = WithoutReturn(line);
    if (line.empty()) continue;
    std::vector<absl::string_view> fields = absl::StrSplit(line, ',');
    if (first) {
      for (const absl::string_view name : fields) csv.names_.emplace_back(name);
      first = false;
      continue;
    }
    if (fields.size() != csv.names_.size()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": row ", csv.rows_.size() + 1, " has ",
                                                     fields.size(), " fields, the first line ",
                                                     csv.names_.size()));
    }
    csv.rows_.push_back(std::move(fields));
  }
  if (first) return absl::InvalidArgumentError(absl::StrCat(path, ": is empty"));
  return csv;
}

absl::StatusOr<size_t> Csv::Column(absl::string_view name) const {
  for (size_t i = 0; i < names_.size(); ++i) {
    if (names_[i] == name) return i;
  }
  return absl::InvalidArgumentError(absl::StrCat(path_, ": has no column '", name, "'"));
}

double Csv::Number(size_t row, size_t column) const {
  const absl::string_view text = rows_[row][column];
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size() && !text.empty();
  return whole ? value : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace starling::replay
