#include "predictor/keep_warm.h"

#include <algorithm>
#include <cmath>

namespace starling::predictor {
namespace {

constexpr double kKeepGap = 0.98, kKeepGapShort = 0.8;  // of a gap's weight, from gap to gap
constexpr double kUnknownHazard = 0.01;
constexpr float kKnownFrom = 50;  // minutes seen before the pooled hazard counts

// Adam's step, over the lessons.
constexpr float kRate = 1e-3f;
constexpr uint64_t kEarly = 50000, kSettling = 250000;

constexpr double kMemoryPower = 0.75;
constexpr double kRounding = 1e-9;  // of sums of memory, in GB

float Log(double x, double scale, double offset) {
  return static_cast<float>(std::log(1 + x) * scale + offset);
}

}  // namespace

double PooledHazard::At(int gap) const {
  const int i = std::clamp(gap, 0, kLongest - 1);
  return due_[i] > kKnownFrom ? activated_[i] / due_[i] : kUnknownHazard;
}

void PooledHazard::Learn(int gap, bool activated) {
  const int i = std::clamp(gap, 0, kLongest - 1);
  if (due_[i] > 1e6f) {
    due_[i] *= 0.5f;
    activated_[i] *= 0.5f;
  }
  due_[i] += 1;
  activated_[i] += activated ? 1 : 0;
}

bool Activations::At(int64_t minute) const {
  const int64_t back = minutes_ - 1 - minute;
  return minute >= 0 && back >= 0 && back < kPast && past_[static_cast<size_t>(back)];
}

void Activations::Step(double count) {
  const bool active = count > 0;
  const int64_t now = minutes_++;
  past_ <<= 1;
  past_[0] = active;
  if (!active) return;
  int phase = 0;
  for (const int period : kPeriods) {
    uint16_t& seen = phases_[phase + now % period];
    if (seen < UINT16_MAX) ++seen;
    phase += period;
  }
  if (last_ >= 0) {
    const int64_t gap = now - last_ - 1;
    if (gap > 0) {
      gaps_[gap_count_++ % kGaps] = static_cast<uint16_t>(std::min<int64_t>(gap, UINT16_MAX));
    }
    burst_ = gap == 0 ? static_cast<uint16_t>(std::min(burst_ + 1, 20)) : 0;
    for (int i = 7; i > 0; --i) starts_[i] = starts_[i - 1];
    starts_[0] = static_cast<uint16_t>(std::min<int64_t>(now - last_, UINT16_MAX));
  }
  last_ = now;
  last_size_ = static_cast<float>(std::min(count, 1e6));
  ++active_count_;
}

void Activations::Features(const PooledHazard& pooled, WarmFeatures& x) const {
  std::fill(x, x + kWarmFeatures, 0.0f);
  const int64_t next = minutes_;
  const int gap = idle();  // idle minutes there will have been when the next one begins
  const int known = static_cast<int>(std::min<uint32_t>(gap_count_, kGaps));
  const auto past_gap = [this](int back) -> int {
    return gaps_[(gap_count_ - 1 - static_cast<uint32_t>(back)) % kGaps];
  };

  // The histogram of gaps: those that ended like this one would, those that lasted as long.
  double same = 0, near = 0, lasted = 0, all = 0, same_lately = 0, lasted_lately = 0;
  double weight = 1, short_weight = 1, longest = 0;
  for (int i = 0; i < known; ++i, weight *= kKeepGap, short_weight *= kKeepGapShort) {
    const int one = past_gap(i);
    all += weight;
    if (i < 20) longest = std::max<double>(longest, one);
    if (one >= gap) {
      lasted += weight;
      lasted_lately += short_weight;
    }
    if (one == gap) {
      same += weight;
      same_lately += short_weight;
    } else if (std::abs(one - gap) <= std::max(1.0, 0.1 * gap)) {
      near += weight;
    }
  }
  const double prior = pooled.At(gap);
  int n = 0;
  const auto add = [&x, &n](double value) { x[n++] = static_cast<float>(value); };
  add(ScaledLogit((same + 0.5 * prior) / (lasted + 0.5)));
  add(ScaledLogit((near + same + prior) / (lasted + near + 1) / 1.5));
  add(ScaledLogit((same_lately + 0.3 * prior) / (lasted_lately + 0.3)));
  add(ScaledLogit(prior));
  add(Log(gap, 0.4, -1));
  add(lasted / (1 + all) * 2 - 1);
  add(Log(all, 0.5, -1));
  add(Log(lasted, 0.5, -0.5));
  add(lasted < 0.5 ? 1 : 0);

  // The same minute some time ago.
  for (const int back : {60, 120, 180, 30, 15, 20, 10, 5, 2, 3, 4}) add(At(next - back));
  add(At(next - 61) || At(next - 59));
  add(At(next - 121) || At(next - 119));
  const double share = static_cast<double>(active_count_) / static_cast<double>(minutes_);
  int phase = 0;
  for (const int period : kPeriods) {
    const double slots = static_cast<double>(next) / period;
    add(ScaledLogit((phases_[phase + next % period] + share) / (slots + 1)));
    phase += period;
    int lately = 0;
    for (int i = 1; i <= 5; ++i) lately += At(next - period * i);
    add(lately / 5.0);
  }
  int near_hours = 0;
  for (int hour = 1; hour <= 3; ++hour) {
    for (int d = -2; d <= 2; ++d) near_hours += At(next - 1 - 60 * hour + d);
  }
  add(near_hours / 8.0);
  int last_hour = 0, last_quarter = 0;
  for (int i = 0; i < 60; ++i) {
    last_hour += past_[i];
    if (i < 15) last_quarter += past_[i];
  }
  add(Log(last_hour, 0.5, -1));
  add(Log(last_quarter, 0.5, 0));
  add(ScaledLogit(share));

  // The last gaps.
  for (int i = 0; i < 3; ++i) add(known > i && past_gap(i) == gap);
  add(known > 0 && std::abs(past_gap(0) - gap) == 1);
  add(known > 0 ? 0.4 * std::log((1.0 + gap) / (1 + past_gap(0))) : 0);
  add(known > 1 ? 0.4 * std::log((1.0 + gap) / (1 + past_gap(1))) : 0);
  add(known > 0 ? 0.4 * std::log((1.0 + gap) / (1 + longest)) : 0);
  int64_t distance = 0;
  int repeats = 0;
  for (uint32_t i = 0; i < 5 && i + 1 < active_count_; ++i) {
    distance += starts_[i];
    repeats += At(next - distance);
  }
  add(repeats / 5.0);
  add(Log(burst_, 0.5, 0));
  add(Log(last_size_, 0.2, 0));
}

KeepWarmModel::KeepWarmModel() : net_(7, -2) { samples_.reserve(kSamples); }

void KeepWarmModel::Learn(const WarmFeatures& x, int gap, bool activated) {
  pooled_.Learn(gap, activated);
  ++lessons_;
  const float rate = kRate * (lessons_ < kEarly ? 1.0f : lessons_ < kSettling ? 0.5f : 0.2f);
  net_.Learn(x, activated ? 1 : 0, 1, rate);
  random_ = random_ * 1664525u + 1013904223u;
  Sample* place = nullptr;
  if (samples_.size() < kSamples) {
    place = &samples_.emplace_back();  // within what was reserved
  } else {
    place = &samples_[(random_ >> 8) % kSamples];
  }
  std::copy(x, x + kWarmFeatures, place->x);
  place->outcome = activated ? 1 : 0;
  random_ = random_ * 1664525u + 1013904223u;
  const Sample& again = samples_[(random_ >> 8) % samples_.size()];
  net_.Learn(again.x, again.outcome, 1, rate);
}

bool WorthWarming(double probability, double memory_gb, double price) {
  return probability >= price * std::pow(std::max(memory_gb, 0.01), kMemoryPower);
}

void GrantByPriority(std::vector<WarmWish*>& wishes, double memory_gb) {
  std::sort(wishes.begin(), wishes.end(), [](const WarmWish* a, const WarmWish* b) {
    if (a->priority != b->priority) return a->priority > b->priority;
    return a->probability * std::max(b->memory_gb, 0.01) >
           b->probability * std::max(a->memory_gb, 0.01);
  });
  double free = memory_gb;
  for (WarmWish* wish : wishes) {
    wish->granted = wish->memory_gb <= free + kRounding;
    if (wish->granted) free -= wish->memory_gb;
  }
}

int CountInversions(const std::vector<WarmWish*>& wishes, double memory_gb) {
  double free = memory_gb;
  for (const WarmWish* wish : wishes) free -= wish->granted ? wish->memory_gb : 0;
  int inversions = 0;
  for (const WarmWish* refused : wishes) {
    if (refused->granted) continue;
    double lower = 0;
    for (const WarmWish* wish : wishes) {
      if (wish->granted && wish->priority < refused->priority) lower += wish->memory_gb;
    }
    // Without anything of lower priority granted there is nobody it was refused for.
    if (lower > 0 && lower + free >= refused->memory_gb - kRounding) ++inversions;
  }
  return inversions;
}

}  // namespace starling::predictor
