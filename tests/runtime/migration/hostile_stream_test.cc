// What a target makes of data connections that say what they should not. The messages are made by
// hand, as docs/wire.md gives them.

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "runtime/migration/batch.h"
#include "runtime/migration/lane_grants.h"
#include "runtime/migration/lane_receiver.h"
#include "transport/fake_fabric.h"
#include "transport/record_cipher.h"

namespace starling::migration {
namespace {

using checkpoint::AddressSpace;
using checkpoint::kPageSize;
using transport::RecordCipher;

constexpr AddressSpace kSpace = {AddressSpace::Kind::kProcess, 1000};
constexpr uint64_t kSlotBytes = 64 * 1024;

Deadline Soon() { return Deadline::After(std::chrono::seconds(20)); }

// With hashes beside the tags (false), or with the tags alone (true).
class HostileStreamTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    network_ = std::make_unique<transport::FakeNetwork>(transport::FakeFaults());
    here_ = network_->Open("10.0.0.1");
    there_ = network_->Open("10.0.0.2");
    LaneReceiver::Options options;
    options.arena_bytes = 4 << 20;
    options.max_arena_bytes = 1 << 30;
    options.ring = {4, kSlotBytes};
    options.by_tag = GetParam();
    ChannelKeys& keys = options.keys.emplace_back();
    keys.to_target.fill(1);
    keys.to_source.fill(2);
    cipher_ = *RecordCipher::Create(keys.to_target);
    answers_ = *RecordCipher::Create(keys.to_source);
    options.refused = [this](absl::string_view) { ++refused_; };
    receiver_ = *LaneReceiver::Create(*there_, std::move(options));
    auto listener = *there_->Listen("10.0.0.2", 7401);
    std::thread acceptor([&] {
      auto incoming = listener->Next(Soon());
      EXPECT_TRUE(receiver_->Accept(0, *std::move(incoming)).ok());
    });
    connection_ = *here_->Connect("10.0.0.2", 7401, "", Soon());
    acceptor.join();
    page_.assign(kPageSize, std::byte{7});
    memory_.resize(kPageSize);
    region_ = *here_->Register(memory_, transport::Access::kLocal);
  }

  void TearDown() override {
    connection_.reset();
    region_.reset();
    receiver_.reset();
  }

  std::string Seal(uint64_t number, const std::string& message) {
    std::string bytes = "STE1";
    bytes.append(4, '\0');
    bytes.append(reinterpret_cast<const char*>(&number), sizeof(number));
    std::string body = message;
    transport::CipherTag tag;
    const auto inside = std::as_writable_bytes(std::span(body.data(), body.size()));
    EXPECT_TRUE(cipher_->Seal(RecordCipher::Kind::kMessage, number, inside, inside, tag).ok());
    bytes.append(reinterpret_cast<const char*>(tag.data()), tag.size());
    return bytes + body;
  }

  // A batch of one page, which is put into the ring as it has to be.
  Batch MakeBatch(uint64_t sequence) {
    Batch batch;
    batch.sequence = sequence;
    batch.answer = true;
    batch.encoding = Encoding::kRing;
    batch.packed_bytes = kPageSize;
    BatchRun& run = batch.runs.emplace_back();
    run.run = {kSpace, 0, 1};
    run.slot = 5;
    run.hash = GetParam() ? 0 : checkpoint::HashPages(page_);
    EXPECT_TRUE(
        cipher_->Seal(RecordCipher::Kind::kPages, sequence, page_, memory_, batch.tag).ok());
    return batch;
  }

  void Write() {
    const v1::ArenaChunk ring = *receiver_->ring();
    ASSERT_TRUE(
        connection_->Write(*region_, 0, kPageSize, ring.address(), ring.rkey(), Soon()).ok());
  }

  void Send(const std::string& bytes) { ASSERT_TRUE(connection_->Send(bytes, Soon()).ok()); }

  Answer Hear() {
    const auto bytes = connection_->Receive(Soon());
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    if (!bytes.ok() || bytes->size() < 32) return {};
    std::string message = bytes->substr(32);
    transport::CipherTag tag;
    std::memcpy(tag.data(), bytes->data() + 16, tag.size());
    const auto inside = std::as_writable_bytes(std::span(message.data(), message.size()));
    EXPECT_TRUE(answers_->Open(RecordCipher::Kind::kMessage, ++heard_, inside, inside, tag).ok());
    const auto answer = DecodeAnswer(message);
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? *answer : Answer();
  }

