#include "runtime/reports/report_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "base/units.h"

namespace starling {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

v1::MigrationReport Moved() {
  v1::MigrationReport report;
  report.set_migration_id("7f3a");
  report.set_component("redis");
  report.set_from("node1");
  report.set_to("node2");
  report.set_outcome("done");
  report.set_epoch(2);
  report.set_began(1717754400.25);
  report.set_provider("verbs");
  report.set_tracker("soft-dirty");
  report.mutable_source()->set_kernel("6.12");
  report.mutable_source()->set_criu("3.17.1");
  *report.mutable_target() = report.source();
  report.set_total_s(2.5);
  report.set_held_s(0.0912);
  report.set_expected_blackout_s(0.08);
  report.set_probe("redis-cli ping");
  report.set_stopped_because("the expected blackout fits");
  report.set_rounds(1);
  v1::PageRound& first = *report.add_page_rounds();
  first.set_number(1);
  first.set_pages(1000);
  first.set_zero_pages(20);
  first.set_wire_bytes(4 * kMiB);
  first.set_seconds(0.5);
  first.set_rate_bytes_per_s(8.0 * kMiB);
  v1::PageRound& last = *report.add_page_rounds();
  last.set_pages(10);
  last.set_criu_pages(3);
  report.set_wire_bytes(5 * kMiB);
  report.mutable_sent()->set_raw(4 * kMiB);
  report.mutable_sent()->set_images(kMiB);
  report.set_zero_pages(20);
  for (const auto& [name, seconds] :
       {std::pair("freeze", 0.002), std::pair("restore: total", 0.04)}) {
    v1::PhaseTime& phase = *report.add_phases();
    phase.set_name(name);
    phase.set_seconds(seconds);
  }
  return report;
}

TEST(MigrationReportJson, HasItsSchema) {
  const std::string text = MigrationReportJson(Moved());
  EXPECT_THAT(text, Not(HasSubstr("\n")));
  const json report = json::parse(text);
  EXPECT_EQ(report["schema"], 1);
  EXPECT_EQ(report["outcome"], "done");
  EXPECT_EQ(report["source"]["criu"], "3.17.1");
  EXPECT_EQ(report["page_rounds"].size(), 2u);
  EXPECT_EQ(report["page_rounds"][0]["number"], 1);
  EXPECT_EQ(report["page_rounds"][0]["zero_pages"], 20);
  EXPECT_TRUE(report["page_rounds"][0]["dirty_bytes_per_s"].is_null());
  EXPECT_TRUE(report["page_rounds"][1]["number"].is_null());
  EXPECT_TRUE(report["page_rounds"][1]["paused_s"].is_null());
  EXPECT_EQ(report["sent"]["images"], kMiB);
  EXPECT_EQ(report["phases"][1]["name"], "restore: total");
  EXPECT_EQ(report["probe"], "redis-cli ping");
  EXPECT_TRUE(report["file"].is_null());
}

TEST(MigrationReportJson, SurvivesWhatIsNotKnownNorUtf8) {
  v1::MigrationReport report;
  report.set_error("caf\xe9");
  report.set_expected_blackout_s(std::numeric_limits<double>::infinity());
  const json parsed = json::parse(MigrationReportJson(report));
  EXPECT_TRUE(parsed["expected_blackout_s"].is_null());
  EXPECT_TRUE(parsed["target"].is_null());
  EXPECT_TRUE(parsed["probe"].is_null());
}

TEST(MigrationReportText, SaysAllOfIt) {
  const std::string text = MigrationReportText(Moved());
  EXPECT_EQ(text.substr(0, text.find('\n')), "redis runs on node2 (epoch 2)");
  for (const char* part :
       {"migration 7f3a, begun 2024-06-07 10:00:00.250 UTC", "node2: Linux 6.12, CRIU 3.17.1",
        "the rounds ended because the expected blackout fits", "probed by redis-cli ping",
        "expected to be held 80.0 ms, and was for 91.2 ms", "\nfrozen  10 ",
        "skeleton images        1.0 MiB",
        "\nfreeze            2.0 ms\n  restore: total  40.0 ms"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  EXPECT_THAT(text, Not(HasSubstr("compressed")));
}

TEST(MigrationReportText, OfACalledOffOneSaysWhy) {
  v1::MigrationReport report;
  report.set_component("redis");
  report.set_from("node1");
  report.set_to("node2");
  report.set_error("the link was cut\n  a fake line");
  const std::string text = MigrationReportText(report);
  EXPECT_EQ(text.substr(0, text.find('\n')),
            "called off, redis runs on node1: the link was cut?  a fake line");
  EXPECT_THAT(text, HasSubstr("node2 not reached"));
}

}  // namespace
}  // namespace starling
