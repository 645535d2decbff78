#include "tools/starling/render_loop.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/text.h"
#include "base/units.h"
#include "tools/starling/render.h"

namespace starling::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json Number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

// As people read it: processors, bytes, bytes a second.
std::string Amount(const std::string& metric, double value) {
  if (!std::isfinite(value)) return "?";
  if (metric == "cpu" || metric == "gpu") return absl::StrFormat("%.2f", std::max(0.0, value));
  const std::string bytes = FormatBytes(static_cast<uint64_t>(std::clamp(value, 0.0, 1e18)));
  const bool amount = metric == "memory" || metric == "gpu-memory" || metric == "disk";
  return amount ? bytes : bytes + "/s";
}

std::string When(double time) {
  const auto seconds = static_cast<time_t>(time);
  struct tm broken = {};
  if (!std::isfinite(time) || localtime_r(&seconds, &broken) == nullptr) return "?";
  char text[32];
  return std::string(text, strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &broken));
}

void AddRows(const v1::ForecastOf& of, bool scored, std::vector<std::vector<std::string>>& rows) {
  for (const v1::MetricForecast& metric : of.metrics()) {
    for (const v1::ForecastAhead& ahead : metric.ahead()) {
      const bool first = &ahead == &metric.ahead(0);
      const std::string& name = metric.metric();
      std::vector<std::string> row = {first ? Printable(of.name()) : "",
                                      first ? Printable(name) : "",
                                      first ? Amount(name, metric.now()) : "",
                                      absl::StrCat("in ", FormatTime(ahead.ahead_s())),
                                      Amount(name, ahead.p50()),
                                      Amount(name, ahead.p90()),
                                      Amount(name, ahead.p99()),
                                      ahead.hinted() ? "hint"
                                      : ahead.outcomes() == 0
                                          ? "-"
                                          : absl::StrFormat("%.0f %%", 100 * ahead.coverage())};
      if (scored) row.push_back(ahead.outcomes() == 0 ? "-" : Amount(name, ahead.error()));
      rows.push_back(std::move(row));
    }
  }
}

// A line an expert, by its share at each horizon, with what it was off by at the nearest one.
std::string ExpertsText(const v1::ForecastResponse& forecast) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::ForecastOf& component : forecast.components()) {
    for (const v1::MetricForecast& metric : component.metrics()) {
      if (metric.ahead().empty() || metric.ahead(0).experts().empty()) continue;
      if (rows.empty()) {
        rows.push_back({"OF", "METRIC", "EXPERT", "OFF BY"});
        for (const v1::ForecastAhead& ahead : metric.ahead()) {
          if (!ahead.hinted()) rows[0].push_back("IN " + FormatTime(ahead.ahead_s()));
        }
      }
      for (int e = 0; e < metric.ahead(0).experts_size(); ++e) {
        const v1::ExpertShare& share = metric.ahead(0).experts(e);
        std::vector<std::string> row = {
            e == 0 ? Printable(component.name()) : "", e == 0 ? Printable(metric.metric()) : "",
            Printable(share.name()), Amount(metric.metric(), share.error())};
        for (const v1::ForecastAhead& ahead : metric.ahead()) {
          if (e >= ahead.experts_size()) continue;
          row.push_back(absl::StrFormat("%.0f %%", 100 * ahead.experts(e).weight()));
        }
        rows.push_back(std::move(row));
      }
    }
  }
  return rows.empty() ? "" : "\n" + Table(rows);
}

Json ForecastObject(const v1::ForecastOf& of) {
  Json json;
  json["name"] = of.name();
  if (!of.phase().empty()) json["phase"] = of.phase();
  for (const v1::HintTrust& trust : of.trust()) {
    json["trust"].push_back({{"resource", trust.resource()},
                             {"reliability", Number(trust.reliability())},
                             {"open", trust.open()}});
  }
  json["metrics"] = Json::array();
  for (const v1::MetricForecast& metric : of.metrics()) {
    Json one;
    one["metric"] = metric.metric();
    one["now"] = Number(metric.now());
    one["capacity"] = metric.capacity() > 0 ? Number(metric.capacity()) : Json(nullptr);
    one["ahead"] = Json::array();
    for (const v1::ForecastAhead& ahead : metric.ahead()) {
      const bool known = ahead.outcomes() > 0;
      one["ahead"].push_back(
          {{"ahead_s", ahead.ahead_s()},
           {"p50", Number(ahead.p50())},
           {"p90", Number(ahead.p90())},
           {"p99", Number(ahead.p99())},
           {"low", Number(ahead.low())},
           {"high", Number(ahead.high())},
           {"coverage", known ? Number(ahead.coverage()) : Json(nullptr)},
           {"outcomes", ahead.outcomes()},
           {"hinted", ahead.hinted()},
           {"error", known && ahead.error() > 0 ? Number(ahead.error()) : Json(nullptr)}});
      for (const v1::ExpertShare& share : ahead.experts()) {
        one["ahead"].back()["experts"].push_back({{"name", share.name()},
                                                  {"weight", Number(share.weight())},
                                                  {"error", Number(share.error())}});
      }
    }
    json["metrics"].push_back(std::move(one));
  }
  return json;
}

