#include "transport/roce/responder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace starling::transport::roce {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint32_t kMtu = 1024;

// Opcode, sequence number and, of an acknowledgement, syndrome of what was sent.
struct Answer {
  Opcode opcode;
  uint32_t psn;
  uint8_t syndrome = kAck;
  bool operator==(const Answer&) const = default;
  friend void PrintTo(const Answer& answer, std::ostream* out) {
    *out << static_cast<int>(answer.opcode) << " psn " << answer.psn << " syndrome "
         << static_cast<int>(answer.syndrome);
  }
};
Answer Acknowledged(uint32_t psn) { return {Opcode::kAcknowledge, psn, kAck}; }
Answer Gap(uint32_t psn) { return {Opcode::kAcknowledge, psn, kNakSequence}; }

class ResponderTest : public testing::Test, public FrameSink, public CompletionSink {
 protected:
  ResponderTest() { responder_.Connect(); }

  bool HasRoom() override { return true; }
  void Send(const OutgoingFrame& frame) override {
    std::vector<std::byte> bytes(frame.headers.begin(), frame.headers.end());
    for (const auto& part : frame.payload) bytes.insert(bytes.end(), part.begin(), part.end());
    bytes.insert(bytes.end(), frame.trailer.begin(), frame.trailer.end());
    Packet packet;
    ASSERT_EQ(Decode(bytes, packet), DecodeError::kNone);
    const Headers& h = packet.headers;
    sent_.push_back({h.opcode, h.psn, h.opcode == Opcode::kAcknowledge ? h.syndrome : kAck});
  }
  void Complete(const WorkCompletion&) override {}

  // Packets of one write of 20.
  void TakeWrite(std::initializer_list<uint32_t> psns) {
    for (const uint32_t psn : psns) {
      Packet packet;
      packet.headers.opcode = psn == 0 ? Opcode::kWriteFirst : Opcode::kWriteMiddle;
      packet.headers.psn = psn;
      packet.headers.remote_address = reinterpret_cast<uint64_t>(memory_.data());
      packet.headers.remote_key = writable_;
      packet.headers.dma_bytes = 20 * kMtu;
      packet.payload = std::span(memory_).first(kMtu);
      responder_.TakeRequest(packet);
    }
  }
  // Asks for `packets` from the one with this number on; the memory's first has number 0.
  void TakeRead(uint32_t psn, uint32_t packets) {
    Packet packet;
    packet.headers.opcode = Opcode::kReadRequest;
    packet.headers.psn = psn;
    packet.headers.ack_request = true;
    packet.headers.remote_address = reinterpret_cast<uint64_t>(memory_.data()) + psn * kMtu;
    packet.headers.remote_key = readable_;
    packet.headers.dma_bytes = packets * kMtu;
    responder_.TakeRequest(packet);
  }
  std::vector<Answer> Sent(size_t most = 1000) {
    sent_.clear();
    while (sent_.size() < most && responder_.SendOne(*this)) {
    }
    return sent_;
  }

  Path path_ = {.mtu = kMtu};
  PairTuning tuning_;
  PairCounts counts_;
  RegionTable regions_{1};
  std::vector<std::byte> memory_ = std::vector<std::byte>(64 * kMtu);
  uint32_t writable_ = *regions_.Add(memory_, Access::kRemoteWrite);
  uint32_t readable_ = *regions_.Add(memory_, Access::kRemoteRead);
  Responder responder_{path_, tuning_, regions_, *this, counts_};
  std::vector<Answer> sent_;
};

constexpr auto kFirst = Opcode::kReadResponseFirst;
constexpr auto kMiddle = Opcode::kReadResponseMiddle;
constexpr auto kLast = Opcode::kReadResponseLast;

// SoftRoCE goes back at the first report of a gap, and takes no notice of another one before
// something was acknowledged: it then waited for its timer, a second for every further gap of a
// message.
TEST_F(ResponderTest, AcknowledgesBeforeASecondReport) {
  TakeWrite({0, 1, 3});
  EXPECT_THAT(Sent(), ElementsAre(Gap(2)));
  TakeWrite({4, 5});
  EXPECT_THAT(Sent(), IsEmpty());
  TakeWrite({2, 3, 4, 6, 7});
  EXPECT_THAT(Sent(), ElementsAre(Acknowledged(4), Gap(5)));
  TakeWrite({5, 6, 8});
  EXPECT_THAT(Sent(), ElementsAre(Acknowledged(6), Gap(7)));
  EXPECT_EQ(counts_.naks_sent, 3u);
}

TEST_F(ResponderTest, WhatWasAcknowledgedIsNotAcknowledgedBeforeAReport) {
  TakeWrite({0, 2});
  EXPECT_THAT(Sent(), ElementsAre(Gap(1)));
  TakeWrite({1, 0});  // filled; the second was there before, which asks for an acknowledgement
  EXPECT_THAT(Sent(), ElementsAre(Acknowledged(1)));
  TakeWrite({3});
  EXPECT_THAT(Sent(), ElementsAre(Gap(2)));
}

// Answers that nobody can use any more would otherwise come first.
TEST_F(ResponderTest, AReadThatIsAskedForAgainBeginsTheAnswersAgain) {
  for (const uint32_t psn : {0u, 4u, 8u, 12u}) TakeRead(psn, 4);
  EXPECT_THAT(Sent(6), ElementsAre(Answer{kFirst, 0}, Answer{kMiddle, 1}, Answer{kMiddle, 2},
                                   Answer{kLast, 3}, Answer{kFirst, 4}, Answer{kMiddle, 5}));
  TakeRead(2, 2);  // and, as go-back-N has it, all behind it
  for (const uint32_t psn : {4u, 8u, 12u}) TakeRead(psn, 4);
  EXPECT_THAT(Sent(), ElementsAre(Answer{kMiddle, 2}, Answer{kLast, 3}, Answer{kFirst, 4},
                                  Answer{kMiddle, 5}, Answer{kMiddle, 6}, Answer{kLast, 7},
                                  Answer{kFirst, 8}, Answer{kMiddle, 9}, Answer{kMiddle, 10},
                                  Answer{kLast, 11}, Answer{kFirst, 12}, Answer{kMiddle, 13},
                                  Answer{kMiddle, 14}, Answer{kLast, 15}));
  EXPECT_EQ(counts_.reads_replayed, 1u);
}

TEST_F(ResponderTest, AReadThatIsStillToBeAnsweredIsAnsweredOnce) {
  TakeRead(0, 2);
  TakeRead(0, 2);
  EXPECT_THAT(Sent(), ElementsAre(Answer{kFirst, 0}, Answer{kLast, 1}));
  TakeRead(0, 2);
  EXPECT_THAT(Sent(), ElementsAre(Answer{kFirst, 0}, Answer{kLast, 1}));
}

// A peer may ask again for all it has asked for before, however often.
TEST_F(ResponderTest, AskingAgainAndAgainDoesNotPileUp) {
  for (uint32_t psn = 0; psn < 32; ++psn) {
    TakeRead(psn, 1);
    EXPECT_EQ(Sent().size(), 1u);
  }
  for (int i = 0; i < 100; ++i) {
    for (uint32_t psn = 0; psn < 32; ++psn) TakeRead(psn, 1);
  }
  EXPECT_EQ(Sent().size(), 32u);
}

}  // namespace
}  // namespace starling::transport::roce
