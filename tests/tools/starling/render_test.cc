#include "tools/starling/render.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/units.h"

namespace starling::cli {
namespace {

using nlohmann::json;
using testing::ElementsAreArray;
using testing::HasSubstr;
using testing::Not;

v1::MigrationProgress Round(uint32_t round, uint64_t sent, uint64_t expected) {
  v1::MigrationProgress progress;
  progress.set_schema(1);
  progress.set_migration_id("7f3a");
  progress.set_component("redis");
  progress.set_from("node1");
  progress.set_to("node2");
  progress.set_step(v1::PRECOPY);
  progress.set_round(round);
  progress.set_bytes_sent(sent);
  progress.set_bytes_expected(expected);
  progress.set_rate_bytes_per_s(100.0 * kMiB);
  progress.set_dirty_bytes_per_s(12.0 * kMiB);
  progress.set_expected_blackout_s(0.0853);
  progress.set_elapsed_s(1.25);
  return progress;
}

v1::MigrationProgress Ended(v1::Step step) {
  v1::MigrationProgress progress = Round(3, 120 * kMiB, 0);
  progress.set_step(step);
  v1::MigrationReport& report = *progress.mutable_report();
  report.set_migration_id("7f3a");
  report.set_component("redis");
  report.set_from("node1");
  report.set_to("node2");
  report.set_provider("verbs");
  report.set_tracker("criu-pre-dump");
  report.set_rounds(3);
  report.set_wire_bytes(120 * kMiB);
  report.set_total_s(2.5);
  report.set_held_s(0.0912);
  report.set_epoch(2);
  v1::PhaseTime& phase = *report.add_phases();
  phase.set_name("freeze");
  phase.set_seconds(0.002);
  return progress;
}

std::vector<std::string> KeysOf(const std::string& text) {
  std::vector<std::string> keys;
  const nlohmann::ordered_json parsed = nlohmann::ordered_json::parse(text);
  for (auto it = parsed.begin(); it != parsed.end(); ++it) keys.push_back(it.key());
  return keys;
}

TEST(Names, OfEveryStateAndStep) {
  EXPECT_EQ(StateName(v1::IN_DOUBT), "in-doubt");
  EXPECT_EQ(StateName(v1::RUNNING), "running");
  EXPECT_EQ(StateName(static_cast<v1::ComponentState>(99)), "?");
  EXPECT_EQ(StepName(v1::PRECOPY), "pre-copy");
  EXPECT_EQ(StepName(v1::CALLED_OFF), "called-off");
  EXPECT_EQ(StepName(static_cast<v1::Step>(99)), "?");
}

TEST(ProgressView, CountsWithinTheRound) {
  ProgressView view;
  view.Update(Round(1, 25 * kMiB, 100 * kMiB));
  EXPECT_DOUBLE_EQ(view.RoundDone(), 0.25);
  view.Update(Round(1, 100 * kMiB, 100 * kMiB));
  EXPECT_DOUBLE_EQ(view.RoundDone(), 1);
  view.Update(Round(2, 105 * kMiB, 20 * kMiB));
  EXPECT_DOUBLE_EQ(view.RoundDone(), 0.25);
  view.Update(Round(2, 500 * kMiB, 20 * kMiB));
  EXPECT_DOUBLE_EQ(view.RoundDone(), 1);
  view.Update(Round(2, 500 * kMiB, 0));
  EXPECT_LT(view.RoundDone(), 0);
  // Numbers that go back are a peer's nonsense, not a crash.
  view.Update(Round(2, 1, 20 * kMiB));
  EXPECT_LT(view.RoundDone(), 0);
}

TEST(ProgressView, ALineSaysAllOfIt) {
  ProgressView view;
  view.Update(Round(2, 45 * kMiB, 90 * kMiB));
  EXPECT_EQ(view.Line(),
            "    1.2 s  pre-copy round 2: 45.0 MiB sent, 50 % of the round, 100.0 MiB/s, dirtied "
            "12.0 MiB/s, expected blackout 85.3 ms");
}

TEST(ProgressView, ABarFitsItsTerminal) {
  ProgressView view;
  view.Update(Round(2, 45 * kMiB, 90 * kMiB));
  const std::string bar = view.Bar(110);
  EXPECT_EQ(bar.substr(0, 13), "pre-copy 2   ");
  EXPECT_THAT(bar, HasSubstr("#."));
  EXPECT_THAT(bar, HasSubstr(" 50%"));
  EXPECT_THAT(bar, HasSubstr("blackout ~85.3 ms"));
  for (const int width : {0, 1, 20, 40, 79, 80, 200}) {
    EXPECT_LE(view.Bar(width).size(), static_cast<size_t>(width));
  }
  EXPECT_THAT(view.Bar(40), Not(HasSubstr("[")));
  v1::MigrationProgress frozen = Round(2, 90 * kMiB, 0);
  frozen.set_step(v1::FREEZE);
  view.Update(frozen);
  EXPECT_THAT(view.Bar(110), Not(HasSubstr("[")));
}

TEST(ProgressView, WritesALineWhenThereIsNews) {
  ProgressView view;
  EXPECT_FALSE(view.TakeLine());
  v1::MigrationProgress progress = Round(1, 1, 10);
  view.Update(progress);
  EXPECT_TRUE(view.TakeLine());
  EXPECT_FALSE(view.TakeLine());
  progress.set_elapsed_s(progress.elapsed_s() + 0.5);
  view.Update(progress);
  EXPECT_FALSE(view.TakeLine());
  progress.set_elapsed_s(progress.elapsed_s() + 0.6);
  view.Update(progress);
  EXPECT_TRUE(view.TakeLine());
  progress.set_round(2);
  view.Update(progress);
  EXPECT_TRUE(view.TakeLine());
  progress.set_message("the last round would not pay");
  view.Update(progress);
  EXPECT_TRUE(view.TakeLine());
  progress.set_step(v1::FREEZE);
  view.Update(progress);
  EXPECT_TRUE(view.TakeLine());
}

TEST(Json, OfProgressHasItsSchema) {
  const std::string text = ProgressJson(Round(2, 45, 0));
  EXPECT_THAT(text, Not(HasSubstr("\n")));
  EXPECT_THAT(KeysOf(text),
              ElementsAreArray({"schema", "type", "migration_id", "component", "from", "to", "step",
                                "round", "bytes_sent", "bytes_expected", "rate_bytes_per_s",
                                "dirty_bytes_per_s", "expected_blackout_s", "bytes_away",
                                "elapsed_s", "message", "provider", "encrypted", "insecure"}));
  const json parsed = json::parse(text);
  EXPECT_EQ(parsed["schema"], 1);
  EXPECT_EQ(parsed["type"], "progress");
  EXPECT_EQ(parsed["step"], "pre-copy");
  EXPECT_TRUE(parsed["bytes_expected"].is_null());
}

TEST(Json, OfTheReportHasItsSchema) {
  const std::string text = ReportJson(Ended(v1::DONE), ExitCode::kOk, "");
  EXPECT_THAT(KeysOf(text),
              ElementsAreArray({"schema", "type", "outcome", "exit_code", "error", "migration_id",
                                "component", "from", "to", "report"}));
  const json parsed = json::parse(text);
  EXPECT_EQ(parsed["outcome"], "done");
  EXPECT_EQ(parsed["report"]["provider"], "verbs");
  EXPECT_EQ(parsed["report"]["phases"][0]["name"], "freeze");
  EXPECT_TRUE(parsed["report"]["expected_blackout_s"].is_null());
  EXPECT_EQ(parsed["report"]["wire_bytes"], 120 * kMiB);
  const json nothing =
      json::parse(ReportJson(v1::MigrationProgress(), ExitCode::kNotFound, "no component 'x'"));
  EXPECT_EQ(nothing["outcome"], "refused");
  EXPECT_EQ(nothing["exit_code"], 3);
  EXPECT_EQ(nothing["error"], "no component 'x'");
  EXPECT_TRUE(nothing["report"].is_null());
}

TEST(Json, SurvivesWhatIsNotUtf8NorANumber) {
  v1::Event event;
  event.set_text("caf\xe9");
  event.set_time(std::nan(""));
  EXPECT_TRUE(json::accept(EventJson(event)));
  v1::MigrationProgress progress = Round(1, 1, 1);
  progress.set_rate_bytes_per_s(std::numeric_limits<double>::infinity());
  EXPECT_TRUE(json::accept(ProgressJson(progress)));
  ProgressView view;
  view.Update(progress);
  EXPECT_FALSE(view.Line().empty());
}

TEST(ReportText, SaysWhereItRunsNow) {
  EXPECT_EQ(ReportText(Ended(v1::DONE)),
            "redis runs on node2 (epoch 2)\n"
            "  total 2.5 s, held 91.2 ms, 3 rounds, 120.0 MiB on the wire by verbs, not encrypted, "
            "tracked by criu-pre-dump\n"
            "  freeze 2.0 ms");
  v1::MigrationProgress off = Ended(v1::CALLED_OFF);
  off.mutable_report()->set_error("the link was cut");
  off.mutable_report()->set_file("/r/redis.7f3a.json");
  EXPECT_THAT(ReportText(off), HasSubstr("called off, redis runs on node1: the link was cut"));
  EXPECT_THAT(ReportText(off),
              testing::EndsWith("\n  all of it: starling report 7f3a (/r/redis.7f3a.json)"));
}

TEST(ComponentTable, HasARowForEach) {
  v1::ListResponse list;
  v1::Component& redis = *list.add_components();
  redis.mutable_spec()->set_name("redis");
  redis.mutable_spec()->set_ip("10.77.0.50/24");
  redis.set_state(v1::RUNNING);
  redis.set_epoch(3);
  redis.set_memory_bytes(150 * kMiB);
  redis.set_processes(5);
  redis.set_up_s(75);
  v1::Component& left = *list.add_components();
  left.mutable_spec()->set_name("web");
  left.set_state(v1::LEFT);
  left.set_epoch(2);
  left.set_where("node2\x1b[2J");
  EXPECT_EQ(ComponentTable(list),
            "NAME   STATE    EPOCH  MEMORY     PROCESSES  UP          ADDRESS        DETAIL\n"
            "redis  running  3      150.0 MiB  5          1 min 15 s  10.77.0.50/24\n"
            "web    left     2      -          -          -           -              to "
            "node2?[2J\n");
  const json parsed = json::parse(ComponentsJson(list));
  EXPECT_EQ(parsed["schema"], 1);
  EXPECT_EQ(parsed["components"][0]["memory_bytes"], 150 * kMiB);
  EXPECT_EQ(parsed["components"][1]["state"], "left");
  EXPECT_TRUE(parsed["components"][1]["exit_status"].is_null());
  EXPECT_TRUE(parsed["components"][0]["probe"].is_null());
  list.mutable_components(0)->mutable_spec()->set_probe("redis-cli ping");
  EXPECT_EQ(json::parse(ComponentsJson(list))["components"][0]["probe"], "redis-cli ping");
}

TEST(ComponentTable, HasAColumnForApplicationsWhereThereAreSome) {
  v1::ListResponse list;
  for (const char* name : {"db", "other"}) list.add_components()->mutable_spec()->set_name(name);
  list.mutable_components(0)->mutable_spec()->set_application("shop");
  const std::string table = ComponentTable(list);
  EXPECT_THAT(table, HasSubstr("NAME   APPLICATION  STATE"));
  EXPECT_THAT(table, HasSubstr("db     shop "));
  EXPECT_THAT(table, HasSubstr("other  - "));
  const json components = json::parse(ComponentsJson(list))["components"];
  EXPECT_EQ(components[0]["application"], "shop");
  EXPECT_TRUE(components[1]["application"].is_null());
}

TEST(EventLine, HasTimeAndNumber) {
  v1::Event event;
  event.set_number(12);
  event.set_time(1717754400.25);
  event.set_component("redis");
  event.set_kind("exited");
  event.set_text("status 1\nfake line");
  const std::string line = EventLine(event);
  EXPECT_THAT(line, HasSubstr(".250  #12  redis  exited: status 1?fake line"));
}

}  // namespace
}  // namespace starling::cli
