#include "runtime/reports/report_text.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "base/text.h"
#include "base/units.h"

namespace starling {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no infinities; what is not known is null.
Json Known(double value) { return value > 0 && std::isfinite(value) ? Json(value) : Json(nullptr); }

Json FactsObject(const v1::HostFacts& facts) {
  if (facts.kernel().empty()) return nullptr;
  return {{"kernel", facts.kernel()}, {"criu", facts.criu()}};
}

Json RoundObject(const v1::PageRound& round) {
  Json json;
  const bool last = round.number() == 0;
  json["number"] = last ? Json(nullptr) : Json(round.number());
  json["pages"] = round.pages();
  json["zero_pages"] = round.zero_pages();
  json["unchanged_pages"] = round.unchanged_pages();
  json["deferred_pages"] = round.deferred_pages();
  json["lists"] = round.lists();
  json["criu_pages"] = round.criu_pages();
  json["shared_pages"] = round.shared_pages();
  json["wire_bytes"] = round.wire_bytes();
  json["seconds"] = round.seconds();
  json["listing_s"] = round.listing_s();
  json["sending_s"] = round.sending_s();
  json["paused_s"] = last ? Json(nullptr) : Json(round.paused_s());
  json["rate_bytes_per_s"] = Known(round.rate_bytes_per_s());
  json["dirty_bytes_per_s"] = Known(round.dirty_bytes_per_s());
  json["expected_blackout_s"] = Known(round.expected_blackout_s());
  json["next"] = round.next();
  return json;
}

std::string Rate(double bytes_per_s) {
  if (!(bytes_per_s > 0) || bytes_per_s > 1e18) return "-";
  return absl::StrCat(FormatBytes(static_cast<uint64_t>(bytes_per_s)), "/s");
}

std::string Host(const std::string& name, const v1::HostFacts& facts) {
  if (facts.kernel().empty()) return absl::StrCat(Printable(name), " not reached");
  return absl::StrCat(Printable(name), ": Linux ", Printable(facts.kernel()), ", CRIU ",
                      Printable(facts.criu()));
}

std::string RoundsText(const v1::MigrationReport& report) {
  std::vector<std::vector<std::string>> rows = {{"round", "pages", "zero", "unchanged", "hot",
                                                 "on the wire", "took", "listing", "paused", "link",
                                                 "dirtied", "expected blackout"}};
  for (const v1::PageRound& round : report.page_rounds()) {
    const bool last = round.number() == 0;
    rows.push_back(
        {last ? "frozen" : absl::StrCat(round.number()), absl::StrCat(round.pages()),
         absl::StrCat(round.zero_pages()), absl::StrCat(round.unchanged_pages()),
         absl::StrCat(round.deferred_pages()), FormatBytes(round.wire_bytes()),
         FormatTime(round.seconds()), FormatTime(round.listing_s()),
         last ? "-" : FormatTime(round.paused_s()), Rate(round.rate_bytes_per_s()),
         Rate(round.dirty_bytes_per_s()),
         round.expected_blackout_s() > 0 ? FormatTime(round.expected_blackout_s()) : "-"});
  }
  return Table(rows);
}

std::string BytesText(const v1::MigrationReport& report) {
  const v1::SentBytes& sent = report.sent();
  std::vector<std::vector<std::string>> rows = {{"pages as they are", FormatBytes(sent.raw())}};
  if (sent.compressed() > 0) {
    rows.push_back({"compressed", absl::StrCat(FormatBytes(sent.compressed()), " of ",
                                               FormatBytes(sent.compressed_from()))});
  }
  rows.push_back({"what they are", FormatBytes(sent.announcements())});
  rows.push_back({"skeleton images", FormatBytes(sent.images())});
  rows.push_back({"list of memory", FormatBytes(sent.list())});
  if (sent.files() > 0) rows.push_back({"shipped files", FormatBytes(sent.files())});
  rows.push_back({"in all", FormatBytes(report.wire_bytes())});
  if (report.post_copy_bytes() > 0) {
    rows.push_back({"fetched afterwards", absl::StrCat(FormatBytes(report.post_copy_bytes()),
                                                       " in ", FormatTime(report.drain_s()))});
  }
  rows.push_back({"zero pages, named", absl::StrCat(report.zero_pages())});
  rows.push_back({"repeated pages, named", absl::StrCat(report.repeated_pages())});
  if (report.resent_pages() > 0) {
    rows.push_back({"pages sent again", absl::StrCat(report.resent_pages())});
  }
  return Table(rows);
}

std::string PhasesText(const v1::MigrationReport& report) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::PhaseTime& phase : report.phases()) {
    // "restore: criu-start" is a part of what comes before or after it.
    const bool part = absl::StrContains(phase.name(), ": ");
    rows.push_back(
        {absl::StrCat(part ? "  " : "", Printable(phase.name())), FormatTime(phase.seconds())});
  }
  return Table(rows);
}

}  // namespace

