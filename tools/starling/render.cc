#include "tools/starling/render.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/text.h"
#include "base/units.h"
#include "runtime/reports/report_text.h"

namespace starling::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& json) {
  // What is not UTF-8 becomes the replacement character instead of an exception.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// JSON has no infinities; what is not known is null.
Json Known(double value) { return value > 0 && std::isfinite(value) ? Json(value) : Json(nullptr); }

std::string EnumName(absl::string_view name) {
  return absl::StrReplaceAll(absl::AsciiStrToLower(name), {{"_", "-"}});
}

std::string Rate(double bytes_per_s) {
  const double bounded = std::clamp(bytes_per_s, 0.0, 1e18);
  return absl::StrCat(FormatBytes(static_cast<uint64_t>(bounded)), "/s");
}

// What a person wants to know beside the state.
std::string Detail(const v1::Component& component) {
  switch (component.state()) {
    case v1::EXITED:
      return absl::StrCat("exit status ", component.exit_status());
    case v1::LEFT:
      return absl::StrCat("to ", Printable(component.where()));
    case v1::ARRIVING:
      return absl::StrCat("from ", Printable(component.where()));
    case v1::PARKED:
      return "frozen until its user is there, or `starling unpark`";
    case v1::IN_DOUBT:
      return "frozen: see `starling resolve --help`";
    default:
      if (component.bytes_away() > 0) {
        return absl::StrCat(FormatBytes(component.bytes_away()),
                            " of its memory still at the host it came from");
      }
      return Printable(component.migration_id());
  }
}

// A moment, by the clock of whoever reads it.
std::string When(double time) {
  const time_t seconds = static_cast<time_t>(time);
  struct tm broken = {};
  if (!std::isfinite(time) || localtime_r(&seconds, &broken) == nullptr) return "?";
  char text[32];
  return std::string(text, strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &broken));
}

std::string Connections(uint32_t count) {
  return count == 1 ? "1 connection" : absl::StrCat(count, " connections");
}

Json ComponentObject(const v1::Component& component) {
  Json json;
  json["name"] = component.spec().name();
  json["application"] =
      component.spec().application().empty() ? Json(nullptr) : Json(component.spec().application());
  json["state"] = StateName(component.state());
  json["epoch"] = component.epoch();
  json["memory_bytes"] = component.memory_bytes();
  json["processes"] = component.processes();
  json["up_s"] = component.up_s();
  json["ip"] = component.spec().ip();
  json["user"] = component.spec().user();
  json["command"] = std::vector<std::string>(component.spec().command().begin(),
                                             component.spec().command().end());
  const uint64_t io_max = component.spec().io_max_bytes_per_s();
  json["io_max_bytes_per_s"] = io_max == 0 ? Json(nullptr) : Json(io_max);
  json["probe"] = component.spec().probe().empty() ? Json(nullptr) : Json(component.spec().probe());
  json["bytes_away"] = component.bytes_away();
  json["where"] = component.where();
  json["migration_id"] = component.migration_id();
  json["exit_status"] =
      component.state() == v1::EXITED ? Json(component.exit_status()) : Json(nullptr);
  return json;
}

}  // namespace

std::string StateName(v1::ComponentState state) {
  if (state == v1::COMPONENT_STATE_UNSPECIFIED || !v1::ComponentState_IsValid(state)) return "?";
  return EnumName(v1::ComponentState_Name(state));
}

std::string StepName(v1::Step step) {
  if (step == v1::PRECOPY) return "pre-copy";
  if (step == v1::STEP_UNSPECIFIED || !v1::Step_IsValid(step)) return "?";
  return EnumName(v1::Step_Name(step));
}

