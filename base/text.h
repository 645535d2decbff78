#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace starling {

// `text` with '?' for each control character, so that no peer and no component can drive a
// terminal.
std::string Printable(absl::string_view text);

// A table with two spaces between columns, a line for each row; the last column is not padded.
std::string Table(const std::vector<std::vector<std::string>>& rows);

}  // namespace starling
