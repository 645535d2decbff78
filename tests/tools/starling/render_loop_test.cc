#include "tools/starling/render_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace starling::cli {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

v1::ForecastResponse Forecast() {
  v1::ForecastResponse response;
  response.set_host("node1");
  response.set_step_s(1);
  v1::ForecastOf* redis = response.add_components();
  redis->set_name("redis");
  redis->set_phase("loading\x1b[2J");
  v1::MetricForecast* memory = redis->add_metrics();
  memory->set_metric("memory");
  memory->set_now(512 << 20);
  v1::ForecastAhead* ahead = memory->add_ahead();
  ahead->set_ahead_s(6);
  ahead->set_p50(600 << 20);
  ahead->set_p90(700 << 20);
  ahead->set_p99(NAN);
  ahead->set_coverage(0.913);
  ahead->set_outcomes(100);
  response.mutable_all()->set_name("node1");
  v1::MetricForecast* cpu = response.mutable_all()->add_metrics();
  cpu->set_metric("cpu");
  cpu->set_now(1.5);
  cpu->add_ahead()->set_ahead_s(6);
  return response;
}

TEST(RenderLoop, ShowsForecasts) {
  v1::ForecastResponse response = Forecast();
  const std::string text = ForecastText(response);
  EXPECT_THAT(text,
              testing::AllOf(HasSubstr("redis"), HasSubstr("512.0 MiB"), HasSubstr("600.0 MiB"),
                             HasSubstr("91 %"), HasSubstr("all of node1"), HasSubstr("1.50")));
  EXPECT_THAT(text, Not(HasSubstr("pool")));
  json shown = json::parse(ForecastJson(response));
  EXPECT_EQ(shown["schema"], 1);
  EXPECT_EQ(shown["components"][0]["metrics"][0]["ahead"][0]["p90"], 700 << 20);
  EXPECT_TRUE(shown["components"][0]["metrics"][0]["ahead"][0]["p99"].is_null());
  EXPECT_TRUE(shown["all"]["metrics"][0]["ahead"][0]["coverage"].is_null()) << "nothing is known";
  EXPECT_TRUE(shown["pool"].is_null());
  *response.mutable_pool() = response.all();
  response.add_pool_hosts("node1");
  response.add_silent("node2");
  EXPECT_THAT(ForecastText(response),
              testing::AllOf(HasSubstr("The pool: node1; not heard: node2"), HasSubstr("OFF BY")));
  shown = json::parse(ForecastJson(response));
  EXPECT_EQ(shown["pool"]["silent"], json::array({"node2"}));
}

TEST(RenderLoop, ShowsHintsAndExperts) {
  v1::ForecastResponse response = Forecast();
  EXPECT_THAT(ForecastText(response), Not(HasSubstr("EXPERT")));
  v1::ForecastOf* redis = response.mutable_components(0);
  v1::MetricForecast* memory = redis->mutable_metrics(0);
  v1::ExpertShare* share = memory->mutable_ahead(0)->add_experts();
  share->set_name("median-7");
  share->set_weight(0.25);
  share->set_error(3 << 20);
  v1::ForecastAhead* then = memory->add_ahead();
  then->set_ahead_s(300);
  then->set_p50(8e9);
  then->set_hinted(true);
  v1::HintTrust* trust = redis->add_trust();
  trust->set_resource("memory");
  trust->set_reliability(0.75);
  trust->set_open(1);
  const std::string text = ForecastText(response);
  EXPECT_THAT(text, testing::AllOf(HasSubstr("hint"), HasSubstr("EXPERT"), HasSubstr("median-7"),
                                   HasSubstr("25 %"), HasSubstr("3.0 MiB")));
  const json shown = json::parse(ForecastJson(response))["components"][0];
  EXPECT_EQ(shown["metrics"][0]["ahead"][1]["hinted"], true);
  EXPECT_EQ(shown["metrics"][0]["ahead"][0]["experts"][0]["name"], "median-7");
  EXPECT_EQ(shown["trust"][0]["reliability"], 0.75);
}

TEST(RenderLoop, ShowsLeases) {
  v1::LeasesResponse response;
  response.set_host("node2");
  response.mutable_capacity()->set_memory(1 << 30);
  response.mutable_free()->set_cpu(1500);
  EXPECT_THAT(LeasesText(response), HasSubstr("There are no leases"));
  v1::LeaseInfo* lease = response.add_granted();
  lease->set_id("node1/redis");
  lease->set_component("redis");
  lease->set_holder("node1");
  lease->set_host("node2");
  lease->set_kind("soft");
  lease->set_left_s(90);
  lease->mutable_amount()->set_memory(300 << 20);
  *response.add_held() = *lease;
  response.mutable_held(0)->set_pinned(true);
  (*response.mutable_counts())["granted"] = 3;
  EXPECT_THAT(LeasesText(response),
              testing::AllOf(HasSubstr("1.0 GiB of memory"), HasSubstr("1.50 processors"),
                             HasSubstr("300.0 MiB of memory"), HasSubstr("soft"),
                             HasSubstr("1 min 30 s"), HasSubstr("runs there")));
  const json shown = json::parse(LeasesJson(response));
  EXPECT_EQ(shown["granted"][0]["amount"]["memory"], 300 << 20);
  EXPECT_EQ(shown["granted"][0]["left_s"], 90);
  EXPECT_TRUE(shown["held"][0]["left_s"].is_null());
  EXPECT_EQ(shown["counts"]["granted"], 3);
  EXPECT_EQ(shown["counts"]["expired"], 0);
}

TEST(RenderLoop, SaysWhy) {
  v1::WhyResponse response;
  response.set_mode("observe");
  response.set_refused("policy.toml:3: max_moves: is 100");
  EXPECT_THAT(WhyText("redis", response),
              testing::AllOf(HasSubstr("said and not done"), HasSubstr("policy.toml:3"),
                             HasSubstr("Nothing was decided about redis")));
  v1::DecidedOnce* once = response.add_decisions();
  once->set_time(1.7e9);
  once->set_reason("memory: P90 in 6 s is 84 %, above 80 %");
  v1::DecidedStep* step = once->add_steps();
  step->set_action("migrate");
  step->set_component("redis");
  step->set_host("node2");
  step->set_reason("takes 300.0 MiB away");
  const std::string text = WhyText("redis", response);
  EXPECT_THAT(text, HasSubstr("P90 in 6 s is 84 %, above 80 %  (observed)"));
  EXPECT_THAT(text, HasSubstr("migrate redis to node2: takes 300.0 MiB away"));
  const json shown = json::parse(WhyJson(response));
  EXPECT_EQ(shown["decisions"][0]["steps"][0]["host"], "node2");
  EXPECT_EQ(shown["mode"], "observe");
  response.set_mode("off");
  EXPECT_THAT(WhyText("", response), HasSubstr("loop.enabled is false"));
}

}  // namespace
}  // namespace starling::cli
