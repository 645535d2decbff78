#include "runtime/decisions/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "runtime/decisions/hours.h"
#include "runtime/decisions/policy_file.h"
#include "runtime/decisions/prices.h"
#include "tests/runtime/scratch.h"

namespace starling::decisions {
namespace {

using testing::HasSubstr;

TEST(PolicyTest, ThePackagedOneIsTheDefaultAndHasEveryKey) {
  const std::string path = absl::StrCat(STARLING_SOURCE_DIR, "/packaging/policy.toml");
  const auto policy = LoadPolicy(path);
  ASSERT_TRUE(policy.ok()) << policy.status();
  Policy shown = *policy;
  shown.prices.clear();  // one as an example
  EXPECT_EQ(shown, Policy());
  const auto text = ReadFile(path);
  ASSERT_TRUE(text.ok());
  const auto docs = ReadFile(absl::StrCat(STARLING_SOURCE_DIR, "/docs/policy.md"));
  ASSERT_TRUE(docs.ok());
  for (const std::string& key : PolicyKeys()) {
    const std::string name = key.substr(key.find('.') == std::string::npos ? 0 : key.find('.') + 1);
    EXPECT_THAT(*text, HasSubstr(absl::StrCat(name, " = "))) << key;
    EXPECT_THAT(*docs, HasSubstr(absl::StrCat("`", key, "`"))) << key;
  }
}

TEST(PolicyTest, IsRead) {
  const auto policy = ParsePolicy(R"(
mode = "act"
max_moves = 3
move_percent = 75
prefer = ["node2"]
quiet = ["sat,sun 00:00-24:00"]
price_feed = "/var/lib/prices.csv"
[allow]
page_out = false
[reserve]
lease_s = 60
[[rule]]
resource = "memory"
percent = 99
above = 0.75
within_s = 600
[[price]]
host = "node2"
hours = ["22:00-06:00"]
per_hour = 0.2
)",
                                  "p.toml");
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_TRUE(policy->act);
  EXPECT_EQ(policy->max_moves, 3);
  EXPECT_EQ(policy->move_percent, 75);
  EXPECT_FALSE(policy->allow.page_out);
  EXPECT_EQ(policy->reserve.lease_s, 60);
  ASSERT_EQ(policy->rules.size(), 1u);
  EXPECT_EQ(policy->rules[0], (Rule{reservations::Resource::kMemory, 99, 0.75, 600}));
  EXPECT_TRUE(policy->Quiet(5 * 1440));
  EXPECT_TRUE(policy->Quiet(7 * 1440 - 1));
  EXPECT_FALSE(policy->Quiet(0));
}

TEST(PolicyTest, ABadOneIsRefusedWithLineAndKey) {
  const struct {
    const char* text;
    const char* error;
  } kCases[] = {
      {"mode = 1", "p.toml:1: mode: is an integer; allowed is \"observe\" or \"act\""},
      {"\nmode = \"maybe\"", "p.toml:2: mode: is \"maybe\""},
      {"mood = 1", "p.toml:1: mood: is not a key; allowed are mode"},
      {"[allow]\nfly = true", "p.toml:2: allow.fly: is not a key; allowed are page_out"},
      {"[allow]\nmigrate = 1", "p.toml:2: allow.migrate: is an integer; allowed is true or false"},
      {"allow = 3", "p.toml:1: allow: is an integer; allowed is a table: [allow]"},
      {"[costs]\ngib_moved = nan", "p.toml:2: costs.gib_moved: is nan; allowed is a number"},
      {"[reserve]\nlease_s = 1", "p.toml:2: reserve.lease_s: is 1; allowed is a number from 5"},
      {"rule = 1", "p.toml:1: rule: is an integer; allowed is [[rule]] tables"},
      {"[[rule]]\nresource = \"cpu\"", "p.toml:1: rule.above: is missing"},
      {"[[rule]]\nresource = \"coffee\"", "p.toml:2: rule.resource: is \"coffee\""},
      {"[[rule]]\nresource = \"cpu\"\nabove = 0.5\npercent = 42", "p.toml:4: rule.percent: is 42"},
      {"move_percent = 0", "p.toml:1: move_percent: is 0; allowed is 50, 75, 90, 95 or 99"},
      {"quiet = [\"late\"]", "p.toml:1: quiet: \"late\" are no hours; allowed is a list of hours"},
      {"quiet = \"22:00-06:00\"", "p.toml:1: quiet: is a string"},
      {"avoid = [3]", "p.toml:1: avoid: is an integer; allowed is a list of host names"},
      {"price_feed = \"x\"", "p.toml:1: price_feed: "},
      {"[[price]]\nhost = \"a b\"\nper_hour = 1", "p.toml:2: price.host: "},
      {"[idle]\nrest = \"away\"",
       "p.toml:2: idle.rest: is \"away\"; allowed is \"none\", \"shrink\""},
      {"[idle]\nmove_at = 2", "p.toml:2: idle.move_at: is 2; allowed is a number from 0"},
      {"[[price]]\nper_hour = -1", "p.toml:2: price.per_hour: is -1"},
      {"= 1", "p.toml:1: not TOML: "},
  };
  for (const auto& one : kCases) {
    const auto policy = ParsePolicy(one.text, "p.toml");
    ASSERT_FALSE(policy.ok()) << one.text;
    EXPECT_THAT(std::string(policy.status().message()), HasSubstr(one.error)) << one.text;
  }
}

TEST(HoursTest, AreMinutesOfTheWeek) {
  std::vector<Hours> hours;
  ASSERT_TRUE(ParseHours("mon-fri 08:00-18:30", hours).ok());
  ASSERT_EQ(hours.size(), 5u);
  EXPECT_EQ(hours[4], (Hours{4 * 1440 + 480, 4 * 1440 + 1110}));
  hours.clear();
  ASSERT_TRUE(ParseHours("sun 22:00-06:00", hours).ok());
  EXPECT_TRUE(hours[0].Contains(6 * 1440 + 1439));
  EXPECT_TRUE(hours[0].Contains(0));
  EXPECT_FALSE(hours[0].Contains(360));
  hours.clear();
  ASSERT_TRUE(ParseHours("sat-mon 00:00-24:00", hours).ok());
  EXPECT_EQ(hours.size(), 3u);
  EXPECT_TRUE(hours[2].Contains(7 * 1440 - 1));
  for (const char* wrong : {"", "8-9", "08:00", "08:00-08:00", "25:00-26:00", "08:60-09:00",
                            "mon 08:00-09:00 x", "mun 08:00-09:00", "24:00-01:00", "a b c"}) {
    EXPECT_FALSE(ParseHours(wrong, hours).ok()) << wrong;
  }
}

TEST(PriceFeedTest, TellsTheLastPrice) {
  const auto feed = PriceFeed::Parse(
      "timestamp_utc,price_usd_h,host\n1970-01-01T00:01:00.000Z,2.5,a\n"
      "1970-01-01T00:00:10Z,1.5,a\n1970-01-01T00:00:00Z,9,\n",
      "f.csv");
  ASSERT_TRUE(feed.ok()) << feed.status();
  EXPECT_EQ(feed->At(5, "a"), std::nullopt);
  EXPECT_EQ(feed->At(10, "a"), 1.5);
  EXPECT_EQ(feed->At(61, "a"), 2.5);
  EXPECT_EQ(feed->At(61, "b"), 9);
  Policy policy;
  policy.prices = {{"a", {{0, 60}}, 7}, {"", {}, 3}};
  EXPECT_EQ(PriceOf(policy, *feed, "a", 5, 10), 7);
  EXPECT_EQ(PriceOf(policy, *feed, "a", 5, 100), 3);
  EXPECT_EQ(PriceOf(policy, *feed, "a", 100, 10), 2.5);
  EXPECT_EQ(PriceOf(Policy(), PriceFeed(), "a", 0, 0), 0);
}

TEST(PriceFeedTest, RefusesNonsenseWithItsLine) {
  for (const auto& [text, error] : std::vector<std::pair<std::string, std::string>>{
           {"", "f.csv:1: is empty"},
           {"a,b\n", "f.csv:1: the first line"},
           {"timestamp_utc,price_usd_h\nnow,1\n", "f.csv:2: 'now' is no time"},
           {"timestamp_utc,price_usd_h\n\n2016-03-13T08:26:49Z,x\n", "f.csv:3: 'x' is no price"},
           {"timestamp_utc,price_usd_h\n2016-03-13T08:26:49Z,-1\n", "f.csv:2: '-1' is no price"},
           {"timestamp_utc,price_usd_h\n2016-03-13T08:26:49Z\n", "f.csv:2: '' is no price"}}) {
    const auto feed = PriceFeed::Parse(text, "f.csv");
    ASSERT_FALSE(feed.ok()) << text;
    EXPECT_THAT(std::string(feed.status().message()), HasSubstr(error));
  }
}

TEST(PolicyFileTest, IsReadAgainAndABadOneLeavesTheOldInForce) {
  Scratch scratch(InMemory());
  const std::string path = scratch / "policy.toml", prices = scratch / "prices.csv";
  PolicyFile file(path);
  EXPECT_THAT(std::string(file.Refresh().message()), HasSubstr("the policy in force stays"));
  EXPECT_EQ(file.policy(), Policy());
  ASSERT_TRUE(
      WriteFileAtomic(path, absl::StrCat("max_moves = 7\nprice_feed = \"", prices, "\"\n")).ok());
  EXPECT_THAT(std::string(file.Refresh().message()), HasSubstr("the prices in force stay"));
  EXPECT_EQ(file.policy().max_moves, 7);
  ASSERT_TRUE(WriteFileAtomic(prices, "timestamp_utc,price_usd_h\n1970-01-01T00:00:00Z,4\n").ok());
  EXPECT_TRUE(file.Refresh().ok());
  EXPECT_EQ(file.prices().At(1, "x"), 4);
  ASSERT_TRUE(WriteFileAtomic(path, "max_moves = 1000\n").ok());
  EXPECT_THAT(std::string(file.Refresh().message()),
              HasSubstr("policy.toml:1: max_moves: is 1000"));
  EXPECT_EQ(file.policy().max_moves, 7);
  EXPECT_TRUE(file.Refresh().ok()) << "told once";
  ASSERT_TRUE(WriteFileAtomic(path, "max_moves = 2\n").ok());
  EXPECT_TRUE(file.Refresh().ok());
  EXPECT_EQ(file.policy().max_moves, 2);
  EXPECT_EQ(file.prices().At(1, "x"), std::nullopt);
}

}  // namespace
}  // namespace starling::decisions
