#include "runtime/decisions/policy.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/units.h"
#include "runtime/decisions/hours.h"
#include "runtime/names.h"
#include "runtime/toml_keys.h"

namespace starling::decisions {
namespace {

constexpr absl::string_view kTables =
    ", and the tables [allow], [reserve], [costs], [thresholds], [limits], [ghosts], [idle], "
    "[[rule]] "
    "and [[price]]";

// A list of texts, each checked and added by `add`.
template <typename Target>
TomlKey<Target> ListKey(absl::string_view section, absl::string_view name, std::string allowed,
                        std::function<absl::Status(const std::string&, Target&)> add) {
  return {section, name, [=](const toml::node& node, Target& target) -> absl::Status {
            const toml::array* list = node.as_array();
            if (list == nullptr) return WrongTomlType(node, allowed);
            for (const toml::node& entry : *list) {
              ASSIGN_OR_RETURN(const std::string text, TomlText(entry, allowed));
              if (absl::Status status = add(text, target); !status.ok()) {
                return absl::InvalidArgumentError(
                    absl::StrCat(status.message(), "; allowed is ", allowed));
              }
            }
            return absl::OkStatus();
          }};
}

// A function that names a member, for the tables below.
#define MEMBER(type, path) \
  [](type & target) -> auto& { return target.path; }

template <typename Target>
TomlKey<Target> HoursKey(absl::string_view name, std::vector<Hours> Target::*field) {
  return ListKey<Target>(
      "", name, std::string(kHoursAllowed),
      [field](const std::string& text, Target& target) { return ParseHours(text, target.*field); });
}

// A quantile of a forecast; with `present` also 0, for what is used now.
template <typename Target>
TomlKey<Target> PercentKey(absl::string_view section, absl::string_view name,
                           std::function<int&(Target&)> field, bool present) {
  const std::string allowed = absl::StrCat("50, 75, 90, 95 or 99, a quantile of the forecast",
                                           present ? ", or 0 for what is used now" : "");
  return {
      section, name, [=](const toml::node& node, Target& target) -> absl::Status {
        const auto value = node.value_exact<int64_t>();
        if (!value) return WrongTomlType(node, allowed);
        constexpr std::array<int64_t, 5> kPercents = {50, 75, 90, 95, 99};
        const bool known = std::find(kPercents.begin(), kPercents.end(), *value) != kPercents.end();
        if (!known && !(present && *value == 0)) {
          return absl::InvalidArgumentError(absl::StrCat("is ", *value, "; allowed is ", allowed));
        }
        field(target) = static_cast<int>(*value);
        return absl::OkStatus();
      }};
}

TomlKey<Policy> HostsKey(absl::string_view name, std::vector<std::string> Policy::*field) {
  return ListKey<Policy>("", name, "a list of host names",
                         [field](const std::string& text, Policy& policy) {
                           (policy.*field).push_back(text);
                           return CheckHostName(text);
                         });
}

absl::Status ReadRest(const toml::node& node, Policy& policy) {
  constexpr absl::string_view kAllowed =
      "\"none\", \"shrink\", \"park\", \"move\" or \"park-away\"";
  ASSIGN_OR_RETURN(const std::string text, TomlText(node, kAllowed));
  if (text == "none") {
    policy.idle.rest = Rest::kNone;
  } else if (text == "shrink") {
    policy.idle.rest = Rest::kShrunk;
  } else if (text == "park") {
    policy.idle.rest = Rest::kParked;
  } else if (text == "move") {
    policy.idle.rest = Rest::kMoved;
  } else if (text == "park-away") {
    policy.idle.rest = Rest::kParkedAway;
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("is \"", absl::CHexEscape(text), "\"; allowed is ", kAllowed));
  }
  return absl::OkStatus();
}

const std::vector<TomlKey<Policy>>& Keys() {
  static const auto& keys = *new std::vector<TomlKey<Policy>>{
      {"", "mode",
       [](const toml::node& node, Policy& policy) -> absl::Status {
         constexpr absl::string_view kAllowed = "\"observe\" or \"act\"";
         ASSIGN_OR_RETURN(const std::string text, TomlText(node, kAllowed));
         if (text != "observe" && text != "act") {
           return absl::InvalidArgumentError(
               absl::StrCat("is \"", absl::CHexEscape(text), "\"; allowed is ", kAllowed));
         }
         policy.act = text == "act";
         return absl::OkStatus();
       }},
      NumberKey<Policy>("", "hysteresis", MEMBER(Policy, hysteresis), 0, 0.5),
      IntegerKey<Policy>("", "max_steps", MEMBER(Policy, max_steps), 1, 64),
      IntegerKey<Policy>("", "max_moves", MEMBER(Policy, max_moves), 0, 16),
      PercentKey<Policy>("", "move_percent", MEMBER(Policy, move_percent), false),
      HostsKey("prefer", &Policy::prefer),
      HostsKey("avoid", &Policy::avoid),
      HoursKey<Policy>("quiet", &Policy::quiet),
      TextKey<Policy>("", "price_feed", "an absolute path, or \"\" for none",
                      MEMBER(Policy, price_feed),
                      [](const std::string& text) {
                        return text.empty() ? absl::OkStatus() : CheckAbsolutePath(text);
                      }),
      FlagKey<Policy>("allow", "page_out", MEMBER(Policy, allow.page_out)),
      FlagKey<Policy>("allow", "processors", MEMBER(Policy, allow.processors)),
      FlagKey<Policy>("allow", "degrade", MEMBER(Policy, allow.degrade)),
      FlagKey<Policy>("allow", "migrate", MEMBER(Policy, allow.migrate)),
      FlagKey<Policy>("allow", "reserve", MEMBER(Policy, allow.reserve)),
      FlagKey<Policy>("allow", "protect", MEMBER(Policy, allow.protect)),
      FlagKey<Policy>("allow", "limits", MEMBER(Policy, allow.limits)),
      FlagKey<Policy>("allow", "ghost", MEMBER(Policy, allow.ghost)),
      NumberKey<Policy>("reserve", "within_s", MEMBER(Policy, reserve.within_s), 1, 86400),
      NumberKey<Policy>("reserve", "lease_s", MEMBER(Policy, reserve.lease_s), 5, 3600),
      NumberKey<Policy>("reserve", "patience_s", MEMBER(Policy, reserve.patience_s), 0, 86400),
      NumberKey<Policy>("costs", "gib_moved", MEMBER(Policy, costs.gib_moved), 0, 1e6),
      NumberKey<Policy>("costs", "blackout_s", MEMBER(Policy, costs.blackout_s), 0, 1e6),
      NumberKey<Policy>("costs", "degraded_s", MEMBER(Policy, costs.degraded_s), 0, 1e6),
      NumberKey<Policy>("costs", "paged_gib", MEMBER(Policy, costs.paged_gib), 0, 1e6),
      NumberKey<Policy>("costs", "moving_s", MEMBER(Policy, costs.moving_s), 0, 1e6),
      NumberKey<Policy>("costs", "apart_ms", MEMBER(Policy, costs.apart_ms), 0, 1e6),
      NumberKey<Policy>("costs", "stay_h", MEMBER(Policy, costs.stay_h), 0, 1e4),
      NumberKey<Policy>("costs", "preference", MEMBER(Policy, costs.preference), 0, 0.99),
      NumberKey<Policy>("thresholds", "lower", MEMBER(Policy, thresholds.lower), 0, 0.5),
      NumberKey<Policy>("thresholds", "higher", MEMBER(Policy, thresholds.higher), 0, 0.5),
      NumberKey<Policy>("thresholds", "step", MEMBER(Policy, thresholds.step), 0, 0.1),
      IntegerKey<Policy>("limits", "percent", MEMBER(Policy, limits.percent), 50, 99),
      NumberKey<Policy>("limits", "headroom", MEMBER(Policy, limits.headroom), 1.1, 10),
      NumberKey<Policy>("limits", "within_s", MEMBER(Policy, limits.within_s), 0, 86400),
      NumberKey<Policy>("limits", "least_processors", MEMBER(Policy, limits.least_processors), 0.01,
                        1024),
      NumberKey<Policy>("limits", "least_memory_mib", MEMBER(Policy, limits.least_memory_mib), 1,
                        1e6),
      NumberKey<Policy>("ghosts", "rate_mib_s", MEMBER(Policy, ghosts.rate_mib_s), 0.1, 1e5),
      NumberKey<Policy>("ghosts", "every_s", MEMBER(Policy, ghosts.every_s), 0.2, 3600),
      IntegerKey<Policy>("ghosts", "most", MEMBER(Policy, ghosts.most), 0, 64),
      NumberKey<Policy>("ghosts", "memory_mib", MEMBER(Policy, ghosts.memory_mib), 0, 1e9),
      NumberKey<Policy>("ghosts", "half_life_s", MEMBER(Policy, ghosts.half_life_s), 1, 1e7),
      NumberKey<Policy>("ghosts", "keep_above", MEMBER(Policy, ghosts.keep_above), 0.001, 1),
      {"idle", "rest", ReadRest},
      NumberKey<Policy>("idle", "above", MEMBER(Policy, idle.above), 0.5, 1),
      NumberKey<Policy>("idle", "after_s", MEMBER(Policy, idle.after_s), 1, 86400),
      NumberKey<Policy>("idle", "shrink_to", MEMBER(Policy, idle.shrink_to), 0.05, 1),
      NumberKey<Policy>("idle", "move_at", MEMBER(Policy, idle.move_at), 0, 1),
  };
  return keys;
}

const std::vector<TomlKey<Rule>>& RuleKeys() {
  static const auto& keys = *new std::vector<TomlKey<Rule>>{
      {"rule", "resource",
       [](const toml::node& node, Rule& rule) -> absl::Status {
         std::vector<absl::string_view> names;
         for (size_t i = 0; i < reservations::kResources; ++i) {
           names.push_back(Name(static_cast<reservations::Resource>(i)));
         }
         const std::string allowed =
             absl::StrCat("one of \"", absl::StrJoin(names, "\", \""), "\"");
         ASSIGN_OR_RETURN(const std::string text, TomlText(node, allowed));
         if (ParseResource(text, rule.resource)) return absl::OkStatus();
         return absl::InvalidArgumentError(
             absl::StrCat("is \"", absl::CHexEscape(text), "\"; allowed is ", allowed));
       }},
      PercentKey<Rule>("rule", "percent", MEMBER(Rule, percent), true),
      NumberKey<Rule>("rule", "above", MEMBER(Rule, above), 0.05, 1),
      NumberKey<Rule>("rule", "within_s", MEMBER(Rule, within_s), 0, 86400),
  };
  return keys;
}

const std::vector<TomlKey<PriceRule>>& PriceKeys() {
  static const auto& keys = *new std::vector<TomlKey<PriceRule>>{
      TextKey<PriceRule>("price", "host", "a host name, or \"\" for all", MEMBER(PriceRule, host),
                         [](const std::string& text) {
                           return text.empty() ? absl::OkStatus() : CheckHostName(text);
                         }),
      ListKey<PriceRule>(
          "price", "hours", std::string(kHoursAllowed),
          [](const std::string& text, PriceRule& price) { return ParseHours(text, price.hours); }),
      NumberKey<PriceRule>("price", "per_hour", MEMBER(PriceRule, per_hour), 0, 1e9),
  };
  return keys;
}

#undef MEMBER

class Reader {
 public:
  Reader(absl::string_view file, Policy& policy) : file_(file), policy_(policy) {}

