#pragma once

#include <array>
#include <map>
#include <string>
#include <vector>

#include "predictor/horizons.h"

// The forecasts that ours are compared with, and how both are scored: the protocol of the traces'
// own baselines.py. The first half of a series is there to learn from, every step of the second
// half is an origin. A MASE denominator is the first half's mean absolute step.

namespace starling::replay {

using predictor::kHorizons;

// point[i][t]: made at t for t + kHorizons[i].
using Points = std::array<std::vector<double>, kHorizons.size()>;

// Intervals of the same shape.
struct Bands {
  Points low, high;
};

// The mean absolute step of the first half; 0 when a series does not vary enough to be scored
// (baselines.py leaves it out as well).
double MaseScale(const std::vector<double>& y);

// naive, snaive (when season > 1), ses, hw, ar12, rls, mean3, blend; `season` as the protocol has
// it. Each is clipped as there.
std::map<std::string, Points> BaselineForecasts(const std::vector<double>& y, int season);

// Scores of one horizon of one series.
struct Score {
  double mase = 0;
  double coverage = 0;
  double width = 0;    // in MASE denominators
  double pinball = 0;  // mean of the quantiles 0.05, 0.5 and 0.95, in MASE denominators
};
using Scores = std::array<Score, kHorizons.size()>;

Scores ScoreForecast(const std::vector<double>& y, const Points& points, const Bands& bands);

// The intervals of baselines.py for `points`: over the last 200 errors, without ("roll") and with
// adaptive ("aci") level. Only origins of the second half are filled in.
Bands RollBands(const std::vector<double>& y, const Points& points);
Bands AciBands(const std::vector<double>& y, const Points& points);

// Point forecasts plus the quantile `level` of the last 200 errors, as the onset rules use it.
Points UpperQuantile(const std::vector<double>& y, const Points& points, double level);

}  // namespace starling::replay
