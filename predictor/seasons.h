#pragma once

#include <cstdint>

#include "predictor/history.h"

namespace starling::predictor {

// The seasons that people and timers make, in steps of a sampling interval: the longest of minute,
// hour, day and week that History can hold, and the next shorter one. 0: none.
struct NaturalSeasons {
  int longest = 0;
  int next = 0;
};
NaturalSeasons SeasonsOf(double step_s);

// Looks for a season in the values themselves, one candidate every kEvery steps: the one whose
// seasonal naive forecast was best over the last kSpan values.
class SeasonFinder {
 public:
  static constexpr int kShortest = 2;
  static constexpr int kLongest = 150;
  static constexpr int kSpan = 64;
  static constexpr int kEvery = 2;

  // To be called after each value.
  void Step(const History& history);

  // The season found by the last whole search; 0 when none is clearly better than the last value.
  int season() const { return season_; }
  bool Valid() const;

 private:
  int32_t candidate_ = kShortest;
  int32_t best_ = 0;
  int32_t season_ = 0;
  float best_error_ = 0;
};

}  // namespace starling::predictor
