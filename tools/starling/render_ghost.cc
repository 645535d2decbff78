#include "tools/starling/render_ghost.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/text.h"
#include "base/units.h"
#include "tools/starling/render.h"

namespace starling::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Below 0: there is none.
Json Age(double seconds) {
  return std::isfinite(seconds) && seconds >= 0 ? Json(seconds) : Json(nullptr);
}
std::string AgeText(double seconds) { return seconds >= 0 ? FormatTime(seconds) : "-"; }

Json ToJson(const v1::GhostInfo& ghost) {
  const v1::GhostWish& wish = ghost.wish();
  Json json;
  json["name"] = wish.component();
  json["from"] = ghost.from();
  json["on"] = wish.on();
  json["kind"] = wish.warm() ? "warm" : "cold";
  json["by"] = wish.by_loop() ? "loop" : "hand";
  json["state"] = ghost.state();
  json["why"] = ghost.why();
  json["rate_bytes_per_s"] = wish.rate_bytes_per_s();
  json["every_s"] = wish.every_s();
  json["checkpoint_every_s"] = wish.checkpoint_every_s();
  json["migration_id"] = ghost.migration_id();
  json["rounds"] = ghost.rounds();
  json["bytes_sent"] = ghost.bytes_sent();
  json["arena_bytes"] = ghost.arena_bytes();
  json["fresh_s"] = Age(ghost.fresh_s());
  json["instants"] = ghost.instants();
  json["instant_age_s"] = Age(ghost.instant_age_s());
  json["held_s"] = ghost.held_s();
  return json;
}

}  // namespace

std::string GhostsText(const v1::ListGhostsResponse& list) {
  std::vector<std::vector<std::string>> rows = {
      {"NAME", "FROM", "ON", "KIND", "STATE", "FRESH", "ROUNDS", "INSTANTS", "AGE", "WHY"}};
  const auto add = [&rows](const v1::GhostInfo& ghost, bool away) {
    rows.push_back({Printable(ghost.wish().component()), Printable(ghost.from()),
                    Printable(ghost.wish().on()), ghost.wish().warm() ? "warm" : "cold",
                    Printable(ghost.state()), AgeText(ghost.fresh_s()),
                    away ? absl::StrCat(ghost.rounds()) : "-", absl::StrCat(ghost.instants()),
                    AgeText(ghost.instant_age_s()), Printable(ghost.why())});
  };
  for (const v1::GhostInfo& ghost : list.away()) add(ghost, true);
  for (const v1::GhostInfo& ghost : list.here()) add(ghost, false);
  if (rows.size() == 1) return "no ghosts\n";
  return Table(rows);
}

std::string GhostsJson(const v1::ListGhostsResponse& list) {
  Json json;
  json["schema"] = kJsonSchema;
  json["host"] = list.host();
  json["away"] = Json::array();
  for (const v1::GhostInfo& ghost : list.away()) json["away"].push_back(ToJson(ghost));
  json["here"] = Json::array();
  for (const v1::GhostInfo& ghost : list.here()) json["here"].push_back(ToJson(ghost));
  return Dump(json);
}

std::string GhostText(const v1::GhostInfo& ghost) {
  const v1::GhostWish& wish = ghost.wish();
  std::string text =
      absl::StrCat("host ", Printable(wish.on()), " keeps a ", wish.warm() ? "warm" : "cold",
                   " ghost of ", Printable(wish.component()));
  if (wish.warm()) {
    absl::StrAppend(&text, ": a round each ", FormatTime(wish.every_s()), ", at most ",
                    FormatBytes(static_cast<uint64_t>(wish.rate_bytes_per_s())), "/s");
  }
  if (wish.checkpoint_every_s() > 0) {
    absl::StrAppend(&text, ", an instant each ", FormatTime(wish.checkpoint_every_s()));
  }
  return text + "\n";
}

std::string GhostJson(const v1::GhostInfo& ghost) {
  Json json = ToJson(ghost);
  json["schema"] = kJsonSchema;
  return Dump(json);
}

std::string FailoverText(const v1::FailoverResponse& done) {
  return absl::StrCat(Printable(done.component().spec().name()), " runs here from an instant ",
                      FormatTime(done.age_s()), " old, taken on host ", Printable(done.from()),
                      ": what it did since is lost. ", done.connections(),
                      done.connections() == 1 ? " connection was" : " connections were",
                      " established then and did not survive\nfenced: ", Printable(done.fence()),
                      "\n");
}

std::string FailoverJson(const v1::FailoverResponse& done) {
  Json json;
  json["schema"] = kJsonSchema;
  json["name"] = done.component().spec().name();
  json["from"] = done.from();
  json["epoch"] = done.component().epoch();
  json["age_s"] = done.age_s();
  json["taken"] = done.taken();
  json["connections"] = done.connections();
  json["fence"] = done.fence();
  return Dump(json);
}

}  // namespace starling::cli
