#pragma once

#include <vector>

#include "transport/roce/queue_pair_parts.h"
#include "transport/roce/regions.h"

namespace starling::transport::roce {

// The receiving half of a queue pair: carries out the peer's requests in order and answers them.
// Packets behind a gap are dropped and the gap is reported once; what comes a second time is not
// carried out again but acknowledged again; with a READ that comes a second time the answers begin
// again from there. A request that is refused (no right to the memory, impossible lengths) ends the
// queue pair, and stays the answer to whatever still comes. One thread.
class Responder {
 public:
  Responder(const Path& path, const PairTuning& tuning, const RegionTable& regions,
            CompletionSink& completions, PairCounts& counts);

  void Connect() { expected_ = kPsnOrigin + path_.peer_psn; }

  bool HasRoom() const { return receive_tail_ - receive_head_ < receives_.size(); }
  // Only while there is room.
  void PostReceive(uint64_t id, const Piece& buffer);

  void TakeRequest(const Packet& packet);
  // Sends one answer; false when there is none to send.
  bool SendOne(FrameSink& out);

  // Ends everything that is posted with kFlushed.
  void Flush();
  // A request was refused: the queue pair is of no use any more.
  bool failed() const { return refusal_ != 0; }

 private:
  struct Receive {
    uint64_t id = 0;
    Piece buffer;
  };
  // A READ that is being answered, or was.
  struct ReadJob {
    uint64_t first = 0;  // sequence number of `address`
    uint64_t from = 0;   // where this answer begins
    uint64_t next = 0;
    uint64_t end = 0;
    uint64_t address = 0;
    uint32_t bytes = 0;  // from `address` to `end`
    uint32_t key = 0;
    bool goes_on = false;  // the answer begins as if it had not been interrupted
  };
  enum class Message : uint8_t { kNone, kSend, kWrite };

  void TakeInOrder(const Packet& packet);
  void TakeDuplicate(const Packet& packet);
  void TakeSend(const Packet& packet, bool first, bool last);
  void TakeWrite(const Packet& packet, bool first, bool last);
  void TakeRead(const Packet& packet);
  bool LengthFits(const Packet& packet, bool first, bool last) const;
  // The oldest receive, or an RNR NAK.
  bool TakeReceive(Receive& receive);
  void Advance(uint64_t packets, bool ends_message);
  void Answer(uint8_t syndrome, uint64_t psn);
  void Refuse(uint8_t syndrome);
  bool SendReadResponse(FrameSink& out);
  void SendAnswer(uint8_t syndrome, uint64_t psn, FrameSink& out);

  const Path& path_;
  const PairTuning tuning_;
  const RegionTable& regions_;
  CompletionSink& completions_;
  PairCounts& counts_;
  FrameBuilder builder_;

  uint64_t expected_ = kPsnOrigin;
  uint32_t message_sequence_ = 0;
  bool gap_reported_ = false;
  uint8_t refusal_ = 0;

  Message message_ = Message::kNone;  // that has begun and not ended
  uint64_t written_ = 0;              // of it
  Receive receive_;                   // that a SEND fills
  uint64_t write_address_ = 0;
  uint64_t write_bytes_ = 0;
  uint32_t write_key_ = 0;

  std::vector<Receive> receives_;
  uint64_t receive_head_ = 0;
  uint64_t receive_tail_ = 0;
  // READs to answer, from head to tail, in the order of their numbers.
  std::vector<ReadJob> jobs_;
  uint64_t jobs_head_ = 0;
  uint64_t jobs_tail_ = 0;
  std::vector<ReadJob> remembered_;
  uint64_t remembered_tail_ = 0;

  bool answer_due_ = false;
  uint8_t answer_ = 0;
  uint64_t answer_psn_ = 0;
  bool reported_ = false;  // a gap, and nothing was acknowledged since
};

}  // namespace starling::transport::roce
