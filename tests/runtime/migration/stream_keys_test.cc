#include "runtime/migration/stream_keys.h"

#include <gtest/gtest.h>

#include <set>

#include "absl/strings/escaping.h"

namespace starling::migration {
namespace {

std::string Hex(absl::string_view text) { return absl::HexStringToBytes(text); }

// RFC 5869, appendix A, test cases 1 to 3.
TEST(StreamKeys, HkdfIsThatOfTheRfc) {
  const auto one = HkdfSha256(Hex("000102030405060708090a0b0c"), std::string(22, '\x0b'),
                              Hex("f0f1f2f3f4f5f6f7f8f9"), 42);
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(absl::BytesToHexString(*one),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
  std::string salt;
  std::string input;
  std::string info;
  for (int i = 0; i < 80; ++i) {
    input.push_back(static_cast<char>(i));
    salt.push_back(static_cast<char>(0x60 + i));
    info.push_back(static_cast<char>(0xb0 + i));
  }
  const auto two = HkdfSha256(salt, input, info, 82);
  ASSERT_TRUE(two.ok()) << two.status();
  EXPECT_EQ(
      absl::BytesToHexString(*two),
      "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c6"
      "5e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87");
  const auto three = HkdfSha256("", std::string(22, '\x0b'), "", 42);
  ASSERT_TRUE(three.ok()) << three.status();
  EXPECT_EQ(absl::BytesToHexString(*three),
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8");
}

TEST(StreamKeys, AllOfThemDiffer) {
  const std::string source(kKeyShareBytes, 's');
  const std::string target(kKeyShareBytes, 't');
  std::set<transport::CipherKey> keys;
  for (uint32_t connection = 0; connection < 16; ++connection) {
    for (const auto direction : {StreamDirection::kToTarget, StreamDirection::kToSource}) {
      const auto key = DeriveStreamKey(source, target, "7f3a", connection, direction);
      ASSERT_TRUE(key.ok()) << key.status();
      EXPECT_TRUE(keys.insert(*key).second) << connection;
    }
  }
  // Another migration, or the shares the other way round.
  EXPECT_TRUE(
      keys.insert(*DeriveStreamKey(source, target, "7f3b", 0, StreamDirection::kToTarget)).second);
  EXPECT_TRUE(
      keys.insert(*DeriveStreamKey(target, source, "7f3a", 0, StreamDirection::kToTarget)).second);
  // And the same again.
  EXPECT_TRUE(
      keys.contains(*DeriveStreamKey(source, target, "7f3a", 0, StreamDirection::kToTarget)));
}

// Fixed for good: a second implementation compares with it. Made with Python's hmac module from
// the words of docs/wire.md.
TEST(StreamKeys, AKnownKey) {
  std::string source;
  std::string target;
  for (int i = 0; i < 32; ++i) {
    source.push_back(static_cast<char>(i));
    target.push_back(static_cast<char>(0x80 + i));
  }
  const auto key =
      DeriveStreamKey(source, target, "0123456789abcdef", 1, StreamDirection::kToSource);
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_EQ(absl::BytesToHexString(
                absl::string_view(reinterpret_cast<const char*>(key->data()), key->size())),
            "88faa8798056f399275423b2e02ef98bd3af45830eac97940b7317fcc607fb9b");
}

TEST(StreamKeys, SharesOfAnotherLengthAreRefused) {
  const std::string share(kKeyShareBytes, 's');
  for (const std::string& wrong : {std::string(), share.substr(1), share + "s"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(
        DeriveStreamKey(wrong, share, "1", 0, StreamDirection::kToTarget).status()));
    EXPECT_TRUE(absl::IsInvalidArgument(
        DeriveStreamKey(share, wrong, "1", 0, StreamDirection::kToTarget).status()));
  }
}

TEST(StreamKeys, SharesAreFresh) {
  const auto one = NewKeyShare();
  const auto two = NewKeyShare();
  ASSERT_TRUE(one.ok() && two.ok());
  EXPECT_EQ(one->size(), kKeyShareBytes);
  EXPECT_NE(*one, *two);
}

}  // namespace
}  // namespace starling::migration