std::string MigrationReportJson(const v1::MigrationReport& report) {
  Json json;
  json["schema"] = kReportSchema;
  json["migration_id"] = report.migration_id();
  json["component"] = report.component();
  json["from"] = report.from();
  json["to"] = report.to();
  json["outcome"] = report.outcome();
  json["error"] = report.error();
  json["epoch"] = report.epoch();
  json["began"] = report.began();
  json["provider"] = report.provider();
  json["encrypted"] = report.encrypted();
  json["insecure"] = report.insecure();
  json["granted"] = report.granted();
  json["offered"] = report.offered();
  json["rails"] = report.rails();
  json["resumed"] = report.resumed();
  json["tracker"] = report.tracker();
  json["source"] = FactsObject(report.source());
  json["target"] = FactsObject(report.target());
  json["total_s"] = report.total_s();
  json["held_s"] = report.held_s();
  json["expected_blackout_s"] = Known(report.expected_blackout_s());
  json["expected_memory_s"] = Known(report.expected_memory_s());
  json["post_copy_bytes"] = report.post_copy_bytes();
  json["drain_s"] = Known(report.drain_s());
  json["probe"] = report.probe().empty() ? Json(nullptr) : Json(report.probe());
  json["stopped_because"] = report.stopped_because();
  json["rounds"] = report.rounds();
  json["page_rounds"] = Json::array();
  for (const v1::PageRound& round : report.page_rounds()) {
    json["page_rounds"].push_back(RoundObject(round));
  }
  json["wire_bytes"] = report.wire_bytes();
  json["sent"] = {{"raw", report.sent().raw()},
                  {"compressed", report.sent().compressed()},
                  {"compressed_from", report.sent().compressed_from()},
                  {"announcements", report.sent().announcements()},
                  {"images", report.sent().images()},
                  {"list", report.sent().list()},
                  {"files", report.sent().files()}};
  json["zero_pages"] = report.zero_pages();
  json["repeated_pages"] = report.repeated_pages();
  json["resent_pages"] = report.resent_pages();
  json["lowest_reading_share"] = Known(report.lowest_reading_share());
  json["phases"] = Json::array();
  for (const v1::PhaseTime& phase : report.phases()) {
    json["phases"].push_back({{"name", phase.name()}, {"seconds", phase.seconds()}});
  }
  json["file"] = report.file().empty() ? Json(nullptr) : Json(report.file());
  // What is not UTF-8 becomes the replacement character instead of an exception.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string ReportSummary(const v1::MigrationReport& report) {
  const std::string name = Printable(report.component());
  std::string text;
  if (report.error().empty()) {
    text = absl::StrCat(name, " runs on ", Printable(report.to()), " (epoch ", report.epoch(), ")");
  } else {
    text = absl::StrCat("called off, ", name, " runs on ", Printable(report.from()), ": ",
                        Printable(report.error()));
  }
  absl::StrAppend(
      &text, "\n  total ", FormatTime(report.total_s()), ", held ", FormatTime(report.held_s()),
      ", ", report.rounds(), " rounds, ", FormatBytes(report.wire_bytes()), " on the wire by ",
      report.provider().empty() ? "nothing" : Printable(report.provider()),
      report.encrypted() ? ", encrypted" : ", not encrypted",
      report.insecure() ? ", INSECURE (agents without certificates)" : "", ", tracked by ",
      report.tracker().empty() ? "nothing" : Printable(report.tracker()));
  if (report.phases_size() > 0) {
    std::vector<std::string> phases;
    for (const v1::PhaseTime& phase : report.phases()) {
      phases.push_back(absl::StrCat(Printable(phase.name()), " ", FormatTime(phase.seconds())));
    }
    absl::StrAppend(&text, "\n  ", absl::StrJoin(phases, ", "));
  }
  return text;
}

std::string MigrationReportText(const v1::MigrationReport& report) {
  v1::MigrationReport head = report;
  head.clear_phases();  // they have a table of their own below
  std::string text = absl::StrCat(
      ReportSummary(head), "\n  migration ", Printable(report.migration_id()), ", begun ",
      absl::FormatTime("%Y-%m-%d %H:%M:%E3S UTC",
                       absl::FromUnixMillis(std::llround(report.began() * 1e3)),
                       absl::UTCTimeZone()),
      "\n  ", Host(report.from(), report.source()), "\n  ", Host(report.to(), report.target()),
      "\n");
  if (!report.stopped_because().empty()) {
    absl::StrAppend(&text, "  the rounds ended because ", Printable(report.stopped_because()),
                    "\n");
  }
  if (!report.probe().empty()) {
    absl::StrAppend(&text, "  probed by ", Printable(report.probe()), "\n");
  }
  if (report.held_s() > 0 && report.expected_blackout_s() > 0) {
    absl::StrAppendFormat(&text, "  expected to be held %s, and was for %s\n",
                          FormatTime(report.expected_blackout_s()), FormatTime(report.held_s()));
  }
  if (report.page_rounds_size() > 0) absl::StrAppend(&text, "\n", RoundsText(report));
  if (report.wire_bytes() > 0) absl::StrAppend(&text, "\n", BytesText(report));
  if (report.phases_size() > 0) absl::StrAppend(&text, "\n", PhasesText(report));
  return text;
}

}  // namespace starling