std::string ComponentTable(const v1::ListResponse& list) {
  // A column that most hosts have no use for is there where it says something.
  const bool grouped = std::any_of(
      list.components().begin(), list.components().end(),
      [](const v1::Component& component) { return !component.spec().application().empty(); });
  std::vector<std::vector<std::string>> rows = {
      {"NAME", "STATE", "EPOCH", "MEMORY", "PROCESSES", "UP", "ADDRESS", "DETAIL"}};
  if (grouped) rows[0].insert(rows[0].begin() + 1, "APPLICATION");
  for (const v1::Component& component : list.components()) {
    const bool here = component.state() != v1::LEFT && component.state() != v1::EXITED &&
                      component.state() != v1::LOST;
    rows.push_back({Printable(component.spec().name()), StateName(component.state()),
                    absl::StrCat(component.epoch()),
                    here ? FormatBytes(component.memory_bytes()) : "-",
                    here ? absl::StrCat(component.processes()) : "-",
                    here ? FormatTime(component.up_s()) : "-",
                    component.spec().ip().empty() ? "-" : Printable(component.spec().ip()),
                    Detail(component)});
    if (!grouped) continue;
    const std::string& application = component.spec().application();
    rows.back().insert(rows.back().begin() + 1, application.empty() ? "-" : Printable(application));
  }
  return Table(rows);
}

std::string ComponentsJson(const v1::ListResponse& list) {
  Json json;
  json["schema"] = kJsonSchema;
  json["host"] = list.host();
  json["insecure"] = list.insecure();
  json["components"] = Json::array();
  for (const v1::Component& component : list.components()) {
    json["components"].push_back(ComponentObject(component));
  }
  return Dump(json);
}

std::string ObstacleText(const v1::Obstacle& obstacle) {
  std::string text =
      absl::StrCat("  ", Printable(obstacle.thing()), ": ", Printable(obstacle.reason()), " [",
                   Printable(obstacle.code()), "]");
  if (!obstacle.mend().empty()) absl::StrAppend(&text, "\n    ", Printable(obstacle.mend()));
  return text;
}

std::string CheckJson(const std::string& name, const std::string& to,
                      const v1::CheckResponse& check) {
  Json json;
  json["schema"] = kJsonSchema;
  json["component"] = name;
  json["to"] = to;
  json["obstacles"] = Json::array();
  for (const v1::Obstacle& obstacle : check.obstacles()) {
    json["obstacles"].push_back({{"code", obstacle.code()},
                                 {"thing", obstacle.thing()},
                                 {"reason", obstacle.reason()},
                                 {"mend", obstacle.mend()}});
  }
  json["tracker"] = check.tracker();
  json["provider"] = check.provider();
  json["peer_kernel"] = check.peer_kernel();
  json["peer_criu"] = check.peer_criu();
  json["insecure"] = check.insecure();
  return Dump(json);
}

std::string BenchJson(const std::string& to, const std::vector<v1::BenchResult>& results,
                      const std::vector<v1::BenchTool>& tools) {
  Json json;
  json["schema"] = kJsonSchema;
  json["to"] = to;
  json["results"] = Json::array();
  for (const v1::BenchResult& result : results) {
    Json one;
    one["provider"] = result.provider();
    one["device"] = result.device();
    one["connection"] = result.connection();
    one["connections"] = result.connections();
    one["granted"] = result.granted();
    one["points"] = Json::array();
    for (const v1::BenchPoint& point : result.points())
      one["points"].push_back({{"bytes", point.bytes()}, {"bytes_per_s", point.bytes_per_s()}});
    one["round_trips"] = result.round_trips();
    one["round_trip_median_s"] = result.round_trip_median_s();
    one["round_trip_min_s"] = result.round_trip_min_s();
    one["round_trip_p99_s"] = result.round_trip_p99_s();
    json["results"].push_back(std::move(one));
  }
  json["tools"] = Json::array();
  for (const v1::BenchTool& tool : tools) {
    json["tools"].push_back({{"tool", tool.tool()},
                             {"command", tool.command()},
                             {"bytes_per_s", Known(tool.bytes_per_s())},
                             {"one_way_s", Known(tool.one_way_s())},
                             {"skipped", tool.skipped()}});
  }
  return Dump(json);
}

void ProgressView::Update(const v1::MigrationProgress& progress) {
  if (!any_ || progress.step() != now_.step() || progress.round() != now_.round()) {
    // The first message of a round may come late; what was counted before it belongs to the round
    // before.
    round_began_at_bytes_ = any_ ? now_.bytes_sent() : 0;
  }
  any_ = true;
  now_ = progress;
}

