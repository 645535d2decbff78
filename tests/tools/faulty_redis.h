#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <thread>

#include "tools/witness/socket.h"

namespace starling::witness {

// A server that speaks just enough of Redis' protocol for the witness, with faults made to order.
// Counts from 1; 0: this fault never happens. Serves one connection after another until destroyed.
struct RedisFaults {
  uint64_t forget_write = 0;  // acknowledges this SET and does not do it
  uint64_t garble_read = 0;   // answers this GET with other bytes
  uint64_t swap_read = 0;     // answers this GET with another key's value
  uint64_t refuse_write = 0;  // answers this SET with an error
  uint64_t close_after = 0;   // closes the connection instead of answering this request
  uint64_t pause_at = 0;      // stops for `pause_ms` before answering this request
  int pause_ms = 0;
  bool forget_all_on_close = false;  // comes back empty, and listening, after close_after
  bool stay_closed = false;          // after close_after takes no more connections
  bool babble = false;               // answers with what is no Redis protocol
};

class FaultyRedis {
 public:
  explicit FaultyRedis(const RedisFaults& faults);
  ~FaultyRedis();
  FaultyRedis(const FaultyRedis&) = delete;
  FaultyRedis& operator=(const FaultyRedis&) = delete;

  Endpoint endpoint() const { return endpoint_; }

 private:
  void Serve();
  // Returns false once the connection is to be closed.
  bool Answer(const std::string& verb, const std::string& key, const std::string& value,
              std::string* out);
  void Converse(int connection);

  const RedisFaults faults_;
  Endpoint endpoint_;
  Socket listener_;
  std::map<std::string, std::string> values_;
  uint64_t requests_ = 0;
  uint64_t writes_ = 0;
  uint64_t reads_ = 0;
  bool closed_ = false;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace starling::witness
