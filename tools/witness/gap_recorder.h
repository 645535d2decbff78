#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tools/witness/histogram.h"

namespace starling::witness {

// A stretch of time in which nothing arrived.
struct Gap {
  int64_t start_ns =
      0;  // monotonic clock of the observer: the arrival before (or the start of the recording)
  int64_t length_ns = 0;
  uint64_t before = 0;  // the number that arrived before; 0: none
  uint64_t after = 0;   // the number that ended the gap
  bool open = false;    // nothing came any more until the recording ended
};

// Watches a stream of arrivals and keeps its longest gaps and the distribution of all of them.
// Value type; not thread-safe. Times are of one monotonic clock and do not go back.
class GapRecorder {
 public:
  explicit GapRecorder(size_t keep = 8) : keep_(keep) {}

  // From here on the gap to the first arrival counts too. Arrivals before Start() are ignored.
  void Start(int64_t now_ns);
  void Arrive(int64_t now_ns, uint64_t number);
  // Counts the time since the last arrival as an open gap and ends the recording.
  void Finish(int64_t now_ns);

  bool recording() const { return recording_; }
  uint64_t arrivals() const { return arrivals_; }
  // The longest first, at most `keep` of them.
  const std::vector<Gap>& longest() const { return longest_; }
  const Histogram& distribution() const { return distribution_; }

 private:
  void Keep(const Gap& gap);

  size_t keep_;
  bool recording_ = false;
  uint64_t arrivals_ = 0;
  int64_t last_ns_ = 0;
  uint64_t last_number_ = 0;
  std::vector<Gap> longest_;
  Histogram distribution_;
};

}  // namespace starling::witness
