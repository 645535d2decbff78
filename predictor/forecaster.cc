#include "predictor/forecaster.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "predictor/forecaster_extras.h"

namespace starling::predictor {
namespace {

constexpr float kSmoothRates[] = {0.05f, 0.15f, 0.4f};
constexpr int kLags = 5;  // of the regression
static_assert(kLags + 3 == LeastAbsolute::kFeatures);
constexpr int kTrendSteps = 12;  // over which a trend is measured
static_assert(kTrendSteps + kLongest < History::kRecent);
static_assert(kLags + kLongest < History::kRecent && 25 < History::kRecent);
constexpr float kFeatureBound = 20;    // in spreads
constexpr float kSpreadSteps = 400;    // memory of centre and spread
constexpr float kToDeviation = 1.25f;  // from mean absolute to standard deviation, for a normal one
constexpr double kRounding = 1.2e-7;   // of a value held in single precision
constexpr float kLossRate = 0.02f;
constexpr float kLongLossRate = 0.005f;
constexpr float kChangeRate = 0.02f;
constexpr float kLastValueFavour = 2;  // the last value is right more often than its losses tell
constexpr float kNoWeight = 0.01f;     // of the best; below it an expert is not worth sorting
constexpr float kLargest = 1e15f;      // squares of it still fit in single precision
constexpr float kMostOf = 3;           // a forecast is at most so many times the largest value seen
constexpr int kBlock = 64;             // steps of a block of the lately seen range
constexpr int kMostFilled = kLongest;  // steps of a gap; a longer one is as good as this

constexpr uint16_t kIdleSteps = 256;  // without weight before an expert rests
constexpr uint16_t kFirstRest = 256;  // steps; doubled each time ...
constexpr uint16_t kLongestRest = 4096;
constexpr float kRestWeight = 0.02f;  // weight that keeps it awake

// Relative to the level below which a spread is rounding.
float LeastSpread(float center) { return 1e-6f * std::abs(center) + 1e-12f; }

// Four numbers that are computed with at once, and what a comparison of them gives.
using Lanes = float __attribute__((vector_size(16)));
using Mask = int __attribute__((vector_size(16)));

Lanes Where(Mask mask, Lanes values) {
  return std::bit_cast<Lanes>(mask & std::bit_cast<Mask>(values));
}

float MedianOf3(float a, float b, float c) {
  return std::max(std::min(a, b), std::min(std::max(a, b), c));
}

}  // namespace

Forecaster::Forecaster(const ForecasterOptions& options) : options_(options) {
  if (options_.net == nullptr) options_.experts &= ~Only(kRecurrent);
  options_.experts |= Only(kLastValue);
  const NaturalSeasons seasons = SeasonsOf(options_.step_s);
  state_.season = seasons.longest;
  state_.next_season = seasons.next;
  // Without a season of its own an expert would only repeat another.
  if (seasons.longest < 2) options_.experts &= ~Only(kSeasonal);
  if (seasons.longest < 2 || 3 * seasons.longest + kLongest >= History::kCapacity) {
    options_.experts &= ~Only(kSeasonalMedian);
  }
  if (options_.experts & (Only(kArima) | Only(kHoltWinters) | Only(kRecurrent))) {
    extras_ = std::make_unique<ForecasterExtras>();
    extras_->holt_winters.SetSeason(seasons.longest);
  }
}

Forecaster::~Forecaster() = default;
Forecaster::Forecaster(Forecaster&&) noexcept = default;
Forecaster& Forecaster::operator=(Forecaster&&) noexcept = default;

int Forecaster::RestIndex(int expert) {
  return expert == kRegression ? 0 : expert >= kArima ? 1 + expert - kArima : -1;
}

bool Forecaster::Resting(int expert) const {
  const int index = RestIndex(expert);
  return index >= 0 && state_.rest[index].left > 0;
}

Forecaster::Taken Forecaster::Observe(double value) {
  if (!std::isfinite(value)) {
    if (state_.history.count() > 0) Step(state_.history.At(0), false);
    return Taken::kNoNumber;
  }
  Step(static_cast<float>(std::clamp<double>(value, -kLargest, kLargest)), true);
  return Taken::kLearned;
}

Forecaster::Taken Forecaster::Observe(double time_s, double value) {
  Taken taken = Taken::kLearned;
  if (!std::isfinite(time_s)) return Observe(value);
  if (state_.timed != 0) {
    const double steps = (time_s - state_.last_time_s) / options_.step_s;
    if (steps < -kLongest) {
      taken = Taken::kClockMoved;
    } else if (steps < 0.5) {
      return Taken::kSameOrOlder;
    } else if (steps >= 1.5) {
      taken = Taken::kFilledGap;
      const double missing = std::round(steps) - 1;
      const int filled = static_cast<int>(std::min<double>(missing, kMostFilled));
      for (int i = 0; i < filled && state_.history.count() > 0; ++i) {
        Step(state_.history.At(0), false);
      }
    }
  }
  state_.timed = 1;
  state_.last_time_s = time_s;
  const Taken observed = Observe(value);
  return observed == Taken::kNoNumber ? observed : taken;
}

int Forecaster::FoundSeason() const {
  const int found = state_.finder.season();
  return found > 0 && found != state_.season ? found : state_.next_season;
}

// The least number of steps that is whole seasons and at least `ahead`.
int Forecaster::WholeSeasons(int season, int ahead) {
  return ahead <= season ? season : season * ((ahead + season - 1) / season);
}

// The value that lies whole seasons before the step `ahead` of the one `offset` back.
float Forecaster::SeasonsAgo(int season, int ahead, int offset, float otherwise) const {
  if (season < 2) return otherwise;
  const int back = WholeSeasons(season, ahead) - ahead + offset;
  return state_.history.Has(back) ? state_.history.At(back) : otherwise;
}

float Forecaster::SeasonalMedian(int ahead, int offset, float otherwise) const {
  const int season = state_.season;
  if (season < 2 || 3 * season + kLongest >= History::kCapacity) {
    return SeasonsAgo(season, ahead, offset, otherwise);
  }
  const int back = WholeSeasons(season, ahead) - ahead + offset;
  if (!state_.history.Has(back)) return otherwise;
  const float first = state_.history.At(back);
  if (!state_.history.Has(back + season)) return first;
  const float second = state_.history.At(back + season);
  if (!state_.history.Has(back + 2 * season)) return 0.5f * (first + second);
  return MedianOf3(first, second, state_.history.At(back + 2 * season));
}

// As far as the series went in the last steps, in proportion.
float Forecaster::Trend(int ahead, int offset) const {
  const float from = state_.history.Recent(offset);
  if (!state_.history.Has(offset + kTrendSteps)) return from;
  return from + (from - state_.history.Recent(offset + kTrendSteps)) *
                    (static_cast<float>(ahead) / kTrendSteps);
}

void Forecaster::PastRow(int horizon, Row& row) const {
  const int h = kHorizons[horizon];
  // The place that was written h steps ago: this step writes state_.place[2] next.
  int place = state_.place[kHorizonCount - 1] - h;
  if (place < 0) place += kLongest;
  row[kLastValue] = state_.history.Recent(h);
  for (int i = 1; i < kFlatExperts; ++i) row[i] = state_.flat[i - 1][place];
  const int own = state_.place[horizon];
  row[kRegression] = state_.regression.at(horizon, own);
  row[kSeasonal] = SeasonsAgo(state_.season, h, h, row[kLastValue]);
  row[kSeasonalMedian] = SeasonalMedian(h, h, row[kLastValue]);
  row[kSeasonalFound] = SeasonsAgo(FoundSeason(), h, h, row[kLastValue]);
  row[kTrend] = Trend(h, h);
  for (int i = kArima; i < kSlots; ++i) row[i] = 0;
  if (extras_ != nullptr) {
    row[kArima] = extras_->arima_past.at(horizon, own);
    row[kHoltWinters] = extras_->holt_winters_past.at(horizon, own);
    row[kRecurrent] = extras_->recurrent_past.at(horizon, own);
  }
}

void Forecaster::CurrentRow(int horizon, float value, Row& row) const {
  const int h = kHorizons[horizon];
  const int place = state_.place[kHorizonCount - 1];
  row[kLastValue] = value;
  for (int i = 1; i < kFlatExperts; ++i) row[i] = state_.flat[i - 1][place];
  const int own = state_.place[horizon];
  row[kRegression] = state_.regression.at(horizon, own);
  row[kSeasonal] = SeasonsAgo(state_.season, h, 0, value);
  row[kSeasonalMedian] = SeasonalMedian(h, 0, value);
  row[kSeasonalFound] = SeasonsAgo(FoundSeason(), h, 0, value);
  row[kTrend] = Trend(h, 0);
  for (int i = kArima; i < kSlots; ++i) row[i] = 0;
  if (extras_ != nullptr) {
    row[kArima] = extras_->arima_past.at(horizon, own);
    row[kHoltWinters] = extras_->holt_winters_past.at(horizon, own);
    row[kRecurrent] = extras_->recurrent_past.at(horizon, own);
  }
}

// Features of the regression as they were `offset` steps ago.
void Forecaster::Fill(int horizon, int offset, float smooth, LeastAbsolute::Features& x) const {
  const float scale = 1 / (kToDeviation * state_.spread + LeastSpread(state_.center));
  for (int i = 0; i < kLags; ++i) x.values[i] = state_.history.Recent(offset + i);
  x.values[kLags] = smooth;
  x.values[kLags + 1] = SeasonsAgo(state_.season, kHorizons[horizon], offset, smooth);
  for (int i = 0; i < kLags + 2; ++i) {
    x.values[i] = std::clamp((x.values[i] - state_.center) * scale, -kFeatureBound, kFeatureBound);
  }
  x.values[kLags + 2] = 1;
}

// What the newest value says of the forecasts that were made for it.
void Forecaster::LearnOutcomes(float value) {
  const uint32_t count = state_.history.count();
  for (int horizon = 0; horizon < kHorizonCount; ++horizon) {
    if (count <= static_cast<uint32_t>(kHorizons[horizon])) continue;
    alignas(16) Row row;
    PastRow(horizon, row);
    float* losses = state_.losses[horizon];
    for (int i = 0; i < kSlots; ++i) {
      losses[i] += kLossRate * (std::abs(value - row[i]) - losses[i]);
    }
    const int place = state_.place[horizon];
    if (horizon == 0) {
      state_.blend_loss +=
          kLongLossRate * (std::abs(value - state_.blend_next) - state_.blend_loss);
      state_.last_loss += kLongLossRate * (std::abs(value - row[kLastValue]) - state_.last_loss);
    }
    // Bounds that lie on the value but for rounding hold it.
    const float slack = 1e-6f * std::abs(value) + 1e-12f;
    const bool missed = value < state_.low.at(horizon, place) - slack ||
                        value > state_.high.at(horizon, place) + slack;
    state_.intervals[horizon].Learn(value - state_.blend.at(horizon, place),
                                    state_.scale.at(horizon, place), missed);
  }
}

void Forecaster::LearnExperts(float value) {
  const uint32_t count = state_.history.count();
  const float scale = 1 / (kToDeviation * state_.spread + LeastSpread(state_.center));
  if (Uses(kRegression) && !Resting(kRegression)) {
    for (int horizon = 0; horizon < kHorizonCount; ++horizon) {
      const int h = kHorizons[horizon];
      if (count <= static_cast<uint32_t>(h + kLags)) continue;
      int place = state_.place[kHorizonCount - 1] - h;
      if (place < 0) place += kLongest;
      LeastAbsolute::Features x;
      Fill(horizon, h, state_.flat[kSmooth05 - 1][place], x);
      const float target =
          std::clamp((value - state_.center) * scale, -kFeatureBound, kFeatureBound);
      state_.regressions[horizon].Learn(x, target);
    }
  }
  if (extras_ == nullptr) return;
  if (Uses(kArima) && !Resting(kArima) && count > 1) {
    extras_->arima.Learn((value - state_.history.Recent(1)) * scale);
  }
  if (Uses(kHoltWinters)) extras_->holt_winters.Learn(value);
}

// Levels and ranges.
void Forecaster::Update(float value) {
  const uint32_t count = state_.history.count();
  const int place = state_.place[kHorizonCount - 1];
  const int before = place == 0 ? kLongest - 1 : place - 1;
  const bool first = count == 1;
  for (int i = 0; i < 3; ++i) {
    const float last = first ? value : state_.flat[kSmooth05 - 1 + i][before];
    state_.flat[kSmooth05 - 1 + i][place] = last + kSmoothRates[i] * (value - last);
  }
  state_.median7.Push(value, state_.history.Recent(7));
  state_.median25.Push(value, state_.history.Recent(25));
  state_.flat[kMedian7 - 1][place] = state_.median7.median();
  state_.flat[kMedian25 - 1][place] = state_.median25.median();

  if (first) {
    state_.center = state_.least = state_.most = value;
    state_.block_least[0] = state_.block_least[1] = value;
    state_.block_most[0] = state_.block_most[1] = value;
  }
  const float rate = 1 / std::min(static_cast<float>(count), kSpreadSteps);
  state_.center += rate * (value - state_.center);
  state_.spread += rate * (std::abs(value - state_.center) - state_.spread);
  if (!first) {
    state_.change += kChangeRate * (std::abs(value - state_.history.Recent(1)) - state_.change);
  }
  state_.least = std::min(state_.least, value);
  state_.most = std::max(state_.most, value);
  if (count % kBlock == 0) {
    state_.block_least[1] = state_.block_least[0];
    state_.block_most[1] = state_.block_most[0];
    state_.block_least[0] = state_.block_most[0] = value;
    for (auto& moves : state_.moves) {
      moves[1] = moves[0];
      moves[0] = 0;
    }
  }
  for (int horizon = 0; horizon < kHorizonCount; ++horizon) {
    const int h = kHorizons[horizon];
    if (!state_.history.Has(h)) continue;
    float& most = state_.moves[horizon][0];
    most = std::max(most, std::abs(value - state_.history.Recent(h)));
  }
  state_.block_least[0] = std::min(state_.block_least[0], value);
  state_.block_most[0] = std::max(state_.block_most[0], value);
}

// 1 for those that are asked, for the farther horizons; 0 for others.
void Forecaster::Asked(Row& asked) const {
  for (int i = 0; i < kSlots; ++i) asked[i] = 0;
  for (int i = 0; i < kExpertCount; ++i) asked[i] = Uses(i) && !Resting(i) ? 1 : 0;
  if (FoundSeason() < 2) asked[kSeasonalFound] = 0;
}

// The weighted median of a row. Without a sort: its branches would cost more than all pairs do.
float Forecaster::Blend(const Row& row, const Row& asked, int horizon) {
  const float* losses = state_.losses[horizon];
  float least = losses[kLastValue];
  for (int i = 0; i < kSlots; ++i) least = std::min(least, asked[i] > 0 ? losses[i] : least);
  least += 1e-12f;
  alignas(16) Row weights;
  for (int i = 0; i < kSlots; ++i) {
    float weight = asked[i] * (least / (losses[i] + 1e-12f));
    weight *= weight;
    weight *= weight;
    weight *= weight;
    weights[i] = weight;
  }
  for (const int expert : {int{kRegression}, int{kArima}, int{kHoltWinters}, int{kRecurrent}}) {
    if (weights[expert] > kRestWeight) state_.rest[RestIndex(expert)].idle = 0;
  }
  weights[kLastValue] *= kLastValueFavour;

  constexpr int kLanes = 4, kGroups = kSlots / kLanes;
  Lanes values[kGroups], own[kGroups], up_to[kGroups];
  std::memcpy(values, row, sizeof(values));
  std::memcpy(own, weights, sizeof(own));
  Lanes sums = {};
  for (int g = 0; g < kGroups; ++g) {
    own[g] = Where(own[g] >= kNoWeight, own[g]);
    sums += own[g];
    up_to[g] = Lanes{};
  }
  const float half = 0.5f * (sums[0] + sums[1] + sums[2] + sums[3]);
  for (int g = 0; g < kGroups; ++g) {
    for (int i = 0; i < kLanes && kLanes * g + i < kExpertCount; ++i) {
      for (int k = 0; k < kGroups; ++k) {
        up_to[k] += Where(values[k] >= values[g][i], Lanes{} + own[g][i]);
      }
    }
  }
  // The least of those with half of the weight up to them.
  Lanes least_value = Lanes{} + std::numeric_limits<float>::max();
  for (int g = 0; g < kGroups; ++g) {
    const Mask fits = (up_to[g] >= half) & (own[g] > 0) & (values[g] < least_value);
    least_value = Where(fits, values[g]) + Where(~fits, least_value);
  }
  const float median =
      std::min(std::min(least_value[0], least_value[1]), std::min(least_value[2], least_value[3]));
  return median < std::numeric_limits<float>::max() ? median : row[kLastValue];
}

void Forecaster::Predict(float value) {
  const uint32_t count = state_.history.count();
  const bool regress = Uses(kRegression) && !Resting(kRegression) && count > kLags;
  const int place = state_.place[kHorizonCount - 1];
  const auto scale = static_cast<float>(this->scale());
  for (int horizon = 0; horizon < kHorizonCount; ++horizon) {
    float forecast = value;
    if (regress) {
      LeastAbsolute::Features x;
      Fill(horizon, 0, state_.flat[kSmooth05 - 1][place], x);
      forecast = state_.regressions[horizon].Predict(x) * scale + state_.center;
    }
    state_.regression.at(horizon, state_.place[horizon]) = forecast;
  }
  if (extras_ != nullptr) {
    extras_->Predict(options_, value, state_.center, scale, state_.place, state_.history,
                     Resting(kArima), Resting(kHoltWinters), Resting(kRecurrent));
  }

  const float floor = state_.least >= 0 ? 0 : kMostOf * state_.least;
  const float ceiling = state_.most <= 0 ? 0 : kMostOf * state_.most;
  alignas(16) Row asked;
  Asked(asked);
  for (int horizon = 0; horizon < kHorizonCount; ++horizon) {
    alignas(16) Row row, here;
    for (int i = 0; i < kSlots; ++i) here[i] = asked[i];
    if (!Counts(kTrend, horizon)) here[kTrend] = 0;
    CurrentRow(horizon, value, row);
    BoundRegression(horizon, row);
    for (float& forecast : row) forecast = std::min(std::max(forecast, floor), ceiling);
    const int own = state_.place[horizon];
    state_.regression.at(horizon, own) = row[kRegression];
    float median = Blend(row, here, horizon);
    if (horizon == 0) {
      state_.blend_next = median;
      // Prices and the like are moved by rare news, which a short memory takes for a pattern.
      if (state_.last_loss < state_.blend_loss) median = value;
    }
    const Conformal& interval = state_.intervals[horizon];
    const Conformal::Offsets offsets = interval.Interval(Below(median), Above(median));
    const float low = std::max(median + offsets.low, std::min(median, floor));
    const float high = median + offsets.high;
    state_.blend.at(horizon, own) = median;
    state_.low.at(horizon, own) = low;
    state_.high.at(horizon, own) = high;
    state_.scale.at(horizon, own) = interval.scale();
  }
}

// The regression may see a jump that another expert sees as well; by itself it goes no farther than
// the series lately went in as many steps. Weights that were learned from a calm make of the first
// steps of a rise whatever they like.
void Forecaster::BoundRegression(int horizon, Row& row) const {
  const float most = std::max(state_.moves[horizon][0], state_.moves[horizon][1]);
  float low = row[kLastValue] - most, high = row[kLastValue] + most;
  for (int i = 1; i < kArima; ++i) {
    if (i == kRegression) continue;
    low = std::min(low, row[i]);
    high = std::max(high, row[i]);
  }
  row[kRegression] = std::clamp(row[kRegression], low, high);
}

float Forecaster::Below(float forecast) const {
  return std::max(0.0f, forecast - std::min(state_.block_least[0], state_.block_least[1]));
}

float Forecaster::Above(float forecast) const {
  return std::max(0.0f, std::max(state_.block_most[0], state_.block_most[1]) - forecast);
}

void Forecaster::TakeRests() {
  for (const int expert : {int{kRegression}, int{kArima}, int{kHoltWinters}, int{kRecurrent}}) {
    if (!Uses(expert)) continue;
    Rest& rest = state_.rest[RestIndex(expert)];
    if (rest.left > 0) {
      if (--rest.left == 0) rest.warm = kLongest;
      continue;
    }
    if (rest.warm > 0) {
      // Its past forecasts are those of before its rest: it starts as good as the last value.
      --rest.warm;
      for (auto& losses : state_.losses) losses[expert] = 1.5f * losses[kLastValue];
      rest.idle = 0;
      continue;
    }
    if (++rest.idle < kIdleSteps) continue;
    rest.span = rest.span == 0 ? kFirstRest
                               : static_cast<uint16_t>(std::min<int>(2 * rest.span, kLongestRest));
    rest.left = rest.span;
    rest.idle = 0;
  }
}

void Forecaster::Step(float value, bool learn) {
  state_.history.Push(value);
  if (learn) {
    LearnOutcomes(value);
    LearnExperts(value);
  }
  Update(value);
  state_.finder.Step(state_.history);
  Predict(value);
  TakeRests();
  for (int horizon = 0; horizon < kHorizonCount; ++horizon) {
    if (++state_.place[horizon] == kHorizons[horizon]) state_.place[horizon] = 0;
  }
}

Forecast Forecaster::At(int horizon) const {
  const int last = Last(horizon);
  // Held in single precision: the bounds go to the outer side of what that rounds.
  const double low = state_.low.at(horizon, last), high = state_.high.at(horizon, last);
  return {state_.blend.at(horizon, last), low - kRounding * std::abs(low),
          high + kRounding * std::abs(high)};
}

double Forecaster::Quantile(int horizon, double level) const {
  const float median = state_.blend.at(horizon, Last(horizon));
  const float below = Below(median), above = Above(median);
  const double value = static_cast<double>(median) +
                       std::clamp(state_.intervals[horizon].Quantile(static_cast<float>(level)),
                                  -Conformal::Reach(below, above), Conformal::Reach(above, below));
  return state_.least >= 0 ? std::max(value, 0.0) : value;
}

double Forecaster::ProbabilityAbove(int horizon, double threshold) const {
  return state_.intervals[horizon].ShareAbove(
      static_cast<float>(threshold - state_.blend.at(horizon, Last(horizon))));
}

double Forecaster::Weight(int expert, int horizon) const {
  const float* losses = state_.losses[horizon];
  float least = losses[kLastValue];
  for (int i = 0; i < kExpertCount; ++i) {
    if (Counts(i, horizon)) least = std::min(least, losses[i]);
  }
  double total = 0, own = 0;
  for (int i = 0; i < kExpertCount; ++i) {
    if (!Counts(i, horizon)) continue;
    double weight = std::pow((least + 1e-12) / (losses[i] + 1e-12), 8);
    if (i == kLastValue) weight *= kLastValueFavour;
    total += weight;
    if (i == expert) own = weight;
  }
  return total > 0 ? own / total : 0;
}

double Forecaster::ExpertForecast(int expert, int horizon) const {
  const int last = Last(kHorizonCount - 1);
  const double now = state_.history.count() > 0 ? state_.history.At(0) : 0;
  if (expert <= kLastValue || expert >= kExpertCount) return now;
  if (expert < kFlatExperts) return state_.flat[expert - 1][last];
  const int h = kHorizons[horizon];
  const float otherwise = static_cast<float>(now);
  switch (expert) {
    case kRegression:
      return state_.regression.at(horizon, Last(horizon));
    case kSeasonal:
      return SeasonsAgo(state_.season, h, 0, otherwise);
    case kSeasonalMedian:
      return SeasonalMedian(h, 0, otherwise);
    case kSeasonalFound:
      return SeasonsAgo(FoundSeason(), h, 0, otherwise);
    case kTrend:
      return Trend(h, 0);
    default:
      return extras_ == nullptr ? now : extras_->Past(expert).at(horizon, Last(horizon));
  }
}

double Forecaster::scale() const {
  return kToDeviation * state_.spread + LeastSpread(state_.center);
}

double Forecaster::volatility() const {
  return state_.change / (std::abs(state_.center) + state_.spread + 1e-12);
}

bool Forecaster::Valid() const {
  const State& s = state_;
  for (int horizon = 0; horizon < kHorizonCount; ++horizon) {
    if (!s.intervals[horizon].Valid() || !s.regressions[horizon].Valid() || s.place[horizon] < 0 ||
        s.place[horizon] >= kHorizons[horizon]) {
      return false;
    }
    for (const float loss : s.losses[horizon]) {
      if (!(loss >= 0) || !std::isfinite(loss)) return false;
    }
    for (int place = 0; place < kHorizons[horizon]; ++place) {
      for (const DelayLine* line : {&s.regression, &s.blend, &s.low, &s.high, &s.scale}) {
        if (!std::isfinite(line->at(horizon, place))) return false;
      }
    }
  }
  for (const auto& line : s.flat) {
    for (const float value : line) {
      if (!std::isfinite(value)) return false;
    }
  }
  for (const auto& moves : s.moves) {
    if (!(moves[0] >= 0 && moves[1] >= 0) || !std::isfinite(moves[0] + moves[1])) return false;
  }
  for (const float value : {s.center, s.spread, s.change, s.least, s.most, s.block_least[0],
                            s.block_least[1], s.block_most[0], s.block_most[1]}) {
    if (!std::isfinite(value)) return false;
  }
  return s.history.Valid() && s.finder.Valid() && s.median7.Valid() && s.median25.Valid() &&
         std::isfinite(s.last_time_s) && s.season >= 0 && s.season < History::kCapacity &&
         s.next_season >= 0 && s.next_season < History::kCapacity && s.spread >= 0 && s.change >= 0;
}

}  // namespace starling::predictor
