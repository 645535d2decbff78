#include "runtime/decisions/decision_log.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include <algorithm>
#include <deque>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"
#include "nlohmann/json.hpp"

// Members by name, as in situation.h. JSON's numbers hold a double to the last bit.

namespace starling::reservations {

static void to_json(nlohmann::json& json, const Amounts& amounts) { json = amounts.of; }
static void from_json(const nlohmann::json& json, Amounts& amounts) { json.get_to(amounts.of); }

NLOHMANN_JSON_SERIALIZE_ENUM(Kind,
                             {{Kind::kSoft, "soft"}, {Kind::kFirm, "firm"}, {Kind::kLoan, "loan"}})

}  // namespace starling::reservations

namespace starling::decisions {
namespace {

using nlohmann::json;

constexpr int kSchema = 1;

}  // namespace

static void to_json(json& json, const Outlook& outlook) { json = {outlook.now, outlook.at}; }
static void from_json(const json& json, Outlook& outlook) {
  json.at(0).get_to(outlook.now);
  json.at(1).get_to(outlook.at);
}

static void to_json(json& json, const Rule& rule) {
  json = {{"resource", std::string(Name(rule.resource))},
          {"percent", rule.percent},
          {"above", rule.above},
          {"within_s", rule.within_s}};
}
static void from_json(const json& json, Rule& rule) {
  if (!ParseResource(json.at("resource").get<std::string>(), rule.resource)) {
    throw nlohmann::json::other_error::create(501, "no resource", nullptr);
  }
  json.at("percent").get_to(rule.percent);
  json.at("above").get_to(rule.above);
  json.at("within_s").get_to(rule.within_s);
}

static void to_json(json& json, const Step& step) {
  json = {{"action", std::string(Name(step.action))},
          {"component", step.component},
          {"host", step.host},
          {"lease", step.lease},
          {"group", step.group},
          {"amount", step.amount},
          {"weight", step.weight},
          {"while_idle", step.while_idle},
          {"park", step.park},
          {"cost", step.cost},
          {"bytes_per_s", step.bytes_per_s},
          {"reason", step.reason}};
}
static void from_json(const json& json, Step& step) {
  if (!ParseAction(json.at("action").get<std::string>(), step.action)) {
    throw nlohmann::json::other_error::create(501, "no action", nullptr);
  }
  json.at("component").get_to(step.component);
  json.at("host").get_to(step.host);
  json.at("lease").get_to(step.lease);
  json.at("group").get_to(step.group);
  json.at("amount").get_to(step.amount);
  step.weight = json.value("weight", 0);              // since there are limits by use
  step.while_idle = json.value("while_idle", false);  // since what is idle moves
  step.park = json.value("park", false);
  json.at("cost").get_to(step.cost);
  step.bytes_per_s = json.value("bytes_per_s", 0.0);  // since there are ghosts
  json.at("reason").get_to(step.reason);
}

// As the library has it, but with functions of this file alone.
#define DECISION_JSON(Type, ...)                                                               \
  [[maybe_unused]] static void to_json(json& nlohmann_json_j, const Type& nlohmann_json_t) {   \
    NLOHMANN_JSON_EXPAND(NLOHMANN_JSON_PASTE(NLOHMANN_JSON_TO, __VA_ARGS__))                   \
  }                                                                                            \
  [[maybe_unused]] static void from_json(const json& nlohmann_json_j, Type& nlohmann_json_t) { \
    NLOHMANN_JSON_EXPAND(NLOHMANN_JSON_PASTE(NLOHMANN_JSON_FROM, __VA_ARGS__))                 \
  }

NLOHMANN_JSON_SERIALIZE_ENUM(Rest, {{Rest::kNone, "none"},
                                    {Rest::kShrunk, "shrunk"},
                                    {Rest::kParked, "parked"},
                                    {Rest::kMoved, "moved"},
                                    {Rest::kParkedAway, "parked-away"}})

// Of lines that were written before some of the members there were, those are as by default.
#define DECISION_JSON_GROWN(Type, ...)                                                         \
  [[maybe_unused]] static void to_json(json& nlohmann_json_j, const Type& nlohmann_json_t) {   \
    NLOHMANN_JSON_EXPAND(NLOHMANN_JSON_PASTE(NLOHMANN_JSON_TO, __VA_ARGS__))                   \
  }                                                                                            \
  [[maybe_unused]] static void from_json(const json& nlohmann_json_j, Type& nlohmann_json_t) { \
    const Type nlohmann_json_default_obj{};                                                    \
    NLOHMANN_JSON_EXPAND(NLOHMANN_JSON_PASTE(NLOHMANN_JSON_FROM_WITH_DEFAULT, __VA_ARGS__))    \
  }

DECISION_JSON_GROWN(ComponentView, name, priority, usual, movable, bears_blackout_s, not_now_s,
                    good_moment, idle_probability, degraded, idle_bytes, group, settled, limit,
                    weight, least, most, away_s, rest, rests_by_hand, sent_to_rest, use, move_bytes,
                    move_blackout_s, application, near, apart, affinity, may_stage,
                    written_bytes_per_s)
DECISION_JSON(NeedView::Part, component, use)
DECISION_JSON(NeedView, when_s, resource, demand, parts)
DECISION_JSON(ProcessorGroup, capacity, demand)
DECISION_JSON(HostView, name, room, strain, price_per_hour, distance_s, bytes_per_s, components)
DECISION_JSON(LeaseView, id, host, component, kind, amount, age_s)
DECISION_JSON(GhostView, component, host, by_hand, ready, bytes, left_bytes, bytes_per_s, age_s,
              unneeded_s, again)
DECISION_JSON(KeptView, component, from, priority, bytes, value, last)
DECISION_JSON(Situation, time_s, minute_of_week, step_s, calm_s, short_for_s, moving,
              threshold_shift, idle_shift, host, price_per_hour, capacity, incoming, demand, groups,
              components, needs, hosts, leases, ghosts, kept)
DECISION_JSON(Hours, from, to)
DECISION_JSON(PriceRule, host, hours, per_hour)
DECISION_JSON_GROWN(Policy::Allow, page_out, processors, degrade, migrate, reserve, protect, limits,
                    ghost)
DECISION_JSON(Policy::Ghosts, rate_mib_s, every_s, most, memory_mib, half_life_s, keep_above)
DECISION_JSON(Policy::Limits, percent, headroom, within_s, least_processors, least_memory_mib)
DECISION_JSON_GROWN(Policy::Idle, rest, above, after_s, shrink_to, move_at)
DECISION_JSON(Policy::Reserve, within_s, lease_s, patience_s)
DECISION_JSON_GROWN(Policy::Costs, gib_moved, blackout_s, degraded_s, paged_gib, moving_s, apart_ms,
                    stay_h, preference)
DECISION_JSON(Policy::Thresholds, lower, higher, step)
DECISION_JSON_GROWN(Policy, act, rules, hysteresis, max_steps, max_moves, move_percent, allow,
                    reserve, costs, thresholds, limits, ghosts, idle, prefer, avoid, quiet, prices,
                    price_feed)
DECISION_JSON(Decision, steps, reason, short_of, short_now, short_later, left)
#undef DECISION_JSON
#undef DECISION_JSON_GROWN

std::string WriteDecision(const LoggedDecision& logged) {
  const json line = {{"schema", kSchema},
                     {"situation", logged.situation},
                     {"policy", logged.policy},
                     {"decision", logged.decision}};
  return line.dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<LoggedDecision> ReadDecision(absl::string_view line) {
  json parsed = json::parse(line.begin(), line.end(), nullptr, false);
  if (parsed.is_discarded() || !parsed.is_object()) {
    return absl::InvalidArgumentError("not a decision: it is no JSON object");
  }
  try {
    if (parsed.at("schema").get<int>() != kSchema) {
      return absl::InvalidArgumentError("not a decision of this schema");
    }
    LoggedDecision logged;
    // Lines from before there were any.
    parsed.at("situation").emplace("needs", json::array());
    parsed.at("situation").emplace("idle_shift", 0.0);
    parsed.at("situation").emplace("ghosts", json::array());
    parsed.at("situation").emplace("kept", json::array());
    parsed.at("policy").at("allow").emplace("ghost", false);
    parsed.at("situation").get_to(logged.situation);
    parsed.at("policy").get_to(logged.policy);
    parsed.at("decision").get_to(logged.decision);
    return logged;
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("not a decision: ", error.what()));
  }
}

std::string ReplayDecision(const LoggedDecision& logged) {
  const Decision again = Decide(logged.situation, logged.policy);
  const Decision& before = logged.decision;
  if (again == before) return "";
  if (again.reason != before.reason) {
    return absl::StrCat("the reason was \"", before.reason, "\" and is \"", again.reason, "\"");
  }
  const auto tell = [](const Decision& decision, size_t i) {
    if (i >= decision.steps.size()) return std::string("nothing");
    const Step& step = decision.steps[i];
    return absl::StrCat(Name(step.action), " ", step.component,
                        step.host.empty() ? "" : absl::StrCat(" on host ", step.host), " (",
                        reservations::Show(step.amount), ", cost ", step.cost, ")");
  };
  for (size_t i = 0; i < std::max(before.steps.size(), again.steps.size()); ++i) {
    const bool both = i < before.steps.size() && i < again.steps.size();
    if (both && before.steps[i] == again.steps[i]) continue;
    return absl::StrCat("step ", i + 1, " was ", tell(before, i), " and is ", tell(again, i));
  }
  return absl::StrCat("what stays short was ", reservations::Show(before.left), " and is ",
                      reservations::Show(again.left), ", or which shortage it is");
}

absl::StatusOr<std::vector<LoggedDecision>> DecisionLog::ReadAll(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  std::vector<LoggedDecision> all;
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (line.empty()) continue;
    auto logged = ReadDecision(line);
    if (!logged.ok()) return Annotate(logged.status(), absl::StrCat(path, ":", number));
    all.push_back(std::move(*logged));
  }
  return all;
}