// "0.50 processors, 300.0 MiB of memory".
std::string Amounts(const v1::ResourceAmounts& amount) {
  std::vector<std::string> parts;
  const auto bytes = [&parts](int64_t value, const char* of) {
    if (value > 0)
      parts.push_back(absl::StrCat(FormatBytes(static_cast<uint64_t>(value)), " of ", of));
  };
  if (amount.cpu() > 0)
    parts.push_back(absl::StrFormat("%.2f processors", static_cast<double>(amount.cpu()) / 1000));
  bytes(amount.memory(), "memory");
  bytes(amount.disk(), "disk");
  bytes(amount.network(), "network a second");
  bytes(amount.storage(), "storage a second");
  if (amount.gpu() > 0)
    parts.push_back(absl::StrFormat("%.2f GPUs", static_cast<double>(amount.gpu()) / 1000));
  bytes(amount.gpu_memory(), "GPU memory");
  return parts.empty() ? "nothing" : absl::StrJoin(parts, ", ");
}

Json AmountsObject(const v1::ResourceAmounts& amount) {
  return {{"cpu", amount.cpu()},
          {"memory", amount.memory()},
          {"disk", amount.disk()},
          {"network", amount.network()},
          {"storage", amount.storage()},
          {"gpu", amount.gpu()},
          {"gpu_memory", amount.gpu_memory()}};
}

Json LeaseObject(const v1::LeaseInfo& lease) {
  Json json;
  json["id"] = lease.id();
  json["holder"] = lease.holder();
  json["host"] = lease.host();
  json["component"] = lease.component();
  json["priority"] = lease.priority();
  json["kind"] = lease.kind();
  json["pinned"] = lease.pinned();
  json["amount"] = AmountsObject(lease.amount());
  json["left_s"] = lease.pinned() ? Json(nullptr) : Number(lease.left_s());
  json["warm"] = lease.warm();
  return json;
}

std::vector<std::string> LeaseRow(const v1::LeaseInfo& lease) {
  return {Printable(lease.component()),
          Printable(lease.holder()),
          Printable(lease.host()),
          lease.pinned() ? "runs there" : Printable(lease.kind()),
          lease.pinned() ? "-" : FormatTime(lease.left_s()),
          Amounts(lease.amount())};
}

}  // namespace

std::string ForecastText(const v1::ForecastResponse& forecast) {
  std::vector<std::vector<std::string>> rows = {
      {"OF", "METRIC", "NOW", "AHEAD", "P50", "P90", "P99", "HELD"}};
  for (const v1::ForecastOf& component : forecast.components()) AddRows(component, false, rows);
  v1::ForecastOf all = forecast.all();
  all.set_name(absl::StrCat("all of ", all.name()));
  AddRows(all, false, rows);
  std::string text = Table(rows);
  absl::StrAppend(&text, ExpertsText(forecast));
  if (!forecast.has_pool()) return text;
  std::vector<std::vector<std::string>> pool = {
      {"OF", "METRIC", "NOW", "AHEAD", "P50", "P90", "P99", "HELD", "OFF BY"}};
  AddRows(forecast.pool(), true, pool);
  absl::StrAppend(&text, "\nThe pool: ", Printable(absl::StrJoin(forecast.pool_hosts(), ", ")));
  if (!forecast.silent().empty()) {
    absl::StrAppend(&text, "; not heard: ", Printable(absl::StrJoin(forecast.silent(), ", ")));
  }
  absl::StrAppend(&text, "\n", Table(pool));
  return text;
}

std::string ForecastJson(const v1::ForecastResponse& forecast) {
  Json json;
  json["schema"] = kJsonSchema;
  json["host"] = forecast.host();
  json["step_s"] = forecast.step_s();
  json["components"] = Json::array();
  for (const v1::ForecastOf& component : forecast.components()) {
    json["components"].push_back(ForecastObject(component));
  }
  json["all"] = ForecastObject(forecast.all());
  json["pool"] = Json(nullptr);
  if (forecast.has_pool()) {
    json["pool"] = ForecastObject(forecast.pool());
    json["pool"]["hosts"] =
        std::vector<std::string>(forecast.pool_hosts().begin(), forecast.pool_hosts().end());
    json["pool"]["silent"] =
        std::vector<std::string>(forecast.silent().begin(), forecast.silent().end());
  }
  return Dump(json);
}

