#include "runtime/toml_keys.h"

namespace starling {

absl::string_view TomlTypeName(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "an array";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a number with a fraction";
    case toml::node_type::boolean:
      return "a boolean";
    default:
      return "a date or time";
  }
}

absl::Status WrongTomlType(const toml::node& node, absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat("is ", TomlTypeName(node), "; allowed is ", allowed));
}

absl::StatusOr<std::string> TomlText(const toml::node& node, absl::string_view allowed) {
  const auto text = node.value_exact<std::string>();
  if (!text) return WrongTomlType(node, allowed);
  return *text;
}

absl::StatusOr<double> TomlNumber(const toml::node& node, absl::string_view allowed, double least,
                                  double most) {
  double value = 0;
  if (const auto integer = node.value_exact<int64_t>()) {
    value = static_cast<double>(*integer);
  } else if (const auto real = node.value_exact<double>()) {
    value = *real;
  } else {
    return WrongTomlType(node, allowed);
  }
  // Written so that not-a-number fails too.
  if (!(value >= least && value <= most)) {
    return absl::InvalidArgumentError(absl::StrCat("is ", value, "; allowed is ", allowed));
  }
  return value;
}

absl::Status WrongTomlKey(absl::string_view file, const toml::source_region& where,
                          absl::string_view key, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(file, ":", where.begin.line, ": ", key, ": ", what));
}

}  // namespace starling
