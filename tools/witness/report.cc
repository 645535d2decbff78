#include "tools/witness/report.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "tools/witness/clock.h"

namespace starling::witness {
namespace {

using Json = nlohmann::ordered_json;

Json GapsToJson(const GapRecorder& recorder, int64_t started_ns, bool numbered) {
  Json gaps = Json::array();
  for (const Gap& gap : recorder.longest()) {
    Json entry = {{"ms", ToMs(gap.length_ns)},
                  {"at_s", ToSeconds(gap.start_ns - started_ns)},
                  {"at_monotonic_s", ToSeconds(gap.start_ns)},
                  {"open", gap.open}};
    if (numbered) {
      entry["before"] = gap.before;
      entry["after"] = gap.after;
    }
    gaps.push_back(std::move(entry));
  }
  return gaps;
}

int64_t LongestNs(const GapRecorder& recorder) {
  return recorder.longest().empty() ? 0 : recorder.longest().front().length_ns;
}

// What gaps look like while nothing happens: to be held against the longest one.
void AddGaps(const GapRecorder& recorder, int64_t started_ns, bool numbered, Json* out) {
  const Histogram& all = recorder.distribution();
  (*out)["longest_gap_ms"] = ToMs(LongestNs(recorder));
  (*out)["gap_p50_ms"] = ToMs(all.Quantile(0.5));
  (*out)["gap_p99_ms"] = ToMs(all.Quantile(0.99));
  (*out)["gap_p999_ms"] = ToMs(all.Quantile(0.999));
  (*out)["gaps"] = GapsToJson(recorder, started_ns, numbered);
}

Json LatencyToJson(const Histogram& latency) {
  return {{"p50", ToMs(latency.Quantile(0.5))},
          {"p90", ToMs(latency.Quantile(0.9))},
          {"p99", ToMs(latency.Quantile(0.99))},
          {"p999", ToMs(latency.Quantile(0.999))},
          {"max", ToMs(latency.max_ns())}};
}

Json EventToJson(const Event& event, const std::optional<Recovery>& recovery, int64_t started_ns) {
  Json json = {{"name", event.name},
               {"at_s", ToSeconds(event.at_ns - started_ns)},
               {"p99_before_ms", nullptr},
               {"gap_ms", nullptr},
               {"gap_at_s", nullptr},
               {"p99_back_s", nullptr}};
  if (!recovery.has_value()) return json;
  json["p99_before_ms"] = ToMs(recovery->p99_before_ns);
  json["gap_ms"] = ToMs(recovery->gap_ns);
  json["gap_at_s"] = ToSeconds(recovery->gap_start_ns - started_ns);
  if (recovery->p99_back_ns.has_value()) json["p99_back_s"] = ToSeconds(*recovery->p99_back_ns);
  return json;
}

std::string GapLine(const GapRecorder& recorder, int64_t started_ns) {
  std::string line =
      absl::StrFormat("p50 %.2f, p99.9 %.2f; longest", ToMs(recorder.distribution().Quantile(0.5)),
                      ToMs(recorder.distribution().Quantile(0.999)));
  for (size_t i = 0; i < recorder.longest().size() && i < 3; ++i) {
    const Gap& gap = recorder.longest()[i];
    absl::StrAppendFormat(&line, "%s %.2f at %.1f s%s", i > 0 ? "," : "", ToMs(gap.length_ns),
                          ToSeconds(gap.start_ns - started_ns), gap.open ? " (open)" : "");
  }
  return line;
}

}  // namespace

std::string ToJson(const Result& result) {
  Json out = {{"schema", 1},
              {"flawless", result.Flawless()},
              {"seed", result.options.seed},
              {"started_monotonic_s", ToSeconds(result.started_ns)},
              {"duration_s", ToSeconds(result.ended_ns - result.started_ns)}};
  if (result.client.has_value()) {
    const ClientStatistics& client = *result.client;
    out["protocol"] = result.protocol;
    out["rate_per_s"] = result.options.rate_per_s;
    out["value_bytes"] = result.options.value_bytes;
    out["keys"] = result.options.keys;
    out["writes_sent"] = client.writes;
    out["reads_sent"] = client.reads;
    out["answers"] = client.answers;
    out["unanswered"] = result.unanswered;
    out["refused"] = client.refused;
    out["first_refusal"] = client.first_refusal;
    out["writes_acknowledged"] = result.writes_acknowledged;
    out["verified_values"] = result.verified_values;
    out["unverified_values"] = result.unverified_values;
    out["verified_over_new_connection"] = result.verified_over_new_connection;
    out["lost_writes"] = result.lost_writes;
    out["wrong_values"] = result.wrong_values;
    out["broken_connections"] = result.broken_connections;
    out["connection_error"] = result.connection_error;
    out["latency_ms"] = LatencyToJson(client.latency);
    Json answers;
    AddGaps(client.answer_gaps, result.started_ns, false, &answers);
    out["answer_gaps"] = std::move(answers);
  }
  if (result.heartbeat.has_value()) {
    const HeartbeatListener::Seen& seen = *result.heartbeat;
    Json heartbeat = {
        {"received", seen.beats.received()},     {"lost", seen.beats.lost()},
        {"duplicated", seen.beats.duplicated()}, {"reordered", seen.beats.reordered()},
        {"senders", seen.beats.senders()},       {"foreign", seen.foreign}};
    AddGaps(seen.gaps, result.started_ns, true, &heartbeat);
    out["heartbeat"] = std::move(heartbeat);
  }
  if (!result.options.events_file.empty()) {
    out["events"] = Json::array();
    for (const auto& [event, recovery] : result.events) {
      out["events"].push_back(EventToJson(event, recovery, result.started_ns));
    }
  }
  return out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string ToText(const Result& result) {
  std::string text =
      absl::StrFormat("watched %.1f s: %s\n", ToSeconds(result.ended_ns - result.started_ns),
                      result.Flawless() ? "flawless" : "NOT flawless");
  if (result.client.has_value()) {
    const ClientStatistics& client = *result.client;
    absl::StrAppendFormat(
        &text, "  %s: %u writes, %u reads, %u answers, %u unanswered, %u refused%s%s\n",
        result.protocol, client.writes, client.reads, client.answers, result.unanswered,
        client.refused, client.refused > 0 ? ": " : "", client.first_refusal);
    absl::StrAppendFormat(&text, "  lost writes %u, wrong values %u, broken connections %u%s%s\n",
                          result.lost_writes, result.wrong_values, result.broken_connections,
                          result.connection_error.empty() ? "" : ": ", result.connection_error);
    absl::StrAppendFormat(&text, "  read back %u values%s, %u could not be\n",
                          result.verified_values,
                          result.verified_over_new_connection ? " over a new connection" : "",
                          result.unverified_values);
    const Histogram& latency = client.latency;
    absl::StrAppendFormat(
        &text, "  latency (ms): p50 %.2f, p90 %.2f, p99 %.2f, p99.9 %.2f, max %.2f\n",
        ToMs(latency.Quantile(0.5)), ToMs(latency.Quantile(0.9)), ToMs(latency.Quantile(0.99)),
        ToMs(latency.Quantile(0.999)), ToMs(latency.max_ns()));
    absl::StrAppendFormat(&text, "  gaps between answers (ms): %s\n",
                          GapLine(client.answer_gaps, result.started_ns));
  }
  if (result.heartbeat.has_value()) {
    const BeatLog& beats = result.heartbeat->beats;
    absl::StrAppendFormat(
        &text, "  heartbeats: %u received, %u lost, %u duplicated, %u reordered, %u senders\n",
        beats.received(), beats.lost(), beats.duplicated(), beats.reordered(), beats.senders());
    absl::StrAppendFormat(&text, "  gaps between heartbeats (ms): %s\n",
                          GapLine(result.heartbeat->gaps, result.started_ns));
  }
  for (const auto& [event, recovery] : result.events) {
    absl::StrAppendFormat(&text, "  %s at %.1f s: ", event.name,
                          ToSeconds(event.at_ns - result.started_ns));
    if (!recovery.has_value()) {
      text += "too few replies to tell what of it was felt\n";
    } else if (!recovery->p99_back_ns.has_value()) {
      absl::StrAppendFormat(&text, "p99 was %.2f ms and was not seen back within twice that\n",
                            ToMs(recovery->p99_before_ns));
    } else {
      absl::StrAppendFormat(
          &text, "p99 was %.2f ms; back within twice that %.2f s after the longest gap began\n",
          ToMs(recovery->p99_before_ns), ToSeconds(*recovery->p99_back_ns));
    }
  }
  return text;
}

}  // namespace starling::witness
