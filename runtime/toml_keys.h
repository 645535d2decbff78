#pragma once

#include <toml++/toml.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/status.h"

// Private to the runtime room: the keys of a TOML file as a table, each with what its value may be
// and where it goes. A wrong value is answered with the words that stand behind "FILE:LINE: KEY: ":
// what is wrong, and what is allowed.

namespace starling {

template <typename Target>
struct TomlKey {
  absl::string_view section;  // empty: the file's top
  absl::string_view name;
  std::function<absl::Status(const toml::node&, Target&)> set;
};

// "a table", "an integer", ...
absl::string_view TomlTypeName(const toml::node& node);
absl::Status WrongTomlType(const toml::node& node, absl::string_view allowed);
absl::StatusOr<std::string> TomlText(const toml::node& node, absl::string_view allowed);
// An integer or a number with a fraction, from `least` to `most`.
absl::StatusOr<double> TomlNumber(const toml::node& node, absl::string_view allowed, double least,
                                  double most);
// "FILE:LINE: KEY: what is wrong".
absl::Status WrongTomlKey(absl::string_view file, const toml::source_region& where,
                          absl::string_view key, absl::string_view what);

// In each of these, `field` names the member of the target: [](Target& t) -> auto& { return t.x; }.

template <typename Target, typename Field>
TomlKey<Target> TextKey(absl::string_view section, absl::string_view name, std::string allowed,
                        Field field, std::function<absl::Status(const std::string&)> check) {
  return {section, name, [=](const toml::node& node, Target& target) -> absl::Status {
            ASSIGN_OR_RETURN(std::string text, TomlText(node, allowed));
            if (absl::Status status = check(text); !status.ok()) {
              return absl::InvalidArgumentError(
                  absl::StrCat(status.message(), "; allowed is ", allowed));
            }
            field(target) = std::move(text);
            return absl::OkStatus();
          }};
}

template <typename Target, typename Field>
TomlKey<Target> OneOfKey(absl::string_view section, absl::string_view name, Field field,
                         std::initializer_list<absl::string_view> choices) {
  const std::vector<absl::string_view> known(choices);
  const std::string allowed = absl::StrCat("one of \"", absl::StrJoin(known, "\", \""), "\"");
  return {section, name, [=](const toml::node& node, Target& target) -> absl::Status {
            ASSIGN_OR_RETURN(std::string text, TomlText(node, allowed));
            for (const absl::string_view choice : known) {
              if (choice != text) continue;
              field(target) = std::move(text);
              return absl::OkStatus();
            }
            return absl::InvalidArgumentError(
                absl::StrCat("is \"", absl::CHexEscape(text), "\"; allowed is ", allowed));
          }};
}

// An array of words, none of them twice.
template <typename Target, typename Field>
TomlKey<Target> WordsKey(absl::string_view section, absl::string_view name, Field field,
                         std::initializer_list<absl::string_view> choices) {
  const std::vector<absl::string_view> known(choices);
  const std::string allowed =
      absl::StrCat("an array of any of \"", absl::StrJoin(known, "\", \""), "\"");
  return {
      section, name, [=](const toml::node& node, Target& target) -> absl::Status {
        const toml::array* array = node.as_array();
        if (array == nullptr) return WrongTomlType(node, allowed);
        std::vector<std::string> words;
        for (const toml::node& entry : *array) {
          ASSIGN_OR_RETURN(std::string word, TomlText(entry, allowed));
          if (std::find(known.begin(), known.end(), word) == known.end() ||
              std::find(words.begin(), words.end(), word) != words.end()) {
            return absl::InvalidArgumentError(absl::StrCat(
                "has \"", absl::CHexEscape(word), "\" where it cannot be; allowed is ", allowed));
          }
          words.push_back(std::move(word));
        }
        field(target) = std::move(words);
        return absl::OkStatus();
      }};
}

// An array of texts, each of which `check` takes, none of them twice.
template <typename Target, typename Field, typename Check>
TomlKey<Target> TextsKey(absl::string_view section, absl::string_view name,
                         absl::string_view allowed, Field field, Check check) {
  const std::string wanted = absl::StrCat("an array of ", allowed);
  return {section, name, [=](const toml::node& node, Target& target) -> absl::Status {
            const toml::array* array = node.as_array();
            if (array == nullptr) return WrongTomlType(node, wanted);
            std::vector<std::string> texts;
            for (const toml::node& entry : *array) {
              ASSIGN_OR_RETURN(std::string text, TomlText(entry, wanted));
              RETURN_IF_ERROR(check(text));
              if (std::find(texts.begin(), texts.end(), text) != texts.end()) {
                return absl::InvalidArgumentError(
                    absl::StrCat("has \"", absl::CHexEscape(text), "\" twice"));
              }
              texts.push_back(std::move(text));
            }
            field(target) = std::move(texts);
            return absl::OkStatus();
          }};
}

// `scale` turns the file's unit into the member's.
template <typename Target, typename Field>
TomlKey<Target> IntegerKey(absl::string_view section, absl::string_view name, Field field,
                           int64_t least, int64_t most, int64_t step = 1, int64_t scale = 1) {
  const std::string allowed = absl::StrCat("an integer from ", least, " to ", most,
                                           step == 1 ? "" : absl::StrCat(", a multiple of ", step));
  return {
      section, name, [=](const toml::node& node, Target& target) -> absl::Status {
        const auto value = node.value_exact<int64_t>();
        if (!value) return WrongTomlType(node, allowed);
        if (*value < least || *value > most || *value % step != 0) {
          return absl::InvalidArgumentError(absl::StrCat("is ", *value, "; allowed is ", allowed));
        }
        field(target) = *value * scale;
        return absl::OkStatus();
      }};
}

// A time in the unit that the key's name ends with; an integer or a number with a fraction.
template <typename Target, typename Field>
TomlKey<Target> TimeKey(absl::string_view section, absl::string_view name, Field field,
                        double unit_s, double least, double most) {
  const std::string allowed = absl::StrCat("a number of ", unit_s == 1 ? "seconds" : "milliseconds",
                                           " from ", least, " to ", most);
  return {section, name, [=](const toml::node& node, Target& target) -> absl::Status {
            ASSIGN_OR_RETURN(const double value, TomlNumber(node, allowed, least, most));
            field(target) =
                std::chrono::duration_cast<Duration>(std::chrono::duration<double>(value * unit_s));
            return absl::OkStatus();
          }};
}

// A plain number; `scale` turns the file's unit into the member's.
template <typename Target, typename Field>
TomlKey<Target> NumberKey(absl::string_view section, absl::string_view name, Field field,
                          double least, double most, double scale = 1) {
  const std::string allowed = absl::StrCat("a number from ", least, " to ", most);
  return {section, name, [=](const toml::node& node, Target& target) -> absl::Status {
            ASSIGN_OR_RETURN(const double value, TomlNumber(node, allowed, least, most));
            field(target) = value * scale;
            return absl::OkStatus();
          }};
}

template <typename Target, typename Field>
TomlKey<Target> FlagKey(absl::string_view section, absl::string_view name, Field field) {
  return {section, name, [=](const toml::node& node, Target& target) -> absl::Status {
            const auto value = node.value_exact<bool>();
            if (!value) return WrongTomlType(node, "true or false");
            field(target) = *value;
            return absl::OkStatus();
          }};
}

// Sets one key of a section (empty: the file's top). `tables` is what the file's top may hold
// beside keys, for the message about an unknown one.
template <typename Target>
absl::Status SetTomlKey(absl::string_view file, const std::vector<TomlKey<Target>>& keys,
                        absl::string_view section, const toml::key& key, const toml::node& node,
                        Target& target, absl::string_view tables) {
  const std::string shown =
      section.empty() ? std::string(key.str()) : absl::StrCat(section, ".", std::string(key.str()));
  std::vector<absl::string_view> known;
  for (const TomlKey<Target>& entry : keys) {
    if (entry.section != section) continue;
    known.push_back(entry.name);
    if (entry.name != absl::string_view(key.str().data(), key.str().size())) continue;
    const absl::Status status = entry.set(node, target);
    return status.ok() ? status : WrongTomlKey(file, key.source(), shown, status.message());
  }
  return WrongTomlKey(file, key.source(), absl::CHexEscape(shown),
                      absl::StrCat("is not a key; allowed are ", absl::StrJoin(known, ", "),
                                   section.empty() ? tables : ""));
}

}  // namespace starling
