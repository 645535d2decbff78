#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

namespace starling::decisions {

// A move as it was: what was known before, and what it took.
struct PastMove {
  std::string component;
  double memory_bytes = 0;       // resident before
  double dirty_bytes_per_s = 0;  // as measured by its rounds
  double link_bytes_per_s = 0;
  double moved_bytes = 0;
  double total_s = 0;
  double blackout_s = 0;
};

struct MoveCost {
  double bytes = 0, total_s = 0, blackout_s = 0;
};

// What the next move will take: pre-copy as it should be (memory, and again what is written while
// it is sent), times what past moves of this component, and of all, took beyond that; the blackout
// as it was, which hangs on the component more than on its size. Value type.
class MoveCosts {
 public:
  void Learn(const PastMove& move);
  MoveCost Expect(const std::string& component, double memory_bytes, double dirty_bytes_per_s,
                  double link_bytes_per_s) const;

 private:
  // Means over about the last ten moves.
  struct Learned {
    double moves = 0;
    double bytes_ratio = 1, time_ratio = 1, blackout_s = 0;
  };
  static void Learn(Learned& learned, double bytes_ratio, double time_ratio, double blackout_s);

  Learned all_;
  std::unordered_map<std::string, Learned> of_component_;
};

}  // namespace starling::decisions
