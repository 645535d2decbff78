#pragma once

#include <cstdint>

#include "predictor/horizons.h"

namespace starling::predictor {

// Who gives forecasts to the blend.
enum Expert : int {
  kLastValue,
  kSmooth05,  // exponential smoothing with this rate, in hundredths
  kSmooth15,
  kSmooth40,
  kMedian7,  // of the last so many values
  kMedian25,
  kRegression,      // LeastAbsolute on lags, level and season
  kSeasonal,        // the value a season ago
  kSeasonalMedian,  // of the last three seasons
  kSeasonalFound,   // the value a season ago, with the season found in the values
  kTrend,           // the change of the last steps goes on
  kArima,           // on differences, learned by gradient steps
  kHoltWinters,     // damped trend and season
  kRecurrent,       // a small GRU, its weights shared between components
  kExpertCount,
};
inline constexpr int kFlatExperts = kRegression;  // those before it say the same for each horizon

const char* ExpertName(int expert);

using ExpertSet = uint32_t;
inline constexpr ExpertSet Only(int expert) { return ExpertSet{1} << expert; }
inline constexpr ExpertSet kAllExperts = (ExpertSet{1} << kExpertCount) - 1;
// Those that earn their keep on the traces (docs/predictor.md, "What each expert adds").
inline constexpr ExpertSet kDefaultExperts =
    kAllExperts & ~Only(kArima) & ~Only(kHoltWinters) & ~Only(kRecurrent);

// Online ARIMA(kLags, 1, 0): the next difference is a linear function of the last ones, whose
// weights take a gradient step each time it is known (Liu et al., AAAI 2016). Farther horizons by
// iteration.
class OnlineArima {
 public:
  static constexpr int kLags = 8;
  // `difference` in units of the series' scale.
  void Learn(float difference);
  // Sums of the next differences, one a horizon.
  void Predict(float (&ahead)[kHorizonCount]) const;
  bool Valid() const;

 private:
  float weights_[kLags] = {};
  float last_[kLags] = {};  // the newest first
};

// Additive Holt-Winters with a damped trend.
class HoltWinters {
 public:
  static constexpr int kLongestSeason = 288;
  void SetSeason(int steps);  // 1: none
  void Learn(float value);
  void Predict(float (&ahead)[kHorizonCount]) const;
  bool Valid() const;

 private:
  int32_t season_ = 1, place_ = 0, rounds_ = 0;
  float level_ = 0, trend_ = 0;
  int32_t started_ = 0;
  float index_[kLongestSeason] = {};
};

}  // namespace starling::predictor
