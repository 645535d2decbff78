#include "transport/roce/arp.h"

#include <gtest/gtest.h>

namespace starling::transport::roce {
namespace {

constexpr MacAddress kMacA = {2, 0, 0, 0, 0, 1};
constexpr MacAddress kMacB = {2, 0, 0, 0, 0, 2};
constexpr uint32_t kIpA = 0x0a000001;
constexpr uint32_t kIpB = 0x0a000002;

TEST(RoceArp, QuestionAndAnswer) {
  ArpTable a(kMacA, kIpA), b(kMacB, kIpB);
  EXPECT_FALSE(a.Find(kIpB).has_value());
  const ArpFrame question = a.Ask(kIpB);
  EXPECT_EQ(question[0], std::byte{0xff});
  const auto answer = b.Take(question);
  ASSERT_TRUE(answer.has_value());
  EXPECT_FALSE(a.Take(*answer).has_value());
  EXPECT_EQ(a.Find(kIpB), kMacB);
  EXPECT_FALSE(b.Find(kIpA).has_value()) << "b never asked";
}

TEST(RoceArp, QuestionsForOthersAreNotAnswered) {
  ArpTable a(kMacA, kIpA), b(kMacB, kIpB);
  EXPECT_FALSE(b.Take(a.Ask(0x0a000003)).has_value());
}

TEST(RoceArp, OwnFramesAndNoiseAreIgnored) {
  ArpTable a(kMacA, kIpA), b(kMacB, kIpB);
  ArpFrame question = b.Ask(kIpA);
  EXPECT_FALSE(b.Take(question).has_value());
  for (size_t bytes = 0; bytes < kArpBytes; ++bytes)
    EXPECT_FALSE(a.Take(std::span<const std::byte>(question).first(bytes)).has_value());
  for (const size_t at : {12u, 13u, 14u, 15u, 16u, 17u, 18u, 19u}) {
    ArpFrame other = question;
    other[at] ^= std::byte{0x40};
    EXPECT_FALSE(a.Take(other).has_value()) << at;
  }
  EXPECT_TRUE(a.Take(question).has_value());
}

TEST(RoceArp, StrangersAreNotRemembered) {
  ArpTable a(kMacA, kIpA), b(kMacB, kIpB);
  EXPECT_TRUE(a.Take(b.Ask(kIpA)).has_value());
  EXPECT_FALSE(a.Find(kIpB).has_value());
}

}  // namespace
}  // namespace starling::transport::roce
