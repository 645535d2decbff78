#include "runtime/security/roles.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace starling::security {
namespace {

using ::testing::HasSubstr;

TEST(Roles, Patterns) {
  struct Case {
    const char* pattern;
    const char* text;
    bool matches;
  };
  for (const Case& c :
       {Case{"*", "", true}, Case{"*", "db", true}, Case{"db", "db", true},
        Case{"db", "db2", false}, Case{"db?", "db2", true}, Case{"db?", "db", false},
        Case{"*-db", "web-db", true}, Case{"*-db", "web-dbx", false},
        Case{"a*b*c", "axxbyyc", true}, Case{"a*b*c", "axxcyyb", false}, Case{"*a*", "bbabb", true},
        Case{"", "", true}, Case{"", "a", false}, Case{"a**", "a", true},
        Case{"*ab", "aab", true}}) {
    EXPECT_EQ(MatchesPattern(c.pattern, c.text), c.matches) << c.pattern << " " << c.text;
  }
  // Takes no time that grows beyond the product of the two.
  EXPECT_FALSE(MatchesPattern(std::string(32, '*') + "b", std::string(4000, 'a')));
}

TEST(Roles, WithoutRulesPeersMayDoAll) {
  const Roles roles({}, {"node1", "node2"});
  EXPECT_TRUE(roles.MayCall("node1").ok());
  EXPECT_TRUE(roles.MayMove("node2", "db", Direction::kFrom).ok());
  EXPECT_TRUE(roles.MayMove("node2", "db", Direction::kTo).ok());
  const absl::Status stranger = roles.MayMove("node3", "db", Direction::kFrom);
  EXPECT_TRUE(absl::IsPermissionDenied(stranger)) << stranger;
  EXPECT_THAT(std::string(stranger.message()), HasSubstr("[[peer]]"));
  EXPECT_TRUE(absl::IsPermissionDenied(Roles().MayCall("node1")));
  EXPECT_TRUE(absl::IsPermissionDenied(roles.MayCall("")));
}

TEST(Roles, WithRulesOnlyWhatOneAllows) {
  const Roles roles({{"node1", {"web*"}, true, false}, {"node2", {"db", "cache"}, true, true}},
                    {"node1", "node2", "node3"});
  EXPECT_TRUE(roles.MayMove("node1", "web1", Direction::kFrom).ok());
  EXPECT_TRUE(absl::IsPermissionDenied(roles.MayMove("node1", "web1", Direction::kTo)));
  EXPECT_TRUE(absl::IsPermissionDenied(roles.MayMove("node1", "db", Direction::kFrom)));
  EXPECT_TRUE(roles.MayMove("node2", "cache", Direction::kTo).ok());
  EXPECT_TRUE(absl::IsPermissionDenied(roles.MayMove("node2", "web1", Direction::kTo)));
  EXPECT_TRUE(roles.MayCall("node1").ok());
  // Being a peer is not enough any more.
  EXPECT_TRUE(absl::IsPermissionDenied(roles.MayCall("node3")));
}

TEST(Roles, AStarIsEveryHost) {
  const Roles roles({{"*", {"*"}, false, true}}, {});
  EXPECT_TRUE(roles.MayMove("anybody", "db", Direction::kTo).ok());
  EXPECT_TRUE(absl::IsPermissionDenied(roles.MayMove("anybody", "db", Direction::kFrom)));
}

}  // namespace
}  // namespace starling::security
