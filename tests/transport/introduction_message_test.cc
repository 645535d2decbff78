#include "transport/introduction_message.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace starling::transport {
namespace {

using Bytes = std::array<std::byte, kIntroductionBytes>;

Bytes Encoded(const IntroductionMessage& message) {
  Bytes bytes;
  EncodeIntroduction(message, bytes);
  return bytes;
}

IntroductionMessage Ask() {
  return {IntroductionKind::kAsk,
          {.ip = 0x0a4d0001, .number = 17, .psn = 0x123456, .mtu = 4096, .reads = 16},
          "sixteen of token!"};
}

// A number of 32 bits in its place on the wire.
void Put(Bytes& bytes, size_t at, uint32_t value) {
  for (size_t i = 0; i < 4; ++i) bytes[at + i] = static_cast<std::byte>(value >> (24 - 8 * i));
}

TEST(IntroductionMessageTest, IsAsTheFormatSays) {
  const Bytes bytes = Encoded(Ask());
  EXPECT_EQ(std::memcmp(bytes.data(), "SQP1\0\0\0\1\x0a\x4d\0\1\0\0\0\x11\0\x12\x34\x56", 20), 0);
  EXPECT_EQ(std::memcmp(bytes.data() + 20, "\0\0\x10\0\0\0\0\x10\0\0\xff\xff\0\0\0\x11sixteen", 23),
            0);
  EXPECT_EQ(bytes[83], std::byte{0});
}

TEST(IntroductionMessageTest, ComesBackAsItWas) {
  IntroductionMessage read;
  ASSERT_EQ(DecodeIntroduction(Encoded(Ask()), read), nullptr);
  EXPECT_EQ(read.kind, IntroductionKind::kAsk);
  EXPECT_EQ(read.address.ip, 0x0a4d0001u);
  EXPECT_EQ(read.address.number, 17u);
  EXPECT_EQ(read.address.psn, 0x123456u);
  EXPECT_EQ(read.address.mtu, 4096u);
  EXPECT_EQ(read.address.reads, 16);
  EXPECT_EQ(read.address.partition, 0xffff);
  EXPECT_EQ(read.private_data, "sixteen of token!");
  // What has no address says nothing of one.
  const Bytes ready = Encoded({IntroductionKind::kReady, {}, ""});
  ASSERT_EQ(DecodeIntroduction(ready, read), nullptr);
  EXPECT_EQ(read.kind, IntroductionKind::kReady);
  EXPECT_EQ(std::count(ready.begin() + 8, ready.end(), std::byte{0}), 76);
}

TEST(IntroductionMessageTest, RefusesWhatCannotBe) {
  struct {
    size_t at;
    uint32_t value;
    const char* wrong;
  } const cases[] = {
      {0, 0x53515032, "does not introduce"},
      {4, 0, "unknown kind"},
      {4, 5, "unknown kind"},
      {12, 0x1000000, "24 bits"},
      {16, 0x1000000, "24 bits"},
      {20, 0, "path MTU"},
      {20, 128, "path MTU"},
      {20, 1000, "path MTU"},
      {20, 8192, "path MTU"},
      {24, 256, "count of reads"},
      {28, 0x10000, "partition"},
      {32, 49, "private data"},
      {32, 3, "behind its private data"},
      {80, 1, "behind its private data"},
      // What has an address, as the kinds that have none.
      {4, 3, "private data"},
  };
  for (const auto& one : cases) {
    SCOPED_TRACE(testing::Message() << one.value << " at " << one.at);
    Bytes bytes = Encoded(Ask());
    Put(bytes, one.at, one.value);
    IntroductionMessage read;
    const char* const wrong = DecodeIntroduction(bytes, read);
    ASSERT_NE(wrong, nullptr);
    EXPECT_NE(std::strstr(wrong, one.wrong), nullptr) << wrong;
  }
  Bytes ready = Encoded({IntroductionKind::kReady, {}, ""});
  Put(ready, 28, 0xffff);
  IntroductionMessage read;
  EXPECT_NE(DecodeIntroduction(ready, read), nullptr);
}

}  // namespace
}  // namespace starling::transport
