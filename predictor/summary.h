#pragma once

#include <cstddef>
#include <cstdint>

#include "predictor/forecaster.h"

namespace starling::predictor {

// What the rest of the pool is told of one metric: its value and its forecasts, as far as they moved.
//
// A message is a byte mask of 2 bytes (bit i: field i follows) and 16 bits for each field that moved
// by more than `tolerance` of the width of its horizon's interval. The more restless a component, the
// more it sends; one that is quiet sends nothing. Fields: value; then median, low and high for each
// horizon, nearest first. Values are rounded to bfloat16 (0.4 %): medians and values are sent as they
// are in single precision when a tolerance asks for it, in two parts of 16 bits.
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
  explicit SummaryWriter(double tolerance) : tolerance_(static_cast<float>(tolerance)) {}

  // Writes what has moved since the last message into `message` (kMostBytes) and returns its size; 0:
  // nothing worth telling.
  size_t Write(const Forecaster& forecaster, double value, uint8_t* message);
  // What the reader knows.
  const Summary& sent() const { return sent_; }

 private:
  float tolerance_;
  bool any_ = false;
  Summary sent_;
};

// Applies a message; false (and nothing changed) when it is none.
bool ReadSummary(const uint8_t* message, size_t size, Summary& summary);

}  // namespace starling::predictor
