#pragma once

#include <cstdint>

#include "predictor/horizons.h"

namespace starling::predictor {

// Intervals about a point forecast from the errors that its predecessors turned out to have
// (conformal prediction), at a level that follows the coverage that was reached (adaptive: Gibbs
// and Candes, 2021). One object a horizon.
//
// Errors are kept as a discounted histogram in units of their own recent size, four bins an octave,
// so that 16 bits of state a bin or a sorted window are not needed and a quantile costs a few
// additions. A bound lies on the outer edge of its bin: it errs on the side of the wider interval.
//
// The level: an account is kept of misses above (or below) those due. In debt the interval widens
// by exp(debt / kDebtScale), with a deep debt up to the range that the series lately moved in; in
// credit it narrows.
class Conformal {
 public:
  // The bounds of an interval, relative to the point forecast.
  struct Offsets {
    float low = 0;   // <= 0
    float high = 0;  // >= 0
  };

  // `horizon` is the index into kHorizons: farther ones aim a little higher, since their misses
  // come in runs that are known late.
  explicit Conformal(int horizon = 0) : horizon_(horizon) {}

  // The outcome of a forecast: its error, the scale() when it was made, and whether its 90 %
  // interval missed.
  void Learn(float error, float scale, bool missed);

  // Of the 90 % interval for a forecast made now. `below` and `above` (both >= 0) are how far the
  // series lately went under and over that forecast.
  Offsets Interval(float below, float above) const;
  // How far from a forecast a bound may lie at most on one side, of how far the series lately went
  // to that side and to the other. After a long calm what moves again is many times the usual
  // error, and so would its interval be for as long as those errors are remembered.
  static float Reach(float toward, float away);

  // The unit in which errors are kept; belongs to a forecast made now.
  float scale() const { return scale_; }

  // Offset of any quantile, 0 < level < 1.
  float Quantile(float level) const;
  // The share of errors above `offset`, after the same adaption as Quantile.
  float ShareAbove(float offset) const;

  // Share of outcomes inside their interval, discounted over about 500; and of all since the start.
  float coverage() const { return 1 - recent_misses_; }
  uint32_t outcomes() const { return outcomes_; }
  uint32_t misses() const { return misses_; }

  bool Valid() const;

 private:
  static constexpr int kOctaves = 11;
  static constexpr int kSide = 4 * kOctaves;  // bins of errors of one sign
  static constexpr int kBins = 2 * kSide + 1;

  static int Bin(float ratio);
  static float OuterEdge(int bin);
  float Target() const;
  float Level() const;
  void Place(float level);

  float histogram_[kBins] = {};
  float weight_ = 1;  // of the next error: grows, instead of all others decaying
  float total_ = 0;
  // The bins in which the 90 % interval's bounds lie, with the weight beyond them.
  int32_t low_bin_ = kSide, high_bin_ = kSide;
  float below_low_ = 0, above_high_ = 0;

  float slow_ = 0;   // mean absolute error
  float quick_ = 0;  // the same over the last few
  float scale_ = 0;
  float debt_ = 0;  // misses beyond those due, discounted
  float window_misses_ = 0, window_ = 0;
  float recent_misses_ = 0.1f;
  uint32_t outcomes_ = 0, misses_ = 0;
  int32_t horizon_ = 0;
};

}  // namespace starling::predictor
