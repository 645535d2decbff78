#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "tools/heartbeat/beat.h"

namespace starling::witness {

// Which numbered beats came, of which sender. Value type; not thread-safe.
class BeatLog {
 public:
  // Returns false if the beat cannot be one of the stream's (a number absurdly far from the
  // others).
  bool Add(uint32_t sender, uint64_t number);

  uint64_t received() const { return received_; }
  // Numbers between the first and the last seen that never came.
  uint64_t lost() const;
  // Numbers that came more than once: more than one copy of the sender is running.
  uint64_t duplicated() const { return duplicated_; }
  // Numbers that came after a greater one.
  uint64_t reordered() const { return reordered_; }
  // How often the sending program was started (one, however often it moved).
  uint64_t senders() const { return streams_.size(); }

 private:
  struct Stream {
    uint64_t first = 0;  // the number that seen[0] stands for
    uint64_t last = 0;
    uint64_t distinct = 0;
    std::vector<bool> seen;
  };

  std::map<uint32_t, Stream> streams_;
  uint64_t received_ = 0;
  uint64_t duplicated_ = 0;
  uint64_t reordered_ = 0;
};

}  // namespace starling::witness