double ProgressView::RoundDone() const {
  if (now_.bytes_expected() == 0 || now_.bytes_sent() < round_began_at_bytes_) return -1;
  const double sent = static_cast<double>(now_.bytes_sent() - round_began_at_bytes_);
  return std::min(1.0, sent / static_cast<double>(now_.bytes_expected()));
}

std::string ProgressView::Line() const {
  std::string line = absl::StrFormat("%7.1f s  %s", now_.elapsed_s(), StepName(now_.step()));
  if (now_.step() == v1::PRECOPY && now_.round() > 0) {
    absl::StrAppend(&line, " round ", now_.round());
  }
  std::vector<std::string> parts;
  if (now_.bytes_sent() > 0) parts.push_back(absl::StrCat(FormatBytes(now_.bytes_sent()), " sent"));
  if (const double done = RoundDone(); done >= 0) {
    parts.push_back(absl::StrFormat("%.0f %% of the round", done * 100));
  }
  if (now_.rate_bytes_per_s() > 0) parts.push_back(Rate(now_.rate_bytes_per_s()));
  if (now_.dirty_bytes_per_s() > 0) {
    parts.push_back(absl::StrCat("dirtied ", Rate(now_.dirty_bytes_per_s())));
  }
  if (now_.expected_blackout_s() > 0) {
    parts.push_back(absl::StrCat("expected blackout ", FormatTime(now_.expected_blackout_s())));
  }
  if (now_.bytes_away() > 0) {
    parts.push_back(absl::StrCat(FormatBytes(now_.bytes_away()), " still to be fetched"));
  }
  if (!now_.message().empty()) parts.push_back(Printable(now_.message()));
  if (!parts.empty()) absl::StrAppend(&line, ": ", absl::StrJoin(parts, ", "));
  return line;
}

std::string ProgressView::Bar(int width) const {
  std::string head = StepName(now_.step());
  if (now_.step() == v1::PRECOPY && now_.round() > 0) absl::StrAppend(&head, " ", now_.round());
  head.resize(std::max<size_t>(head.size(), 12), ' ');
  std::vector<std::string> parts;
  if (now_.bytes_sent() > 0) parts.push_back(FormatBytes(now_.bytes_sent()));
  if (now_.rate_bytes_per_s() > 0) parts.push_back(Rate(now_.rate_bytes_per_s()));
  if (now_.dirty_bytes_per_s() > 0) {
    parts.push_back(absl::StrCat("dirty ", Rate(now_.dirty_bytes_per_s())));
  }
  if (now_.expected_blackout_s() > 0) {
    parts.push_back(absl::StrCat("blackout ~", FormatTime(now_.expected_blackout_s())));
  }
  parts.push_back(FormatTime(now_.elapsed_s()));
  const std::string tail = absl::StrJoin(parts, "  ");

  constexpr int kLeastBar = 10;
  constexpr int kMostBar = 40;
  std::string bar;
  const double done = RoundDone();
  const int room = width - static_cast<int>(head.size() + tail.size()) - 10;
  if (done >= 0 && room >= kLeastBar) {
    const int cells = std::min(room, kMostBar);
    const int full = static_cast<int>(done * cells);
    bar = absl::StrFormat("[%s%s] %3.0f%%  ", std::string(full, '#'),
                          std::string(cells - full, '.'), done * 100);
  }
  std::string line = absl::StrCat(head, " ", bar, tail);
  line.resize(std::min<size_t>(line.size(), std::max(width, 0)));
  return line;
}

bool ProgressView::TakeLine() {
  if (!any_) return false;
  const bool worth = !line_taken_ || now_.step() != line_step_ || now_.round() != line_round_ ||
                     now_.message() != line_message_ || now_.elapsed_s() >= line_elapsed_s_ + 1;
  if (!worth) return false;
  line_taken_ = true;
  line_step_ = now_.step();
  line_round_ = now_.round();
  line_message_ = now_.message();
  line_elapsed_s_ = now_.elapsed_s();
  return true;
}