  absl::Status Read(const toml::table& top) {
    for (const auto& [key, node] : top) {
      const std::string name(key.str());
      if (name == "rule") {
        policy_.rules.clear();  // those of the file instead of the default ones
        RETURN_IF_ERROR(ReadTables(node, name, {"resource", "above"}, RuleKeys(), policy_.rules));
      } else if (name == "price") {
        RETURN_IF_ERROR(ReadTables(node, name, {"per_hour"}, PriceKeys(), policy_.prices));
      } else if (IsSection(name)) {
        const toml::table* table = node.as_table();
        if (table == nullptr) {
          return WrongTomlKey(file_, key.source(), name,
                              WrongTomlType(node, absl::StrCat("a table: [", name, "]")).message());
        }
        for (const auto& [inner, value] : *table) {
          RETURN_IF_ERROR(SetTomlKey(file_, Keys(), name, inner, value, policy_, kTables));
        }
      } else {
        RETURN_IF_ERROR(SetTomlKey(file_, Keys(), "", key, node, policy_, kTables));
      }
    }
    return absl::OkStatus();
  }

 private:
  static bool IsSection(const std::string& name) {
    return std::any_of(Keys().begin(), Keys().end(),
                       [&](const TomlKey<Policy>& key) { return key.section == name; });
  }

