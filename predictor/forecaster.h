#pragma once

#include <cstdint>
#include <memory>

#include "predictor/conformal.h"
#include "predictor/experts.h"
#include "predictor/history.h"
#include "predictor/horizons.h"
#include "predictor/least_absolute.h"
#include "predictor/rolling_median.h"
#include "predictor/seasons.h"

namespace starling::predictor {

class GruNet;
struct ForecasterExtras;

struct ForecasterOptions {
  // Sampling interval, in seconds. Seasons (hour, day, week) follow from it; gaps are counted in
  // it.
  double step_s = 1;
  ExpertSet experts = kDefaultExperts;
  // For kRecurrent; outlives the forecaster. Without it that expert is left out.
  const GruNet* net = nullptr;
};

// A forecast for one horizon. The 90 % interval is adapted until it holds 90 % of the outcomes.
struct Forecast {
  double median = 0;
  double low = 0;
  double high = 0;
};

// Forecasts one metric of one component: experts, blended for each horizon by how well they lately
// did, with intervals that say how well the blend did. Learns as it goes.
//
// The blend is the experts' weighted median, with weights (least loss / loss)^8 where a loss is the
// mean absolute error, discounted over about 50 steps.
//
// No I/O, no clock, no randomness: the same samples give the same forecasts. Observe() does not
// allocate. With the default experts an object is all of its state and no more than 4 KiB. Not
// thread-safe.
class Forecaster {
 public:
  enum class Taken {
    kLearned,      // as the next step's value
    kFilledGap,    // steps were missing before it; they were passed over
    kNoNumber,     // not-a-number or infinite: the step counts as missing
    kSameOrOlder,  // not newer than the last sample by half a step at least: passed over
    kClockMoved,   // far older than the last sample: the clock was set back. Learned
  };

  explicit Forecaster(const ForecasterOptions& options);
  ~Forecaster();
  Forecaster(Forecaster&&) noexcept;
  Forecaster& operator=(Forecaster&&) noexcept;

  // Fetches the state into the cache: to be called for the next forecaster before a step of this
  // one by whoever steps many.
  void Prefetch() const {
    const auto* line = reinterpret_cast<const char*>(this);
    for (size_t i = 0; i < sizeof(*this); i += 64) __builtin_prefetch(line + i, 1, 3);
  }

  // The next step's value.
  Taken Observe(double value);
  // A value with its time, in seconds since anything. Sampling may jitter by half a step.
  Taken Observe(double time_s, double value);

  // Made at the last step; horizon: an index into kHorizons. All zero before the first value.
  Forecast At(int horizon) const;
  // Any quantile, 0 < level < 1.
  double Quantile(int horizon, double level) const;
  // The probability that the value will be above `threshold`.
  double ProbabilityAbove(int horizon, double threshold) const;

  // Share of an expert in the blend, 0 to 1, and its discounted mean absolute error.
  double Weight(int expert, int horizon) const;
  double Loss(int expert, int horizon) const { return state_.losses[horizon][expert]; }
  // What the expert itself says.
  double ExpertForecast(int expert, int horizon) const;

  const ForecasterOptions& options() const { return options_; }
  // Of the 90 % interval; see Conformal.
  double coverage(int horizon) const { return state_.intervals[horizon].coverage(); }
  const Conformal& interval(int horizon) const { return state_.intervals[horizon]; }
  // Mean absolute change from step to step relative to the level: how restless the series is.
  double volatility() const;
  int season() const { return state_.season; }
  int found_season() const { return state_.finder.season(); }
  uint32_t steps() const { return state_.history.count(); }
  const History& history() const { return state_.history; }
  double center() const { return state_.center; }
  double spread() const { return state_.spread; }
  // A standard deviation by the spread, never 0: the unit in which the learning experts see values.
  double scale() const;

 private:
  friend class ModelCodec;

  static constexpr int kSlots = 16;  // experts, rounded up for the sake of vectors
  static_assert(kExpertCount <= kSlots);

  // An expert that cost something and earned nothing is left alone for a while.
  struct Rest {
    uint16_t idle = 0;  // steps in a row without weight
    uint16_t left = 0;  // steps of rest to go
    uint16_t span = 0;  // of the last rest
    uint16_t warm = 0;  // steps until its past forecasts are its own again
  };

  // All that is learned by default, as plain memory: what a snapshot holds.
  struct State {
    History history;
    SeasonFinder finder;
    LeastAbsolute regressions[kHorizonCount];
    Conformal intervals[kHorizonCount] = {Conformal(0), Conformal(1), Conformal(2)};
    RollingMedian<7> median7;
    RollingMedian<25> median25;
    float losses[kHorizonCount][kSlots] = {};
    // Of the next step: mean absolute errors over about 200 steps, of the blend and of the last
    // value, and what the blend said last.
    float blend_loss = 0, last_loss = 0, blend_next = 0;
    float flat[kFlatExperts - 1][kLongest] = {};  // past forecasts of the flat ones but the first
    DelayLine regression, blend, low, high, scale;
    float center = 0, spread = 0;  // mean and mean absolute deviation, over about 400 steps
    float change = 0;              // mean absolute step, over about 50
    float least = 0, most = 0;     // of all values
    float block_least[2] = {}, block_most[2] = {};  // of this block of 64 steps, of the one before
    // The farthest move in as many steps as each horizon, of this block of steps and the one
    // before.
    float moves[kHorizonCount][2] = {};
    double last_time_s = 0;
    int32_t place[kHorizonCount] = {};  // step modulo horizon
    int32_t season = 0;
    int32_t next_season = 0;
    Rest rest[4];  // of the experts from kRegression and kArima on
    uint32_t timed = 0;
  };

  // Forecasts of all experts for one horizon.
  using Row = float[kSlots];

  bool Uses(int expert) const { return (options_.experts & Only(expert)) != 0; }
  static int RestIndex(int expert);
  bool Resting(int expert) const;
  // For a single step the trend of many is worth nothing.
  bool Counts(int expert, int horizon) const {
    return Uses(expert) && !Resting(expert) && (expert != kTrend || kHorizons[horizon] > 1);
  }

  void Step(float value, bool learn);
  void LearnOutcomes(float value);
  void LearnExperts(float value);
  void Update(float value);
  void Predict(float value);
  void Asked(Row& asked) const;
  float Blend(const Row& row, const Row& asked, int horizon);
  // How far the series lately went under and over a forecast.
  float Below(float forecast) const;
  float Above(float forecast) const;
  float Trend(int ahead, int offset) const;
  void BoundRegression(int horizon, Row& row) const;
  void TakeRests();
  // Past forecasts of all experts, whose outcome is the newest value.
  void PastRow(int horizon, Row& row) const;
  void CurrentRow(int horizon, float value, Row& row) const;
  static int WholeSeasons(int season, int ahead);
  float SeasonsAgo(int season, int ahead, int offset, float otherwise) const;
  float SeasonalMedian(int ahead, int offset, float otherwise) const;
  int FoundSeason() const;
  void Fill(int horizon, int offset, float smooth, LeastAbsolute::Features& x) const;
  // The place that the last step wrote.
  int Last(int horizon) const {
    const int place = state_.place[horizon];
    return (place == 0 ? kHorizons[horizon] : place) - 1;
  }
  bool Valid() const;

  ForecasterOptions options_;
  State state_;
  std::unique_ptr<ForecasterExtras> extras_;
};
static_assert(sizeof(Forecaster) <= 4096, "what a metric of a component may cost");

}  // namespace starling::predictor
