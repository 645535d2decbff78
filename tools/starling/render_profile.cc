#include "tools/starling/render_profile.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/text.h"
#include "tools/starling/render.h"

namespace starling::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Times are local already.
std::string When(int64_t local_s) {
  if (local_s <= 0) return "-";
  const auto seconds = static_cast<time_t>(local_s);
  tm parts = {};
  gmtime_r(&seconds, &parts);
  return absl::StrFormat("%04d-%02d-%02d %02d:%02d", parts.tm_year + 1900, parts.tm_mon + 1,
                         parts.tm_mday, parts.tm_hour, parts.tm_min);
}

bool IsUser(const v1::ProfileSummary& profile) {
  return absl::StartsWith(profile.subject(), "user:");
}

Json ToJson(const v1::ProfileSummary& profile) {
  Json json;
  json["subject"] = profile.subject();
  json["consent"] = IsUser(profile) ? Json(profile.consent()) : Json(nullptr);
  json["hours"] = profile.hours();
  json["visits"] = profile.visits();
  json["calendar_entries"] = profile.calendar_entries();
  json["last_local_s"] = profile.last_local_s();
  return json;
}

// A line a day, a character an hour: tenths of the probability; '.': nothing is known.
std::string Week(const v1::ShowProfileResponse& profile) {
  constexpr const char* kDays[] = {"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"};
  std::array<std::string, 7> lines;
  lines.fill(std::string(24, '.'));
  for (const v1::ProfileHour& hour : profile.hours()) {
    if (hour.weekday() >= 7 || hour.hour() >= 24) continue;
    const int tenths = static_cast<int>(std::clamp(10 * hour.probability(), 0.0, 9.0));
    lines[hour.weekday()][hour.hour()] = static_cast<char>('0' + tenths);
  }
  std::string text = "     0     6     12    18\n";
  for (size_t day = 0; day < lines.size(); ++day) {
    absl::StrAppend(&text, kDays[day], "  ", lines[day], "\n");
  }
  return text;
}

}  // namespace

std::string ProfilesText(const v1::ListProfilesResponse& list) {
  std::vector<std::vector<std::string>> rows = {
      {"PROFILE", "CONSENT", "HOURS", "VISITS", "CALENDAR", "LAST SEEN"}};
  for (const v1::ProfileSummary& profile : list.profiles()) {
    rows.push_back({Printable(profile.subject()),
                    !IsUser(profile)    ? "-"
                    : profile.consent() ? "yes"
                                        : "no",
                    absl::StrCat(profile.hours()), absl::StrCat(profile.visits()),
                    absl::StrCat(profile.calendar_entries()), When(profile.last_local_s())});
  }
  if (rows.size() == 1) return "no profiles\n";
  return Table(rows);
}

std::string ProfilesJson(const v1::ListProfilesResponse& list) {
  Json json;
  json["schema"] = kJsonSchema;
  json["host"] = list.host();
  json["keep_days"] = list.keep_days();
  json["profiles"] = Json::array();
  for (const v1::ProfileSummary& profile : list.profiles()) {
    json["profiles"].push_back(ToJson(profile));
  }
  return Dump(json);
}

std::string ProfileText(const v1::ShowProfileResponse& response) {
  const v1::ProfileSummary& profile = response.profile();
  std::string text = Printable(profile.subject());
  if (IsUser(profile)) {
    absl::StrAppend(&text, profile.consent() ? ", who consents" : ", who does not consent");
  }
  absl::StrAppend(&text, "; last seen ", When(profile.last_local_s()), "\n");
  if (response.exceptional_today())
    absl::StrAppend(&text, "Today is an exception: see the calendar\n");
  if (profile.calendar_entries() > 0) {
    absl::StrAppend(&text, "Calendar: ", profile.calendar_entries(), " entries\n");
  }
  if (!response.hours().empty()) absl::StrAppend(&text, Week(response));
  if (!response.components().empty()) {
    std::vector<std::vector<std::string>> rows = {{"COMPONENT", "HOURS", "USUAL NOW"}};
    for (const v1::ProfileComponent& component : response.components()) {
      rows.push_back({Printable(component.name()), absl::StrFormat("%.1f", component.seen_hours()),
                      component.usual_now() ? "yes" : "no"});
    }
    absl::StrAppend(&text, Table(rows));
  }
  if (!response.visits().empty()) {
    std::vector<std::vector<std::string>> rows = {{"CONNECTED", "DISCONNECTED", "COMPONENT"}};
    for (const v1::ProfileVisit& visit : response.visits()) {
      rows.push_back({When(visit.connected_local_s()), When(visit.disconnected_local_s()),
                      Printable(visit.component())});
    }
    absl::StrAppend(&text, Table(rows));
  }
  return text;
}

std::string ProfileJson(const v1::ShowProfileResponse& response) {
  Json json;
  json["schema"] = kJsonSchema;
  json.update(ToJson(response.profile()));
  json["exceptional_today"] = response.exceptional_today();
  json["week"] = Json::array();
  for (const v1::ProfileHour& hour : response.hours()) {
    json["week"].push_back({{"weekday", hour.weekday()},
                            {"hour", hour.hour()},
                            {"seen", hour.seen()},
                            {"active", hour.active()},
                            {"probability", hour.probability()}});
  }
  json["components"] = Json::array();
  for (const v1::ProfileComponent& component : response.components()) {
    json["components"].push_back({{"name", component.name()},
                                  {"seen_hours", component.seen_hours()},
                                  {"usual_now", component.usual_now()}});
  }
  json["last_visits"] = Json::array();
  for (const v1::ProfileVisit& visit : response.visits()) {
    json["last_visits"].push_back({{"component", visit.component()},
                                   {"connected_local_s", visit.connected_local_s()},
                                   {"disconnected_local_s", visit.disconnected_local_s()}});
  }
  return Dump(json);
}

}  // namespace starling::cli