  template <typename Entry>
  absl::Status ReadTables(const toml::node& node, const std::string& name,
                          std::initializer_list<const char*> needed,
                          const std::vector<TomlKey<Entry>>& keys, std::vector<Entry>& entries) {
    const std::string allowed = absl::StrCat("[[", name, "]] tables");
    const toml::array* tables = node.as_array();
    if (tables == nullptr) {
      return WrongTomlKey(file_, node.source(), name, WrongTomlType(node, allowed).message());
    }
    for (const toml::node& element : *tables) {
      const toml::table* table = element.as_table();
      if (table == nullptr) {
        return WrongTomlKey(file_, element.source(), name,
                            WrongTomlType(element, allowed).message());
      }
      Entry entry;
      for (const auto& [key, value] : *table) {
        RETURN_IF_ERROR(SetTomlKey(file_, keys, name, key, value, entry, kTables));
      }
      for (const char* need : needed) {
        if (table->contains(need)) continue;
        return WrongTomlKey(file_, element.source(), absl::StrCat(name, ".", need), "is missing");
      }
      entries.push_back(std::move(entry));
    }
    return absl::OkStatus();
  }

  const std::string file_;
  Policy& policy_;
};

}  // namespace

absl::StatusOr<Policy> ParsePolicy(absl::string_view text, absl::string_view name) {
  Policy policy;
  try {
    const toml::table top =
        toml::parse(std::string_view(text.data(), text.size()), std::string(name));
    RETURN_IF_ERROR(Reader(name, policy).Read(top));
  } catch (const toml::parse_error& error) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ":", error.source().begin.line, ": not TOML: ", std::string(error.description())));
  }
  return policy;
}

absl::StatusOr<Policy> LoadPolicy(const std::string& path) {
  auto text = ReadFile(path, kMiB);
  if (!text.ok()) return Annotate(text.status(), "policy");
  return ParsePolicy(*text, path);
}

std::vector<std::string> PolicyKeys() {
  std::vector<std::string> names;
  const auto add = [&names](const auto& keys) {
    for (const auto& key : keys) {
      names.push_back(key.section.empty() ? std::string(key.name)
                                          : absl::StrCat(key.section, ".", key.name));
    }
  };
  add(Keys());
  add(RuleKeys());
  add(PriceKeys());
  return names;
}

}  // namespace starling::decisions
