#include "runtime/migration/batch.h"

#include <gtest/gtest.h>

#include <random>

namespace starling::migration {
namespace {

using checkpoint::AddressSpace;

Batch SomeBatch() {
  Batch batch;
  batch.sequence = 7;
  batch.answer = true;
  batch.encoding = Encoding::kInPlace;
  batch.ring_slot = 3;
  batch.packed_bytes = 1234;
  batch.tag[15] = 7;
  BatchRun data;
  data.run = {{AddressSpace::Kind::kProcess, 1001}, 0x7f0000001000, 12};
  data.slot = 99;
  data.hash = 0x0123456789abcdef;
  BatchRun zero;
  zero.run = {{AddressSpace::Kind::kSharedMemory, 3}, 0, 1};
  zero.content = BatchRun::Content::kZero;
  BatchRun copy;
  copy.run = {{AddressSpace::Kind::kProcess, 1001}, 0x7f0000101000, 2};
  copy.content = BatchRun::Content::kCopy;
  copy.slot = 111;
  copy.from = 101;
  batch.runs = {data, zero, copy};
  return batch;
}

TEST(Batch, ComesBackAsItWas) {
  const Batch batch = SomeBatch();
  const auto decoded = DecodeBatch(EncodeBatch(batch));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->sequence, batch.sequence);
  EXPECT_EQ(decoded->answer, batch.answer);
  EXPECT_EQ(decoded->encoding, batch.encoding);
  EXPECT_EQ(decoded->ring_slot, batch.ring_slot);
  EXPECT_EQ(decoded->packed_bytes, batch.packed_bytes);
  EXPECT_EQ(decoded->tag, batch.tag);
  EXPECT_EQ(decoded->runs, batch.runs);
}

TEST(Batch, OfTheGreatestSizeFitsAMessage) {
  Batch batch = SomeBatch();
  batch.runs.resize(kMaxBatchRuns, batch.runs[0]);
  EXPECT_TRUE(DecodeBatch(EncodeBatch(batch)).ok());
  EXPECT_LE(EncodeBatch(batch).size(), 8000u);
  batch.runs.push_back(batch.runs[0]);
  EXPECT_FALSE(DecodeBatch(EncodeBatch(batch)).ok());
}

TEST(Batch, RefusesEveryTruncation) {
  const std::string bytes = EncodeBatch(SomeBatch());
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(DecodeBatch(absl::string_view(bytes).substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(DecodeBatch(bytes + "x").ok());
}

TEST(Batch, RefusesImpossibleRuns) {
  const auto with = [](auto change) {
    Batch batch = SomeBatch();
    change(batch.runs[0]);
    return DecodeBatch(EncodeBatch(batch)).ok();
  };
  EXPECT_TRUE(with([](BatchRun&) {}));
  EXPECT_FALSE(with([](BatchRun& run) { run.run.pages = 0; }));
  EXPECT_FALSE(with([](BatchRun& run) { run.run.pages = 1u << 21; }));
  EXPECT_FALSE(with([](BatchRun& run) { run.run.address += 1; }));
  EXPECT_FALSE(with([](BatchRun& run) { run.run.address = ~uint64_t{0xfff}; }));
  EXPECT_FALSE(with([](BatchRun& run) { run.slot = ~uint64_t{0}; }));
  EXPECT_FALSE(
      with([](BatchRun& run) { run.run.space.kind = static_cast<AddressSpace::Kind>(9); }));
}

TEST(Batch, TakesAnyBytesWithoutHarm) {
  std::mt19937_64 random(42);
  const std::string good = EncodeBatch(SomeBatch());
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = good;
    for (int flips = 1 + static_cast<int>(random() % 4); flips > 0; --flips) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    const auto decoded = DecodeBatch(bytes);
    // What is taken is something that could have been sent.
    if (decoded.ok()) {
      EXPECT_EQ(EncodeBatch(*decoded), bytes);
    }
  }
}

TEST(Batch, RefusesCopiesOfWhatIsNotInPlace) {
  Batch batch = SomeBatch();
  batch.encoding = Encoding::kRingLz4;
  EXPECT_FALSE(DecodeBatch(EncodeBatch(batch)).ok());
  batch.runs.pop_back();
  EXPECT_TRUE(DecodeBatch(EncodeBatch(batch)).ok());
  batch.encoding = static_cast<Encoding>(3);
  EXPECT_FALSE(DecodeBatch(EncodeBatch(batch)).ok());
}

TEST(Answer, ComesBackAsItWasAndIsCutToItsLimit) {
  Answer answer;
  answer.sequence = 3;
  answer.refused = {1, 3};
  answer.error = std::string(2000, 'e');
  const auto decoded = DecodeAnswer(EncodeAnswer(answer));
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->sequence, 3u);
  EXPECT_EQ(decoded->refused, answer.refused);
  EXPECT_EQ(decoded->error, std::string(512, 'e'));
  EXPECT_FALSE(DecodeAnswer("").ok());
  EXPECT_FALSE(DecodeAnswer(EncodeBatch(SomeBatch())).ok());
  answer.refused.resize(kMaxRefused + 1);
  EXPECT_FALSE(DecodeAnswer(EncodeAnswer(answer)).ok());
}

}  // namespace
}  // namespace starling::migration