  // The target ends the connection, having counted `times`.
  void ExpectEnded(int times) {
    for (int i = 0; i < 2000 && refused_ < times; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_EQ(refused_, times);
    EXPECT_FALSE(receiver_->Close().ok());
    EXPECT_FALSE(connection_->Receive(Soon()).ok());
    EXPECT_EQ(refused_, times);
  }

  bool Landed() const { return receiver_->arena().Find(kSpace, 0).has_value(); }

  std::atomic<int> refused_{0};
  uint64_t heard_ = 0;
  std::unique_ptr<transport::FakeNetwork> network_;
  std::unique_ptr<transport::Fabric> here_;
  std::unique_ptr<transport::Fabric> there_;
  std::unique_ptr<RecordCipher> cipher_;
  std::unique_ptr<RecordCipher> answers_;
  std::unique_ptr<LaneReceiver> receiver_;
  std::unique_ptr<transport::Connection> connection_;
  std::vector<std::byte> page_;
  std::vector<std::byte> memory_;
  std::unique_ptr<transport::MemoryRegion> region_;
};

TEST_P(HostileStreamTest, GrantsThatWereGivenBeforeAreNotAskedFor) {
  Send(Seal(1, EncodeGrantRequest({.ring = true, .first_chunk = 0, .chunks = 1})));
  ExpectEnded(1);
}

TEST_P(HostileStreamTest, WhatIsRightIsTaken) {
  const Batch batch = MakeBatch(1);
  Write();
  Send(Seal(1, EncodeBatch(batch)));
  const Answer answer = Hear();
  EXPECT_EQ(answer.sequence, 1u);
  EXPECT_TRUE(answer.refused.empty()) << answer.error;
  EXPECT_TRUE(Landed());
  EXPECT_EQ(refused_, 0);
}

TEST_P(HostileStreamTest, AnAlteredMessageEndsTheConnection) {
  std::string bytes = Seal(1, EncodeBatch(MakeBatch(1)));
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  Write();
  Send(bytes);
  ExpectEnded(1);
  EXPECT_FALSE(Landed());
}

TEST_P(HostileStreamTest, ARepeatedMessageEndsTheConnection) {
  const std::string bytes = Seal(1, EncodeBatch(MakeBatch(1)));
  Write();
  Send(bytes);
  EXPECT_TRUE(Hear().refused.empty());
  Send(bytes);
  ExpectEnded(1);
}

TEST_P(HostileStreamTest, AMessageLeftOutEndsTheConnection) {
  Send(Seal(2, EncodeBatch(MakeBatch(1))));
  ExpectEnded(1);
}

TEST_P(HostileStreamTest, ARepeatedBatchEndsTheConnection) {
  const std::string batch = EncodeBatch(MakeBatch(1));
  Write();
  Send(Seal(1, batch));
  EXPECT_TRUE(Hear().refused.empty());
  Send(Seal(2, batch));
  ExpectEnded(1);
}

TEST_P(HostileStreamTest, APlainMessageEndsTheConnection) {
  Send(EncodeBatch(MakeBatch(1)));
  ExpectEnded(1);
}

TEST_P(HostileStreamTest, AlteredPagesAreRefused) {
  const Batch batch = MakeBatch(1);
  memory_[99] ^= std::byte{1};
  Write();
  Send(Seal(1, EncodeBatch(batch)));
  const Answer answer = Hear();
  EXPECT_EQ(answer.refused, std::vector<uint64_t>{1});
  EXPECT_EQ(refused_, 1);
  EXPECT_FALSE(Landed());
}

TEST_P(HostileStreamTest, PagesInPlaceAreRefused) {
  Batch batch = MakeBatch(1);
  batch.encoding = Encoding::kInPlace;
  Send(Seal(1, EncodeBatch(batch)));
  EXPECT_EQ(Hear().refused, std::vector<uint64_t>{1});
  EXPECT_EQ(refused_, 1);
  EXPECT_FALSE(Landed());
}

TEST_P(HostileStreamTest, WhatLiesOutsideRingOrArenaIsRefused) {
  Batch batch = MakeBatch(1);
  batch.ring_slot = 4;
  Send(Seal(1, EncodeBatch(batch)));
  EXPECT_EQ(Hear().refused, std::vector<uint64_t>{1});
  batch = MakeBatch(2);
  batch.runs[0].slot = receiver_->arena().slots();
  Write();
  Send(Seal(2, EncodeBatch(batch)));
  EXPECT_EQ(Hear().refused, std::vector<uint64_t>{2});
  EXPECT_EQ(refused_, 2);
  EXPECT_FALSE(Landed());
}

TEST_P(HostileStreamTest, AWriteOutsideTheGrantEndsTheConnection) {
  const v1::ArenaChunk ring = *receiver_->ring();
  ASSERT_TRUE(connection_
                  ->Write(*region_, 0, kPageSize, ring.address() + ring.bytes() - kPageSize / 2,
                          ring.rkey(), Soon())
                  .ok());
  Send("anything");
  EXPECT_FALSE(connection_->WaitCompleted(1, Soon()).ok());
  EXPECT_EQ(network_->counts().refused_accesses, 1u);
  EXPECT_FALSE(connection_->Send("more", Soon()).ok());
  // It has done nothing wrong itself.
  EXPECT_FALSE(connection_->refused_peer());
  const Deadline until = Soon();
  while (refused_ == 0 && !until.Passed()) std::this_thread::yield();
  EXPECT_EQ(refused_, 1);
}

TEST_P(HostileStreamTest, AConnectionThatEndsIsNotRefused) {
  connection_.reset();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // for it to be noticed
  (void)receiver_->Close();
  EXPECT_EQ(refused_, 0);
}

TEST_P(HostileStreamTest, PagesWithAnotherHashThanAgreedAreRefused) {
  Batch batch = MakeBatch(1);
  batch.runs[0].hash ^= 1;
  Write();
  Send(Seal(1, EncodeBatch(batch)));
  EXPECT_EQ(Hear().refused, std::vector<uint64_t>{1});
  EXPECT_EQ(refused_, 1);
  EXPECT_FALSE(Landed());
}

INSTANTIATE_TEST_SUITE_P(Known, HostileStreamTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "by_tag" : "by_hash"; });

}  // namespace
}  // namespace starling::migration
