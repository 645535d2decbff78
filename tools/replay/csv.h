#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace starling::replay {

// A comma-separated file with a line of names first and no quoting.
class Csv {
 public:
  // Errors name the file.
  static absl::StatusOr<Csv> Read(const std::string& path);

  size_t rows() const { return rows_.size(); }
  const std::vector<std::string>& names() const { return names_; }
  // The column of this name, or an error that names file and column.
  absl::StatusOr<size_t> Column(absl::string_view name) const;
  absl::string_view Text(size_t row, size_t column) const { return rows_[row][column]; }
  // Not-a-number where the field is empty or no number.
  double Number(size_t row, size_t column) const;

 private:
  std::string path_;
  std::unique_ptr<const std::string> content_;  // what rows_ looks into
  std::vector<std::string> names_;
  std::vector<std::vector<absl::string_view>> rows_;
};

}  // namespace starling::replay
