#pragma once

#include <bitset>
#include <cstdint>
#include <memory>
#include <vector>

#include "predictor/online_net.h"

// When to keep a ghost warm for a component that is activated now and then, over minutes to hours:
// the probability that it will be activated in the next minute, against what a minute of it costs.

namespace starling::predictor {

inline constexpr int kWarmFeatures = 56;
using WarmFeatures = float[kWarmFeatures];

// How often components of this host were activated after so many idle minutes: what is believed of
// one that has no past of its own. Shared.
class PooledHazard {
 public:
  static constexpr int kLongest = 2000;  // minutes; longer gaps count as this one
  double At(int gap) const;
  void Learn(int gap, bool activated);

 private:
  float due_[kLongest] = {};
  float activated_[kLongest] = {};
};

// One component's activations, a step a minute: a discounted histogram of its gaps, its rhythm
// (fractions of an hour) and the last four hours. About 1 KiB.
class Activations {
 public:
  // The minute that just ended: activations in it.
  void Step(double count);

  bool active() const { return minutes_ > 0 && past_[0]; }  // in that minute
  bool ever() const { return last_ >= 0; }
  // Idle minutes since the last active one.
  int idle() const { return static_cast<int>(minutes_ - 1 - last_); }

  // What is known of the next minute; ever() and !active().
  void Features(const PooledHazard& pooled, WarmFeatures& x) const;

 private:
  static constexpr int kPast = 256;  // minutes
  static constexpr int kGaps = 64;
  static constexpr int kPeriods[] = {5, 10, 15, 30, 60};  // minutes: the rhythms of timers
  static constexpr int kPhases = 5 + 10 + 15 + 30 + 60;

  bool At(int64_t minute) const;

  std::bitset<kPast> past_;    // [0] is the minute that just ended
  uint16_t gaps_[kGaps] = {};  // idle minutes between activations, a ring
  uint16_t starts_[8] = {};  // distances of the last active minutes to the one before, newest first
  uint16_t phases_[kPhases] = {};
  uint32_t gap_count_ = 0, active_count_ = 0;
  int64_t minutes_ = 0;
  int64_t last_ = -1;  // the last active minute
  float last_size_ = 0;
  uint16_t burst_ = 0;  // active minutes in a row before it
};

// The probability, learned from all components of a host as it goes.
class KeepWarmModel {
 public:
  KeepWarmModel();

  const PooledHazard& pooled() const { return pooled_; }
  double Probability(const WarmFeatures& x) const { return net_.Probability(x); }
  // A component was (or was not) activated in the minute that `x` was made for, `gap` idle minutes
  // after the last time.
  void Learn(const WarmFeatures& x, int gap, bool activated);

 private:
  struct Sample {
    WarmFeatures x;
    float outcome;
  };
  static constexpr size_t kSamples = 16384;  // kept to be learned from once more

  PooledHazard pooled_;
  OnlineNet<kWarmFeatures, 20> net_;
  std::vector<Sample> samples_;
  uint64_t lessons_ = 0;
  uint32_t random_ = 3;
};

// What a warm minute has to promise: `price` is the probability at which a ghost of 1 GB is worth
// keeping. Memory counts a little less than in proportion, as a miss costs every component.
bool WorthWarming(double probability, double memory_gb, double price);

// A wish to be kept warm.
struct WarmWish {
  int priority = 0;  // larger goes first
  double memory_gb = 0;
  double probability = 0;
  bool granted = false;  // the answer
};

// Grants wishes within `memory_gb`: by priority, then by probability for the memory. No wish is
// refused for the sake of one of lower priority: what the lower ones and the free memory hold
// together would not have been enough for it. Sorts `wishes`.
void GrantByPriority(std::vector<WarmWish*>& wishes, double memory_gb);

// Refused wishes that would have fitted into what wishes of lower priority were granted and what is
// free: 0 after GrantByPriority.
int CountInversions(const std::vector<WarmWish*>& wishes, double memory_gb);

}  // namespace starling::predictor
