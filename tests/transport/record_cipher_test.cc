#include "transport/record_cipher.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

namespace starling::transport {
namespace {

constexpr auto kMessage = RecordCipher::Kind::kMessage;
constexpr auto kPages = RecordCipher::Kind::kPages;

struct Record {
  std::vector<std::byte> bytes;
  CipherTag tag{};
};

class RecordCipherTest : public testing::Test {
 protected:
  RecordCipherTest() {
    CipherKey key;
    key.fill(7);
    here_ = RecordCipher::Create(key).value();
    there_ = RecordCipher::Create(key).value();
    key[31] = 8;
    stranger_ = RecordCipher::Create(key).value();
  }
  Record Seal(RecordCipher::Kind kind, uint64_t number, const std::string& text) {
    Record record;
    record.bytes.resize(text.size());
    EXPECT_TRUE(
        here_->Seal(kind, number, std::as_bytes(std::span(text)), record.bytes, record.tag).ok());
    return record;
  }
  static absl::StatusOr<std::string> Open(RecordCipher& cipher, RecordCipher::Kind kind,
                                          uint64_t number, const Record& record) {
    std::string text(record.bytes.size(), '\0');
    const absl::Status status = cipher.Open(kind, number, record.bytes,
                                            std::as_writable_bytes(std::span(text)), record.tag);
    if (!status.ok()) return status;
    return text;
  }
  std::unique_ptr<RecordCipher> here_, there_, stranger_;
};

TEST_F(RecordCipherTest, ComesBack) {
  const Record record = Seal(kMessage, 1, "a page");
  EXPECT_NE(std::memcmp(record.bytes.data(), "a page", 6), 0);
  EXPECT_EQ(Open(*there_, kMessage, 1, record).value(), "a page");
  EXPECT_EQ(Open(*there_, kPages, 1, Seal(kPages, 1, "other")).value(), "other");
}

TEST_F(RecordCipherTest, RefusesWhatWasAlteredReplayedOrIsAnothers) {
  const Record record = Seal(kMessage, 5, "a page");
  EXPECT_EQ(Open(*there_, kMessage, 6, record).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Open(*there_, kPages, 5, record).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Open(*stranger_, kMessage, 5, record).status().code(), absl::StatusCode::kDataLoss);
  for (size_t bit = 0; bit < record.bytes.size() * 8; ++bit) {
    Record altered = record;
    altered.bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_FALSE(Open(*there_, kMessage, 5, altered).ok()) << bit;
  }
  Record altered = record;
  altered.tag[15] ^= 1;
  EXPECT_FALSE(Open(*there_, kMessage, 5, altered).ok());
  EXPECT_TRUE(Open(*there_, kMessage, 5, record).ok());
}

TEST_F(RecordCipherTest, NeverSealsANumberTwice) {
  (void)Seal(kMessage, 5, "x");
  Record again;
  again.bytes.resize(1);
  const std::string text = "y";
  EXPECT_FALSE(
      here_->Seal(kMessage, 5, std::as_bytes(std::span(text)), again.bytes, again.tag).ok());
  EXPECT_FALSE(
      here_->Seal(kMessage, 4, std::as_bytes(std::span(text)), again.bytes, again.tag).ok());
}

TEST_F(RecordCipherTest, ChangesItsKeyOnBothSides) {
  const uint64_t border = uint64_t{1} << 20;
  EXPECT_EQ(Open(*there_, kMessage, border - 1, Seal(kMessage, border - 1, "old")).value(), "old");
  const Record record = Seal(kMessage, border, "new");
  EXPECT_EQ(Open(*there_, kMessage, border, record).value(), "new");
  // One that did not follow has another key.
  EXPECT_FALSE(Open(*there_, kMessage, border - 1, record).ok());
}

}  // namespace
}  // namespace starling::transport
