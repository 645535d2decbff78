#include "runtime/migration/lane_grants.h"

#include <gtest/gtest.h>

namespace starling::migration {
namespace {

std::string Bytes(std::initializer_list<int> bytes) {
  return std::string(bytes.begin(), bytes.end());
}

TEST(LaneGrantsTest, RequestIsAsTheFormatSays) {
  const std::string bytes = EncodeGrantRequest({.ring = true, .first_chunk = 3, .chunks = 256});
  EXPECT_EQ(bytes, Bytes({'S', 'T', 'R', '1', 1, 0, 0, 0, 3, 0, 0, 0, 0, 1, 0, 0}));
  EXPECT_TRUE(IsGrantRequest(bytes));
  EXPECT_FALSE(IsGrants(bytes));
  const auto read = DecodeGrantRequest(bytes);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(read->ring);
  EXPECT_EQ(read->first_chunk, 3u);
  EXPECT_EQ(read->chunks, 256u);
}

TEST(LaneGrantsTest, GrantsAreAsTheFormatSays) {
  const std::string bytes =
      EncodeGrants({.first_chunk = 2, .ring = {{0x1000, 7}}, .chunks = {{0x20000000, 0x1234}}});
  EXPECT_EQ(bytes, Bytes({'S', 'T',  'G', '1',  1, 0, 0, 0, 2,    0,    0, 0, 1, 0, 0, 0,  //
                          0,   0x10, 0,   0,    0, 0, 0, 0, 7,    0,    0, 0, 0, 0, 0, 0,  //
                          0,   0,    0,   0x20, 0, 0, 0, 0, 0x34, 0x12, 0, 0, 0, 0, 0, 0}));
  EXPECT_TRUE(IsGrants(bytes));
  const auto read = DecodeGrants(bytes);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->first_chunk, 2u);
  EXPECT_EQ(read->ring, (std::vector<Granted>{{0x1000, 7}}));
  EXPECT_EQ(read->chunks, (std::vector<Granted>{{0x20000000, 0x1234}}));
}

TEST(LaneGrantsTest, RefusesWhatCannotBe) {
  const std::string request = EncodeGrantRequest({.ring = false, .first_chunk = 0, .chunks = 1});
  const std::string grants = EncodeGrants({.first_chunk = 0, .ring = {}, .chunks = {{1, 2}}});
  const auto with = [](std::string bytes, size_t at, int value) {
    bytes[at] = static_cast<char>(value);
    return bytes;
  };
  for (const std::string& bytes :
       {request.substr(0, 15), request + '\0', with(request, 0, 'X'), with(request, 4, 2),
        with(request, 13, 2), with(with(with(with(request, 8, 255), 9, 255), 10, 255), 11, 255)}) {
    EXPECT_TRUE(absl::IsDataLoss(DecodeGrantRequest(bytes).status()));
  }
  for (const std::string& bytes : {grants.substr(0, 31), grants + '\0', grants.substr(0, 12),
                                   with(grants, 0, 'X'), with(grants, 4, 2), with(grants, 4, 1),
                                   with(grants, 12, 0), with(grants, 13, 2), with(grants, 28, 1)}) {
    EXPECT_TRUE(absl::IsDataLoss(DecodeGrants(bytes).status()));
  }
}

}  // namespace
}  // namespace starling::migration
