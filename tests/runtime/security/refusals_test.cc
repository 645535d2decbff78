#include "runtime/security/refusals.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace starling::security {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

TEST(Refusals, EachCaseIsToldOnceAndAllAreCounted) {
  std::vector<std::string> told;
  Refusals refusals([&](absl::string_view kind, absl::string_view text) {
    told.push_back(std::string(kind) + "/" + std::string(text));
  });
  for (int i = 0; i < 5; ++i) refusals.Add("role", "node3 Reserve");
  refusals.Add("role", "node4 Reserve");
  refusals.Add("certificate", "expired");
  EXPECT_THAT(told, ElementsAre("role/node3 Reserve", "role/node4 Reserve", "certificate/expired"));
  EXPECT_THAT(refusals.counts(), UnorderedElementsAre(Pair("role", 6), Pair("certificate", 1)));
}

TEST(Refusals, WhoInventsNewCasesDoesNotFillTheLog) {
  int told = 0;
  Refusals refusals([&](absl::string_view, absl::string_view) { ++told; });
  for (int i = 0; i < 10000; ++i) refusals.Add("role", std::to_string(i));
  EXPECT_LE(told, 256);
  EXPECT_EQ(refusals.counts()["role"], 10000u);
}

}  // namespace
}  // namespace starling::security