std::string OutcomeName(ExitCode code) {
  switch (code) {
    case ExitCode::kOk:
      return "done";
    case ExitCode::kCalledOff:
      return "called-off";
    case ExitCode::kInDoubt:
      return "in-doubt";
    case ExitCode::kInterrupted:
      return "interrupted";
    case ExitCode::kAgentUnreachable:
      return "agent-unreachable";
    case ExitCode::kFailed:
      return "failed";
    default:
      return "refused";
  }
}

std::string ProgressJson(const v1::MigrationProgress& progress) {
  Json json;
  json["schema"] = kJsonSchema;
  json["type"] = "progress";
  json["migration_id"] = progress.migration_id();
  json["component"] = progress.component();
  json["from"] = progress.from();
  json["to"] = progress.to();
  json["step"] = StepName(progress.step());
  json["round"] = progress.round();
  json["bytes_sent"] = progress.bytes_sent();
  json["bytes_expected"] =
      progress.bytes_expected() == 0 ? Json(nullptr) : Json(progress.bytes_expected());
  json["rate_bytes_per_s"] = progress.rate_bytes_per_s();
  json["dirty_bytes_per_s"] = progress.dirty_bytes_per_s();
  json["expected_blackout_s"] = Known(progress.expected_blackout_s());
  json["bytes_away"] = progress.step() == v1::DRAIN ? Json(progress.bytes_away()) : Json(nullptr);
  json["elapsed_s"] = progress.elapsed_s();
  json["message"] = progress.message();
  json["provider"] = progress.provider().empty() ? Json(nullptr) : Json(progress.provider());
  json["encrypted"] = progress.encrypted();
  json["insecure"] = progress.insecure();
  return Dump(json);
}

std::string ReportJson(const v1::MigrationProgress& last, ExitCode code, absl::string_view error) {
  Json json;
  json["schema"] = kJsonSchema;
  json["type"] = "report";
  json["outcome"] = OutcomeName(code);
  json["exit_code"] = static_cast<int>(code);
  json["error"] = std::string(error);
  json["migration_id"] = last.migration_id();
  json["component"] = last.component();
  json["from"] = last.from();
  json["to"] = last.to();
  if (!last.has_report()) {
    json["report"] = nullptr;
    return Dump(json);
  }
  json["report"] = Json::parse(MigrationReportJson(last.report()));
  return Dump(json);
}

std::string ReportText(const v1::MigrationProgress& last) {
  const v1::MigrationReport& report = last.report();
  std::string text = ReportSummary(report);
  if (!report.file().empty()) {
    absl::StrAppend(&text, "\n  all of it: starling report ", Printable(report.migration_id()),
                    " (", Printable(report.file()), ")");
  }
  return text;
}

std::string CheckpointText(const std::string& name, const v1::CheckpointResponse& taken) {
  std::string text =
      absl::StrCat("checkpoint ", taken.number(), " of ", Printable(name), ": ",
                   FormatBytes(taken.bytes_written()), " written of ",
                   FormatBytes(taken.content_bytes()), ", held for ", FormatTime(taken.held_s()),
                   ", ", FormatTime(taken.total_s()), " in all: ", Printable(taken.file()));
  if (taken.connections() > 0) {
    absl::StrAppend(&text, "\n", Connections(taken.connections()),
                    " established live on here; a restore finds them closed");
  }
  return text;
}

std::string CheckpointJson(const std::string& name, const v1::CheckpointResponse& taken) {
  Json object = {{"schema", kJsonSchema},
                 {"component", name},
                 {"number", taken.number()},
                 {"file", taken.file()},
                 {"content_bytes", taken.content_bytes()},
                 {"bytes_written", taken.bytes_written()},
                 {"dropped", taken.dropped()},
                 {"held_s", taken.held_s()},
                 {"total_s", taken.total_s()},
                 {"rounds", taken.rounds()},
                 {"tracker", taken.tracker()},
                 {"connections", taken.connections()},
                 {"phases", Json::array()},
                 {"warnings", Json::array()}};
  for (const v1::PhaseTime& phase : taken.phases()) {
    object["phases"].push_back({{"name", phase.name()}, {"seconds", phase.seconds()}});
  }
  for (const std::string& warning : taken.warnings()) object["warnings"].push_back(warning);
  return Dump(object);
}

