#include "predictor/idleness.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace starling::predictor {
namespace {

constexpr float kRate = 2e-3f;
// Moments of a gap, in seconds, at which one may ask.
constexpr double kMoments[] = {1,  2,  3,  4,  5,  6,  8,  10, 12,  15,  18,  21,
                               25, 30, 35, 40, 50, 60, 75, 90, 120, 150, 180, 240};
constexpr int kMomentCount = static_cast<int>(std::size(kMoments));

constexpr double kKeepDebt = 0.95;  // of it, a decision later
constexpr double kMostDebt = 10, kDebtWeight = 0.03;
constexpr double kLoadWeight = 0.2, kEasyLoad = 0.6;
constexpr double kLeast = 0.3, kMost = 0.98;

float Log(double x, double scale, double offset = 0) {
  return static_cast<float>(std::log(1 + std::max(x, 0.0)) * scale + offset);
}

// The features that depend on the time since the last input.
void Elapse(const IdleFeatures& from, double idle_s, IdleFeatures& x) {
  std::copy(from, from + kIdleFeatures, x);
  const double log = std::log(std::max(idle_s, 1.0));
  x[0] = static_cast<float>(0.5 * log - 1);
  x[1] = x[0] * x[0];
  x[2] = x[0] * x[3];
  x[kIdleFeatures - 2] = x[0] * x[4];
  x[kIdleFeatures - 1] = static_cast<float>(0.7 * std::max(0.0, std::log(idle_s / 15)));
}

}  // namespace

bool InputActivity::Step(double time_s, const Activity& now) {
  if (!std::isfinite(time_s)) return false;
  const bool first = time_s_ < 0;
  const double elapsed = first ? 1 : time_s - time_s_;
  if (elapsed <= 0) return false;  // a clock set back, or the same second again
  const bool gap = !first && elapsed > 1;
  if (gap) {
    last_gap_s_ = elapsed - 1;
    older_gap_s_ = newer_gap_s_;
    newer_gap_s_ = static_cast<float>(last_gap_s_);
    gaps5_ *= static_cast<float>(std::exp(-elapsed / 300));
    gaps30_ *= static_cast<float>(std::exp(-elapsed / 1200));
    if (last_gap_s_ >= 5) gaps5_ += 1;
    if (last_gap_s_ >= 30) {
      gaps30_ += 1;
      last_long_s_ = time_s;
    }
    mean_gap_ += 0.2f * (static_cast<float>(last_gap_s_) - mean_gap_);
    run_ = 0;
  }
  ++run_;
  const auto decay = [elapsed](float& sum, double over_s, double amount) {
    if (!std::isfinite(amount)) amount = 0;
    sum = static_cast<float>(sum * std::exp(-elapsed / over_s) + std::clamp(amount, 0.0, 1e12));
  };
  const double events = now.moves + now.drags + now.clicks + now.scrolls + now.keys;
  decay(events10_, 10, events);
  decay(events60_, 60, events);
  decay(events300_, 300, events);
  decay(distance10_, 10, now.distance_px);
  decay(clicks60_, 60, now.clicks);
  decay(drags30_, 30, now.drags);
  decay(scrolls30_, 30, now.scrolls);
  decay(keys10_, 10, now.keys);
  decay(keys60_, 60, now.keys);
  decay(network10_, 10, now.network_bytes);
  decay(frames10_, 10, now.frames);
  decay(gpu10_, 10, now.gpu);
  lonely_ = gap;
  previous_clicks_ = static_cast<float>(last_.clicks);
  last_ = now;
  time_s_ = time_s;
  return gap;
}

