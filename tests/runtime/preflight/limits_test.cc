#include "runtime/preflight/limits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"

namespace starling::preflight {
namespace {

struct Section {
  std::string says;
  std::string mend;
  std::string why;
};

// The page as a person reads it: "### `code`" and the three points below it.
std::vector<std::pair<std::string, Section>> ReadPage() {
  const auto page = ReadFile(STARLING_LIMITS_PAGE);
  EXPECT_TRUE(page.ok()) << page.status();
  std::vector<std::pair<std::string, Section>> sections;
  for (absl::string_view line : absl::StrSplit(page.value_or(""), '\n')) {
    if (absl::ConsumePrefix(&line, "### `")) {
      sections.emplace_back(std::string(absl::StripSuffix(line, "`")), Section());
    } else if (absl::ConsumePrefix(&line, "- Says: ")) {
      sections.back().second.says = std::string(line);
    } else if (absl::ConsumePrefix(&line, "- Mend: ")) {
      sections.back().second.mend = std::string(line);
    } else if (absl::ConsumePrefix(&line, "- Why: ")) {
      sections.back().second.why = std::string(line);
    }
  }
  return sections;
}

TEST(LimitsTest, ThePageHasTheSameWordsInTheSameOrder) {
  const auto page = ReadPage();
  ASSERT_EQ(page.size(), Limits().size());
  for (size_t i = 0; i < page.size(); ++i) {
    const LimitText& limit = Limits()[i];
    SCOPED_TRACE(limit.code);
    EXPECT_EQ(page[i].first, limit.code);
    EXPECT_EQ(page[i].second.says, limit.reason);
    EXPECT_EQ(page[i].second.mend, limit.mend);
    EXPECT_GT(page[i].second.why.size(), 20u) << "the page says why";
  }
}

TEST(LimitsTest, EveryKindHasOneRowAndOneCode) {
  std::set<std::string> codes;
  std::set<Limit> limits;
  for (const LimitText& limit : Limits()) {
    EXPECT_TRUE(codes.insert(std::string(limit.code)).second) << limit.code;
    EXPECT_TRUE(limits.insert(limit.limit).second) << limit.code;
    for (char c : limit.code) EXPECT_TRUE(absl::ascii_islower(c) || c == '-') << limit.code;
    EXPECT_TRUE(absl::EndsWith(limit.reason, ".")) << limit.code;
    EXPECT_TRUE(absl::EndsWith(limit.mend, ".")) << limit.code;
  }
  EXPECT_EQ(limits.size(), static_cast<size_t>(Limit::kCannotLook) + 1) << "kCannotLook is last";
}

TEST(LimitsTest, FillsPlaceholders) {
  const v1::Obstacle obstacle =
      MakeObstacle(Limit::kOpenForWriting, "/var/lib/x", {{"pid", "17"}, {"name", "redis-server"}});
  EXPECT_EQ(obstacle.code(), "open-for-writing");
  EXPECT_EQ(obstacle.thing(), "/var/lib/x");
  EXPECT_THAT(obstacle.reason(),
              testing::StartsWith("Process 17 (redis-server) has /var/lib/x open for writing"));
}

TEST(LimitsTest, TextThatLooksLikeAPlaceholderIsKept) {
  const v1::Obstacle obstacle =
      MakeObstacle(Limit::kOpenForWriting, "/tmp/{name}", {{"pid", "1"}, {"name", "{thing}{"}});
  EXPECT_THAT(obstacle.reason(), testing::StartsWith("Process 1 ({thing}{) has /tmp/{name} open"));
}

}  // namespace
}  // namespace starling::preflight