std::string RestoreText(const v1::RestoreCheckpointResponse& restored) {
  const v1::Component& component = restored.component();
  std::string text =
      absl::StrCat(Printable(component.spec().name()), " is ", StateName(component.state()),
                   " (epoch ", component.epoch(), "), as it was at ", When(restored.taken()),
                   " (checkpoint ", restored.number(), ")");
  if (restored.connections() > 0) {
    absl::StrAppend(&text, "\n", Connections(restored.connections()),
                    " established then are closed: their other ends have gone on since");
  }
  return text;
}

std::string RestoreJson(const v1::RestoreCheckpointResponse& restored) {
  return Dump({{"schema", kJsonSchema},
               {"component", restored.component().spec().name()},
               {"epoch", restored.component().epoch()},
               {"number", restored.number()},
               {"taken", restored.taken()},
               {"connections", restored.connections()}});
}

std::string EventLine(const v1::Event& event) {
  std::string when = When(event.time());
  if (when != "?") {
    absl::StrAppendFormat(&when, ".%03d",
                          static_cast<int>((event.time() - std::floor(event.time())) * 1000));
  }
  return absl::StrCat(when, "  #", event.number(), "  ",
                      event.component().empty() ? "-" : Printable(event.component()), "  ",
                      Printable(event.kind()), event.text().empty() ? "" : ": ",
                      Printable(event.text()));
}

std::string EventJson(const v1::Event& event) {
  Json json;
  json["schema"] = kJsonSchema;
  json["number"] = event.number();
  json["time"] = event.time();
  json["component"] = event.component();
  json["kind"] = event.kind();
  json["text"] = event.text();
  return Dump(json);
}

std::string InfoText(const v1::InfoResponse& info) {
  const std::string peers =
      info.peers_size() == 0 ? "none" : Printable(absl::StrJoin(info.peers(), ", "));
  std::vector<std::string> refusals;
  for (const auto& [kind, count] : info.refusals())
    refusals.push_back(absl::StrCat(Printable(kind), " ", count));
  std::sort(refusals.begin(), refusals.end());
  std::vector<std::string> transports;
  for (const std::string& name : info.providers()) transports.push_back(Printable(name));
  if (transports.empty()) transports.emplace_back("none");
  for (const auto& [name, why] : info.closed_providers())
    transports.push_back(absl::StrCat(Printable(name), " is not open: ", Printable(why)));
  return Table({{"host", Printable(info.host())},
                {"version", Printable(info.version())},
                {"protocol", absl::StrCat(info.protocol())},
                {"kernel", Printable(info.kernel())},
                {"criu", Printable(info.criu())},
                {"peers", peers},
                {"transports", absl::StrJoin(transports, ", ")},
                {"certificate",
                 info.insecure() ? "none: INSECURE"
                                 : absl::StrCat("good until ", Printable(info.certificate_ends()))},
                {"refused", refusals.empty() ? "nothing" : absl::StrJoin(refusals, ", ")}});
}

std::string InfoJson(const v1::InfoResponse& info) {
  Json json;
  json["schema"] = kJsonSchema;
  json["host"] = info.host();
  json["version"] = info.version();
  json["protocol"] = info.protocol();
  json["kernel"] = info.kernel();
  json["criu"] = info.criu();
  json["peers"] = std::vector<std::string>(info.peers().begin(), info.peers().end());
  json["providers"] = std::vector<std::string>(info.providers().begin(), info.providers().end());
  json["closed_providers"] = Json::object();
  for (const auto& [name, why] : info.closed_providers()) json["closed_providers"][name] = why;
  json["insecure"] = info.insecure();
  json["certificate_ends"] =
      info.certificate_ends().empty() ? Json(nullptr) : Json(info.certificate_ends());
  json["refusals"] = Json::object();
  for (const auto& [kind, count] : info.refusals()) json["refusals"][kind] = count;
  return Dump(json);
}

}  // namespace starling::cli