void InputActivity::Features(IdleFeatures& x) const {
  std::fill(x, x + kIdleFeatures, 0.0f);
  int n = 3;  // the first three are Elapse's
  const auto add = [&x, &n](double value) {
    x[n++] = static_cast<float>(std::isfinite(value) ? std::clamp(value, -8.0, 8.0) : 0);
  };
  add(Log(events10_, 0.3, -1));
  add(Log(events300_, 0.3, -1.5));
  add(Log(events60_, 0.3, -1.5));
  add(Log(distance10_, 0.15, -0.5));
  add(Log(clicks60_, 1));
  add(Log(last_.moves, 0.4));
  add(Log(last_.drags, 0.4));
  add(std::min(last_.clicks, 2.0));
  add(Log(last_.scrolls, 0.5));
  add(Log(last_.distance_px, 0.2));
  add(Log(time_s_, 0.125, -1));
  add(Log(gaps5_, 0.7));
  add(Log(gaps30_, 0.7));
  add(Log(time_s_ - last_long_s_, 1.0 / 6, -0.7));
  add(Log(drags30_, 0.3));
  add(Log(scrolls30_, 0.3));
  add(Log(newer_gap_s_, 0.3));
  add(Log(older_gap_s_, 0.3));
  add(Log(run_, 0.3, -1));
  add(lonely_);
  add(Log(previous_clicks_ + last_.clicks, 1));
  add(Log(mean_gap_, 0.3, -0.5));
  add(Log(keys10_, 0.5));
  add(Log(keys60_, 0.3));
  add(Log(network10_, 0.05));
  add(Log(frames10_, 0.2));
  add(gpu10_ * 0.1);
}

IdleModel::IdleModel()
    : nets_{OnlineNet<kIdleFeatures, 6>(7, -1), OnlineNet<kIdleFeatures, 6>(8, -1),
            OnlineNet<kIdleFeatures, 6>(9, -1)} {}

double IdleModel::Probability(const IdleFeatures& from, double idle_s) const {
  IdleFeatures x;
  Elapse(from, idle_s, x);
  double sum = 0;
  for (const auto& net : nets_) sum += net.Probability(x);
  return sum / static_cast<double>(nets_.size());
}

void IdleModel::Learn(const IdleFeatures& from, double gap_s, double rate) {
  int moments = 0;
  while (moments < kMomentCount && gap_s > kMoments[moments]) ++moments;
  if (moments == 0) return;
  IdleFeatures x;
  for (auto& net : nets_) {
    random_ = random_ * 1664525u + 1013904223u;
    const double moment = kMoments[(random_ >> 8) % static_cast<uint32_t>(moments)];
    Elapse(from, moment, x);
    net.Learn(x, gap_s >= moment + kAhead ? 1 : 0, static_cast<float>(moments) / 4,
              kRate * static_cast<float>(rate));
  }
}

void IdleThreshold::Mistake(double cost) {
  if (!(cost > 0)) return;
  debt_ = std::min(kMostDebt, kKeepDebt * debt_ + std::min(cost, kMostDebt));
}

void IdleThreshold::Right() { debt_ *= kKeepDebt; }

namespace {
constexpr std::string_view kIdleMark = "STIDLE1";
}  // namespace

std::string IdleModel::Save() const {
  static_assert(std::is_trivially_copyable_v<decltype(nets_)>);
  std::string saved(kIdleMark);
  saved.append(reinterpret_cast<const char*>(&random_), sizeof(random_));
  saved.append(reinterpret_cast<const char*>(&nets_), sizeof(nets_));
  return saved;
}

bool IdleModel::Restore(std::string_view saved) {
  if (saved.size() != kIdleMark.size() + sizeof(random_) + sizeof(nets_) ||
      saved.substr(0, kIdleMark.size()) != kIdleMark) {
    return false;
  }
  IdleModel read;
  saved.remove_prefix(kIdleMark.size());
  std::memcpy(&read.random_, saved.data(), sizeof(random_));
  std::memcpy(static_cast<void*>(&read.nets_), saved.data() + sizeof(random_), sizeof(nets_));
  for (const auto& net : read.nets_) {
    if (!net.Valid()) return false;
  }
  *this = read;
  return true;
}

double IdleThreshold::Shift(double load) const {
  if (!std::isfinite(load)) load = kEasyLoad;
  const double pressed = std::clamp(load - kEasyLoad, -1.0, 1.0);
  return kDebtWeight * debt_ - kLoadWeight * pressed;
}

double IdleThreshold::At(double load) const {
  return std::clamp(base_ + Shift(load), kLeast, kMost);
}

}  // namespace starling::predictor