std::string LeasesText(const v1::LeasesResponse& leases) {
  std::string text =
      absl::StrCat("Host ", Printable(leases.host()), " may promise ", Amounts(leases.capacity()),
                   "; free: ", Amounts(leases.free()), "\n");
  if (leases.granted().empty() && leases.held().empty()) {
    return absl::StrCat(text, "There are no leases.\n");
  }
  std::vector<std::vector<std::string>> rows = {
      {"COMPONENT", "HELD BY", "ON", "KIND", "LEFT", "AMOUNT"}};
  for (const v1::LeaseInfo& lease : leases.granted()) rows.push_back(LeaseRow(lease));
  for (const v1::LeaseInfo& lease : leases.held()) rows.push_back(LeaseRow(lease));
  return absl::StrCat(text, Table(rows));
}

std::string LeasesJson(const v1::LeasesResponse& leases) {
  Json json;
  json["schema"] = kJsonSchema;
  json["host"] = leases.host();
  json["capacity"] = AmountsObject(leases.capacity());
  json["free"] = AmountsObject(leases.free());
  json["granted"] = Json::array();
  for (const v1::LeaseInfo& lease : leases.granted()) json["granted"].push_back(LeaseObject(lease));
  json["held"] = Json::array();
  for (const v1::LeaseInfo& lease : leases.held()) json["held"].push_back(LeaseObject(lease));
  json["counts"] = Json::object();
  for (const char* what : {"granted", "refused", "released", "expired", "withdrawn", "recalled"}) {
    const auto found = leases.counts().find(what);
    json["counts"][what] = found == leases.counts().end() ? 0 : found->second;
  }
  return Dump(json);
}

std::string WhyText(const std::string& name, const v1::WhyResponse& why) {
  std::string text;
  if (why.mode() == "off") {
    text = "Nothing is decided here: loop.enabled is false.\n";
  } else if (why.mode() == "observe") {
    text = "The policy observes: what follows was said and not done.\n";
  }
  if (!why.refused().empty()) {
    absl::StrAppend(&text, "The policy's file is refused, and an earlier one in force: ",
                    Printable(why.refused()), "\n");
  }
  if (why.decisions().empty()) {
    absl::StrAppend(&text, "Nothing was decided",
                    name.empty() ? "" : absl::StrCat(" about ", Printable(name)), " yet.\n");
  }
  for (const v1::DecidedOnce& once : why.decisions()) {
    absl::StrAppend(
        &text, When(once.time()), "  ", Printable(once.reason()), once.act() ? "" : "  (observed)",
        once.again().empty() ? "" : absl::StrCat("  [again: ", Printable(once.again()), "]"), "\n");
    for (const v1::DecidedStep& step : once.steps()) {
      const char* to = step.action() == "give-back" ? " on " : " to ";
      absl::StrAppend(&text, "  ", Printable(step.action()), " ", Printable(step.component()),
                      step.host().empty() ? ""
                                          : absl::StrCat(step.action() == "reserve" ? " on " : to,
                                                         Printable(step.host())),
                      ": ", Printable(step.reason()), "\n");
    }
  }
  return text;
}

std::string WhyJson(const v1::WhyResponse& why) {
  Json json;
  json["schema"] = kJsonSchema;
  json["mode"] = why.mode();
  json["policy"] = why.policy();
  json["refused"] = why.refused();
  json["decisions"] = Json::array();
  for (const v1::DecidedOnce& once : why.decisions()) {
    Json one;
    one["time"] = once.time();
    one["reason"] = once.reason();
    one["act"] = once.act();
    one["short_of"] = once.short_of();
    one["short_now"] = once.short_now();
    one["short_later"] = once.short_later();
    one["threshold_shift"] = Number(once.threshold_shift());
    if (!once.again().empty()) one["again"] = once.again();
    one["steps"] = Json::array();
    for (const v1::DecidedStep& step : once.steps()) {
      one["steps"].push_back({{"action", step.action()},
                              {"component", step.component()},
                              {"host", step.host()},
                              {"lease", step.lease()},
                              {"amount", AmountsObject(step.amount())},
                              {"cost", Number(step.cost())},
                              {"reason", step.reason()}});
    }
    json["decisions"].push_back(std::move(one));
  }
  return Dump(json);
}

}  // namespace starling::cli
