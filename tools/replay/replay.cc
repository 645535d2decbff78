#include "tools/replay/replay.h"

#include <chrono>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "tools/replay/forecast_replay.h"
#include "tools/replay/inactivity_replay.h"
#include "tools/replay/onset_replay.h"
#include "tools/replay/plot.h"
#include "tools/replay/prestage_replay.h"
#include "tools/replay/traces.h"

namespace starling::replay {
namespace {

using nlohmann::json;

constexpr int kSchema = 1;

// A number of a report by its path, or not-a-number where the traces held nothing for it.
double At(const json& report, const std::string& path) {
  const json::json_pointer pointer(path);
  if (!report.contains(pointer) || !report.at(pointer).is_number()) return NAN;
  return report.at(pointer).get<double>();
}

void PrintForecasts(const json& forecast, std::ostream& text) {
  text
      << "Forecasts: MASE (median over a group's series), mean 90 % coverage, width of intervals\n";
  text << absl::StrFormat("  %-24s %4s %5s | %8s %8s %8s %-7s | %6s %6s | %9s %9s\n", "group", "n",
                          "step", "ours", "blend", "best", "single", "cover", "worst", "width",
                          "blend's");
  for (const auto& [name, group] : forecast["by_group"].items()) {
    for (const char* horizon : {"h1", "h6", "h12"}) {
      const json& at = group[horizon];
      text << absl::StrFormat(
          "  %-24s %4d %5s | %8.4f %8.4f %8.4f %-7s | %6.3f %6.3f | %9.3f %9.3f\n", name,
          group["series"].get<int>(), horizon, At(at, "/mase"), At(at, "/mase_blend"),
          At(at, "/mase_best_single"), at.value("best_single", ""), At(at, "/coverage"),
          At(at, "/coverage_worst"), At(at, "/width"), At(at, "/width_blend_aci"));
    }
  }
  for (const char* horizon : {"h1", "h6", "h12"}) {
    const std::string h = horizon;
    text << absl::StrFormat(
        "  grand %-4s %.4f  95 %% %.4f to %.4f  blend %.4f (%+.1f %%)  after summaries %.4f\n", h,
        At(forecast, "/mase/" + h), At(forecast, "/mase_95/" + h + "/0"),
        At(forecast, "/mase_95/" + h + "/1"), At(forecast, "/mase_blend/" + h),
        100 * At(forecast, "/vs_blend/" + h), At(forecast, "/summaries/mase/" + h));
  }
  text << absl::StrFormat(
      "  coverage %.4f overall, %.4f mean over groups, %.4f worst (%s); width %.3f of the "
      "baseline's\n",
      At(forecast, "/coverage/overall"), At(forecast, "/coverage/mean_over_groups"),
      At(forecast, "/coverage/worst_series"),
      forecast.contains("coverage") ? forecast["coverage"].value("worst_where", "") : "",
      At(forecast, "/width_vs_baseline"));
  text << absl::StrFormat("  worst against the best single baseline: %+.1f %%\n",
                          100 * At(forecast, "/worst_vs_best_single/ratio"));
  text << absl::StrFormat(
      "  summaries: %.1f %% of the raw samples' bytes, MASE %+.2f %% at worst\n",
      100 * At(forecast, "/summaries/share"), 100 * At(forecast, "/summaries/worst_loss"));
  text << absl::StrFormat("  %.0f steps at %.3f us\n\n", At(forecast, "/cost/steps"),
                          At(forecast, "/cost/us_per_step"));
}

void PrintDecisions(const json& report, std::ostream& text) {
  text << absl::StrFormat(
      "Pre-staging: %.0f GB min wasted at hit rate %.4f (with a minute of lead %.0f); "
      "%.0f priority inversions\n",
      At(report, "/prestage/waste_gb_min_at_hit_978"), At(report, "/prestage/hit_rate"),
      At(report, "/prestage/waste_gb_min_at_hit_978_with_a_minute_of_lead"),
      At(report, "/prestage/priority_inversions"));
  if (report["prestage"].contains("policies")) {
    for (const auto& [name, policy] : report["prestage"]["policies"].items()) {
      text << absl::StrFormat("  %-20s hit %.4f, %8.0f GB min\n", name, At(policy, "/hit_rate"),
                              At(policy, "/waste_gb_min"));
    }
    for (const json& limited : report["prestage"]["limited"]) {
      text << absl::StrFormat("  memory for %2.0f %%: hit %.4f, %8.0f GB min, inversions %.0f\n",
                              100 * At(limited, "/memory_share"), At(limited, "/hit_rate"),
                              At(limited, "/waste_gb_min"), At(limited, "/priority_inversions"));
    }
  }
  text << absl::StrFormat(
      "Inactivity: %.4f of idle time captured at precision 0.70 (fixed timeouts %.4f), %.2f false "
      "triggers an active hour\n",
      At(report, "/inactivity/captured_at_precision_70"),
      At(report, "/inactivity/captured_at_precision_70_fixed_timeouts"),
      At(report, "/inactivity/at_precision_70/false_per_active_hour"));
  text << absl::StrFormat(
      "Onset: recall %.4f at precision %.4f, the rule %.4f at %.4f; gain 95 %% %.4f to %.4f; %.0f "
      "s of warning on average for %.0f %% of onsets\n",
      At(report, "/onset/recall"), At(report, "/onset/precision"),
      At(report, "/onset/recall_baseline"), At(report, "/onset/precision_baseline"),
      At(report, "/onset/gain_95/0"), At(report, "/onset/gain_95/1"),
      At(report, "/onset/mean_lead_s"), 100 * At(report, "/onset/onsets_warned_of"));
}

Line LineOf(const json& points, const std::string& name, const char* x, const char* y,
            bool connected) {
  Line line{name, {}, connected};
  for (const json& point : points) {
    line.points.emplace_back(At(point, absl::StrCat("/", x)), At(point, absl::StrCat("/", y)));
  }
  return line;
}

absl::Status WritePlots(const json& report, const std::string& folder) {
  RETURN_IF_ERROR(MakeDirectories(folder));
  if (const json& prestage = report["prestage"]; prestage.contains("curve")) {
    std::vector<Line> lines = {
        LineOf(prestage["curve"], "keep warm", "waste_gb_min", "hit_rate", true),
        LineOf(prestage["curve"], "... a minute before", "waste_gb_min_with_a_minute_of_lead",
               "hit_rate", true)};
    for (const char* kind : {"keep", "histogram", "oracle"}) {
      Line line{kind, {}, false};
      for (const auto& [name, policy] : prestage["policies"].items()) {
        if (name.rfind(kind, 0) == 0 && At(policy, "/hit_rate") >= 0.5) {
          line.points.emplace_back(At(policy, "/waste_gb_min"), At(policy, "/hit_rate"));
        }
      }
      lines.push_back(std::move(line));
    }
    RETURN_IF_ERROR(
        WriteFileAtomic(folder + "/prestage.svg",
                        Chart("Ghosts kept warm", "wasted GB minutes", "hit rate", lines)));
  }
  if (const json& inactivity = report["inactivity"]; inactivity.contains("curve")) {
    RETURN_IF_ERROR(
        WriteFileAtomic(folder + "/inactivity.svg",
                        Chart("Idle time captured", "precision", "share of idle time",
                              {LineOf(inactivity["curve"], "model", "precision", "captured", true),
                               LineOf(inactivity["fixed_timeouts"], "fixed timeouts", "precision",
                                      "captured", true)})));
  }
  Line ours{"ours", {}, false}, blend{"baseline blend", {}, false};
  double index = 0;
  for (const auto& [name, group] : report["forecast"]["by_group"].items()) {
    for (const char* horizon : {"h1", "h6", "h12"}) {
      ours.points.emplace_back(index, At(group, absl::StrCat("/", horizon, "/mase")));
      blend.points.emplace_back(index, At(group, absl::StrCat("/", horizon, "/mase_blend")));
      ++index;
    }
  }
  if (ours.points.empty()) return absl::OkStatus();
  return WriteFileAtomic(
      folder + "/forecast.svg",
      Chart("MASE by group and horizon", "groups, three horizons each", "MASE", {blend, ours}));
}

}  // namespace

absl::Status Replay(const ReplayOptions& options, std::ostream& text) {
  ASSIGN_OR_RETURN(Traces traces, LoadTraces(options.traces));
  if (options.half != 0) KeepHalf(options.half, traces);
  const auto started = std::chrono::steady_clock::now();
  json report;
  report["schema"] = kSchema;
  report["half"] = options.half;
  ForecastOptions forecast;
  forecast.summary_tolerance = options.summary_tolerance;
  report["forecast"] = ReplayForecasts(traces.groups, forecast);
  report["prestage"] = ReplayPrestaging(traces.functions);
  report["inactivity"] = ReplayInactivity(traces.sessions);
  report["onset"] = ReplayOnsets(traces.groups);
  if (options.ablations) report["ablations"] = ReplayAblations(traces.groups);
  report["seconds"] =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  PrintForecasts(report["forecast"], text);
  PrintDecisions(report, text);
  if (options.ablations) {
    text << "\nWhat each expert adds (MASE h1, h6, h12; us a step)\n";
    for (const auto& [name, one] : report["ablations"].items()) {
      text << absl::StrFormat("  %-28s %.4f %.4f %.4f  %.3f\n", name, At(one, "/mase/h1"),
                              At(one, "/mase/h6"), At(one, "/mase/h12"), At(one, "/us_per_step"));
    }
  }
  if (!options.out.empty()) RETURN_IF_ERROR(WriteFileAtomic(options.out, report.dump(1) + "\n"));
  if (!options.plots.empty()) RETURN_IF_ERROR(WritePlots(report, options.plots));
  return absl::OkStatus();
}

}  // namespace starling::replay