absl::Status DecisionLog::Append(const LoggedDecision& logged) {
  const std::string line = WriteDecision(logged) + "\n";
  struct stat st = {};
  if (stat(path_.c_str(), &st) == 0 &&
      static_cast<uint64_t>(st.st_size) + line.size() > most_bytes_ &&
      rename(path_.c_str(), (path_ + ".1").c_str()) != 0) {
    return ErrnoStatus(absl::StrCat("rename ", path_));
  }
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(path_, O_WRONLY | O_CREAT | O_APPEND, 0600));
  return WriteAll(fd.get(), line.data(), line.size());
}

absl::StatusOr<std::vector<LoggedDecision>> DecisionLog::Read(const std::string& component,
                                                              size_t limit) const {
  std::deque<LoggedDecision> found;
  for (const std::string& path : {path_ + ".1", path_}) {
    const auto text = ReadFile(path);
    if (absl::IsNotFound(text.status())) continue;
    if (!text.ok()) return text.status();
    for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
      // Cheap first: a line that does not even have the name says nothing of it.
      if (!component.empty() &&
          line.find(absl::StrCat("\"component\":\"", component, "\"")) == absl::string_view::npos) {
        continue;
      }
      auto logged = ReadDecision(line);
      if (!logged.ok()) continue;
      found.push_back(std::move(*logged));
      if (found.size() > limit) found.pop_front();
    }
  }
  return std::vector<LoggedDecision>(found.begin(), found.end());
}

}  // namespace starling::decisions
