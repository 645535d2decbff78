#pragma once

#include <cstddef>
#include <cstdint>

#include "predictor/forecaster.h"

namespace starling::predictor {

// What the rest of the pool is told of one metric: its value and its forecasts, as far as they
// moved.
//
// A message is a mask of 2 bytes (bit i: field i follows) and 16 bits for each field that moved: a
// value or median by more than `tolerance` of its horizon's usual error, a bound by more than
// kBound of its interval's width. The more restless a component, the more it sends; one that is
// quiet sends nothing. Fields: value; then median, low and high for each horizon, nearest first.
// They are rounded to bfloat16 (0.4 %), bounds outwards; where that would be too coarse (bit 10 of
// the mask) values and medians follow in single precision.
struct Summary {
  static constexpr int kFields = 1 + 3 * kHorizonCount;
  static constexpr size_t kMostBytes = 2 + 4 * kFields;
  float fields[kFields] = {};

  Forecast At(int horizon) const {
    const float* f = fields + 1 + 3 * horizon;
    return {f[0], f[1], f[2]};
  }
};

class SummaryWriter {
 public:
  static constexpr float kBound = 0.15f;

  explicit SummaryWriter(double tolerance) : tolerance_(static_cast<float>(tolerance)) {}

  // Writes what has moved since the last message into `message` (kMostBytes) and returns its size;
  // 0: nothing worth telling.
  size_t Write(const Forecaster& forecaster, double value, uint8_t* message);
  // The same of a summary made otherwise: each field is sent when it is off by more than `allowed`.
  size_t Write(const Summary& now, const float (&allowed)[Summary::kFields], uint8_t* message);
  // By how much fields may be off: values and medians by `tolerance` of these errors.
  void Allow(const Summary& now, const float (&errors)[kHorizonCount],
             float (&allowed)[Summary::kFields]) const;
  // What the reader knows.
  const Summary& sent() const { return sent_; }

 private:
  float tolerance_;
  bool any_ = false;
  Summary told_;  // what was sent, before it was rounded
  Summary sent_;
};

// Applies a message; false (and nothing changed) when it is none.
bool ReadSummary(const uint8_t* message, size_t size, Summary& summary);

}  // namespace starling::predictor
