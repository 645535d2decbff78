#pragma once

#include <signal.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tools/witness/gap_recorder.h"
#include "tools/witness/histogram.h"
#include "tools/witness/ledger.h"
#include "tools/witness/protocol.h"
#include "tools/witness/recovery.h"
#include "tools/witness/socket.h"

namespace starling::witness {

// What the client measured. Only requests sent as measured count, except for `broken`.
struct ClientStatistics {
  uint64_t writes = 0;
  uint64_t reads = 0;
  uint64_t answers = 0;
  uint64_t refused = 0;  // the server answered no
  std::string first_refusal;
  Histogram latency;        // from the scheduled time of the request to its answer
  GapRecorder answer_gaps;  // between one answer and the next
  std::vector<Reply> replies;  // each of them, when they are kept
};

// One connection that carries requests in order and enters every answer into a ledger. Never
// reconnects: once broken() it stays so. Not thread-safe.
class Client {
 public:
  // `protocol` and `ledger` outlive the client.
  Client(const Protocol& protocol, Ledger& ledger, Socket connection);

  // Keeps every measured reply time from here on: 16 bytes each.
  void KeepReplies() { keep_replies_ = true; }

  // Queue a request. `scheduled_ns` is when it should have been sent.
  void Write(uint32_t key, int64_t scheduled_ns, bool measured);
  void Read(uint32_t key, int64_t scheduled_ns, bool measured);

  // Sends and receives what it can, waiting for at most until `until_ns` for the first chance to;
  // signals that are unblocked in `mask` end the wait early.
  void Pump(int64_t until_ns, const sigset_t& mask);

  bool broken() const { return !error_.ok(); }
  // Why the connection broke. kInvalidArgument: it carried what is not of the protocol.
  const absl::Status& error() const { return error_; }
  size_t outstanding() const { return requests_.size(); }
  size_t unsent_bytes() const { return out_.size() - out_at_; }

  ClientStatistics& statistics() { return statistics_; }

 private:
  struct Request {
    bool is_write;
    bool measured;
    uint32_t key;
    uint64_t number;  // of the write; of a read: the newest write that it must see
    int64_t scheduled_ns;
  };

  void Send();
  // Returns whether there may be more.
  bool Receive();
  void TakeAnswers();
  void Enter(const Request& request, const Answer& answer, int64_t now);

  const Protocol& protocol_;
  Ledger& ledger_;
  Socket connection_;
  absl::Status error_;
  std::deque<Request> requests_;
  std::string out_;
  size_t out_at_ = 0;
  std::string in_;
  size_t in_at_ = 0;
  bool keep_replies_ = false;
  ClientStatistics statistics_;
};

}  // namespace starling::witness
