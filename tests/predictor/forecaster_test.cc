#include "predictor/forecaster.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <new>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "predictor/gru.h"

namespace {
uint64_t allocations = 0;
}  // namespace

// Counts what is asked of the heap: a step must not.
[[gnu::noinline]] void* operator new(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace starling::predictor {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// After any disturbance the intervals hold again what they promise within so many steps.
constexpr int kRecovery = 200;

class Noise {
 public:
  explicit Noise(uint32_t seed) : state_(seed) {}
  double operator()() {  // -1 to 1
    state_ = state_ * 1664525u + 1013904223u;
    return static_cast<double>(state_ >> 8) / 8388608.0 - 1;
  }

 private:
  uint32_t state_;
};

ForecasterOptions FiveMinutes() {
  ForecasterOptions options;
  options.step_s = 300;
  return options;
}

void ExpectNumbers(const Forecaster& forecaster, const std::string& where) {
  for (int i = 0; i < kHorizonCount; ++i) {
    const Forecast forecast = forecaster.At(i);
    ASSERT_TRUE(std::isfinite(forecast.median)) << where;
    ASSERT_TRUE(std::isfinite(forecast.low)) << where;
    ASSERT_TRUE(std::isfinite(forecast.high)) << where;
    ASSERT_LE(forecast.low, forecast.high) << where;
    for (const double level : {0.01, 0.5, 0.75, 0.9, 0.95, 0.99}) {
      ASSERT_TRUE(std::isfinite(forecaster.Quantile(i, level))) << where;
    }
    const double above = forecaster.ProbabilityAbove(i, forecast.median);
    ASSERT_TRUE(above >= 0 && above <= 1) << where << " " << above;
  }
  ASSERT_TRUE(std::isfinite(forecaster.volatility())) << where;
}

TEST(Forecaster, SaysNothingBeforeTheFirstValue) {
  const Forecaster forecaster(FiveMinutes());
  ExpectNumbers(forecaster, "empty");
  EXPECT_EQ(forecaster.At(0).median, 0);
}

TEST(Forecaster, IsTheConstantOfAConstant) {
  Forecaster forecaster(FiveMinutes());
  for (int i = 0; i < 500; ++i) forecaster.Observe(42.5);
  for (int i = 0; i < kHorizonCount; ++i) {
    EXPECT_NEAR(forecaster.At(i).median, 42.5, 1e-4);
    EXPECT_NEAR(forecaster.At(i).low, 42.5, 1e-3);
    EXPECT_NEAR(forecaster.At(i).high, 42.5, 1e-3);
  }
}

TEST(Forecaster, LearnsADay) {
  Forecaster forecaster(FiveMinutes());
  ASSERT_EQ(forecaster.season(), 288);
  const auto wave = [](int t) { return 50 + 30 * std::sin(2 * M_PI * t / 288.0); };
  double ours = 0, last = 0;
  for (int t = 0; t < 288 * 4; ++t) {
    forecaster.Observe(wave(t));
    if (t < 288 * 2) continue;
    ours += std::abs(forecaster.At(2).median - wave(t + 12));
    last += std::abs(wave(t) - wave(t + 12));
  }
  EXPECT_LT(ours, 0.2 * last);
}

TEST(Forecaster, FindsASeasonNobodyNamed) {
  ForecasterOptions options;
  options.step_s = 7;  // no natural season is a whole number of these
  Forecaster forecaster(options);
  Noise noise(4);
  const auto beat = [](int t) { return t % 37 < 4 ? 80.0 : 10.0; };
  int right = 0, checked = 0;
  for (int t = 0; t < 1500; ++t) {
    forecaster.Observe(beat(t) + noise());
    if (t < 1000) continue;
    ++checked;
    right += std::abs(forecaster.At(1).median - beat(t + 6)) < 10;
  }
  EXPECT_EQ(forecaster.found_season() % 37, 0);
  EXPECT_GT(forecaster.found_season(), 0);
  EXPECT_GT(right, checked * 9 / 10);
}

TEST(Forecaster, SameSamplesSameForecasts) {
  Forecaster a(FiveMinutes()), b(FiveMinutes());
  Noise noise(9);
  for (int i = 0; i < 1000; ++i) {
    const double value = 50 + 20 * noise();
    a.Observe(value);
    b.Observe(value);
  }
  for (int i = 0; i < kHorizonCount; ++i) {
    EXPECT_EQ(a.At(i).median, b.At(i).median);
    EXPECT_EQ(a.At(i).low, b.At(i).low);
    EXPECT_EQ(a.At(i).high, b.At(i).high);
  }
}

TEST(Forecaster, StepsDoNotAllocate) {
  GruNet net;
  ForecasterOptions options = FiveMinutes();
  options.experts = kAllExperts;
  options.net = &net;
  Forecaster forecaster(options);
  Noise noise(2);
  const uint64_t before = allocations;
  for (int i = 0; i < 2000; ++i) {
    forecaster.Observe(i * 300.0, 50 + 20 * noise());
    forecaster.Quantile(1, 0.9);
  }
  EXPECT_EQ(allocations, before);
}

TEST(Forecaster, CoversWhatItPromises) {
  // Noise whose strength changes every 500 steps.
  Forecaster forecaster(FiveMinutes());
  Noise noise(7);
  double covered[kHorizonCount] = {}, checked[kHorizonCount] = {};
  std::vector<Forecast> past[kHorizonCount];
  for (int t = 0; t < 6000; ++t) {
    const double value = 100 + (t / 500 % 2 == 0 ? 5 : 25) * noise();
    for (int i = 0; i < kHorizonCount; ++i) {
      const int made = t - kHorizons[i];
      if (made < 1000) continue;
      checked[i] += 1;
      covered[i] += value >= past[i][made].low && value <= past[i][made].high;
    }
    forecaster.Observe(value);
    for (int i = 0; i < kHorizonCount; ++i) past[i].push_back(forecaster.At(i));
  }
  for (int i = 0; i < kHorizonCount; ++i) {
    EXPECT_GT(covered[i] / checked[i], 0.88) << i;
    EXPECT_LT(covered[i] / checked[i], 0.95) << i;
  }
}

// After a long calm every error is many times the usual one. For as long as those were remembered,
// intervals reached ten times as far as the series ever did.
TEST(Forecaster, ItsIntervalsStayWhereTheSeriesIs) {
  Forecaster forecaster(ForecasterOptions{});
  for (int i = 0; i < 300; ++i) forecaster.Observe(2);
  uint32_t state = 7;
  for (int i = 0; i < 200; ++i) {
    state = state * 1664525u + 1013904223u;
    forecaster.Observe(2 + (state >> 8) % 80);
    for (int horizon = 0; horizon < kHorizonCount; ++horizon) {
      ASSERT_LE(forecaster.At(horizon).high, 82 + 80 + 1) << i;
      ASSERT_LE(forecaster.Quantile(horizon, 0.99), 82 + 80 + 1) << i;
    }
  }
}

// How far the forecast goes beyond the newest value, as a share of what the rise will really add.
double Foreseen(const Forecaster& forecaster, int horizon, double now, double slope) {
  return (forecaster.At(horizon).median - now) / (slope * kHorizons[static_cast<size_t>(horizon)]);
}

// A component that rested and then grows steadily: farther horizons see it, and see no more of it.
TEST(Forecaster, FollowsASteadyRiseAfterACalm) {
  for (const int calm : {20, 60, 300, 2000}) {
    for (const double level : {0.0, 1e2, 1e8}) {
      for (const double noise : {0.0, 1e-4, 1e-2}) {
        const double unit = level > 0 ? level : 1, slope = 0.02 * unit;
        Noise random(3);
        Forecaster forecaster{ForecasterOptions()};
        // It had grown before, too.
        for (int t = 0; t < 30; ++t) forecaster.Observe(level * t / 30);
        for (int t = 0; t < calm; ++t) forecaster.Observe(level + noise * unit * random());
        for (int t = 1; t <= 150; ++t) {
          const double now = level + slope * t + noise * unit * random();
          forecaster.Observe(now);
          for (int horizon = 1; horizon < kHorizonCount; ++horizon) {
            const double foreseen = Foreseen(forecaster, horizon, now, slope);
            const std::string where = absl::StrCat("calm ", calm, ", level ", level, ", noise ",
                                                   noise, ", step ", t, ", horizon ", horizon);
            if (t >= 3) {
              EXPECT_LT(foreseen, 2) << where;
            }
            if (t >= 60) {
              EXPECT_GT(foreseen, 0.5) << where;
            }
          }
        }
      }
    }
  }
}

TEST(Forecaster, PassesOverWhatIsNoNumber) {
  Forecaster forecaster(FiveMinutes());
  for (int i = 0; i < 100; ++i) forecaster.Observe(10 + i % 3);
  const Forecast before = forecaster.At(0);
  EXPECT_EQ(forecaster.Observe(kNan), Forecaster::Taken::kNoNumber);
  EXPECT_EQ(forecaster.Observe(kInfinity), Forecaster::Taken::kNoNumber);
  EXPECT_EQ(forecaster.Observe(-kInfinity), Forecaster::Taken::kNoNumber);
  ExpectNumbers(forecaster, "no numbers");
  EXPECT_NEAR(forecaster.At(0).median, before.median, 2);
}

TEST(Forecaster, KeepsTimeApart) {
  Forecaster forecaster(FiveMinutes());
  double now = 1e9;
  for (int i = 0; i < 50; ++i)
    EXPECT_EQ(forecaster.Observe(now += 300, 5), Forecaster::Taken::kLearned);
  EXPECT_EQ(forecaster.Observe(now, 5), Forecaster::Taken::kSameOrOlder);
  EXPECT_EQ(forecaster.Observe(now - 300, 5), Forecaster::Taken::kSameOrOlder);
  EXPECT_EQ(forecaster.Observe(now += 1500, 5), Forecaster::Taken::kFilledGap);
  EXPECT_EQ(forecaster.steps(), 50u + 5u);
  EXPECT_EQ(forecaster.Observe(now += 1e9, 5), Forecaster::Taken::kFilledGap);
  EXPECT_EQ(forecaster.Observe(now -= 1e8, 5), Forecaster::Taken::kClockMoved);
  EXPECT_EQ(forecaster.Observe(now += 300, 5), Forecaster::Taken::kLearned);
  EXPECT_EQ(forecaster.Observe(kNan, 5), Forecaster::Taken::kLearned);
  ExpectNumbers(forecaster, "clock");
}

// Series that a sampler may hand over on a bad day. `value` of step t; the disturbance ends at
// kDisturbed, from where on a tame series has to be covered again.
struct Adversary {
  std::string name;
  std::function<double(int, Noise&)> value;
};

constexpr int kDisturbed = 1500;

class Adversarial : public testing::TestWithParam<int> {};

std::vector<Adversary> Adversaries() {
  return {
      {"constant", [](int, Noise&) { return 3.0; }},
      {"zero", [](int, Noise&) { return 0.0; }},
      {"spikes", [](int t, Noise& n) { return t % 97 == 0 ? 1e9 : 5 + n(); }},
      {"steps", [](int t, Noise& n) { return (t / 200 % 2 == 0 ? 10 : 1000) + n(); }},
      {"no numbers", [](int t, Noise& n) { return t % 3 == 0 ? kNan : 5 + n(); }},
      {"only no numbers", [](int, Noise&) { return kNan; }},
      {"infinite", [](int t, Noise& n) { return t % 11 == 0 ? kInfinity : 5 + n(); }},
      {"negative", [](int, Noise& n) { return -1e6 + 1e5 * n(); }},
      {"both signs", [](int, Noise& n) { return 1e5 * n(); }},
      {"huge", [](int, Noise& n) { return 1e300 * (1 + n()); }},
      {"tiny", [](int, Noise& n) { return 1e-300 * (1 + n()); }},
      {"alternating", [](int t, Noise&) { return t % 2 == 0 ? 0.0 : 1e12; }},
      {"counter with resets", [](int t, Noise&) { return 1e6 * (t % 333); }},
      {"exponential", [](int t, Noise&) { return std::exp(std::min(t, 700)); }},
  };
}

TEST_P(Adversarial, GivesNumbersAndRecovers) {
  const Adversary adversary = Adversaries()[GetParam()];
  for (const ExpertSet experts : {kDefaultExperts, kAllExperts}) {
    GruNet net;
    ForecasterOptions options = FiveMinutes();
    options.experts = experts;
    options.net = &net;
    Forecaster forecaster(options);
    Noise noise(11);
    for (int t = 0; t < kDisturbed; ++t) {
      forecaster.Observe(adversary.value(t, noise));
      ExpectNumbers(forecaster, adversary.name + " at " + std::to_string(t));
      if (HasFatalFailure()) return;
    }
    std::vector<Forecast> past;
    int covered = 0, checked = 0;
    for (int t = 0; t < kRecovery + 400; ++t) {
      const double value = 100 + 10 * noise();
      if (t > kRecovery) {
        ++checked;
        covered += value >= past[t - 1].low && value <= past[t - 1].high;
      }
      forecaster.Observe(value);
      past.push_back(forecaster.At(0));
    }
    EXPECT_GT(covered, checked * 85 / 100) << adversary.name;
    // ... and not by holding everything that ever was.
    EXPECT_NEAR(forecaster.At(0).median, 100, 15) << adversary.name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Adversarial,
                         testing::Range(0, static_cast<int>(Adversaries().size())));

TEST(Forecaster, SurvivesGapsAndAClockThatJumps) {
  Forecaster forecaster(FiveMinutes());
  Noise noise(3);
  double now = 0;
  for (int t = 0; t < 3000; ++t) {
    now += 300 * (t % 50 == 0 ? 1000 : 1);
    if (t % 171 == 0) now -= 1e6;
    forecaster.Observe(now, 50 + 10 * noise());
    ExpectNumbers(forecaster, std::to_string(t));
    if (HasFatalFailure()) return;
  }
  EXPECT_NEAR(forecaster.At(0).median, 50, 10);
}

TEST(Forecaster, WeightsAreShares) {
  Forecaster forecaster(FiveMinutes());
  Noise noise(5);
  for (int t = 0; t < 700; ++t) forecaster.Observe(50 + 10 * noise());
  for (int i = 0; i < kHorizonCount; ++i) {
    double sum = 0;
    for (int k = 0; k < kExpertCount; ++k) {
      const double weight = forecaster.Weight(k, i);
      EXPECT_GE(weight, 0);
      sum += weight;
    }
    EXPECT_NEAR(sum, 1, 1e-6);
    EXPECT_EQ(forecaster.Weight(kRecurrent, i), 0);  // not asked for
  }
}

TEST(GruTrainer, LearnsWhatTheLastValueDoesNotKnow) {
  // A sawtooth: the next value is the last one and a bit, or a fall.
  GruNet net(1);
  GruTrainer trainer(&net);
  ForecasterOptions options;
  options.step_s = 7;
  options.experts = Only(kLastValue) | Only(kRecurrent);
  options.net = &net;
  Forecaster forecaster(options);
  const auto saw = [](int t) { return static_cast<double>(t % 8); };
  double ours = 0, last = 0;
  for (int t = 0; t < 12000; ++t) {
    forecaster.Observe(saw(t));
    if (t > 100 && t < 10000) {
      trainer.Learn(forecaster.history(), static_cast<float>(forecaster.center()),
                    static_cast<float>(forecaster.scale()));
    }
    if (t < 11000) continue;
    ours += std::abs(forecaster.ExpertForecast(kRecurrent, 0) - saw(t + 1));
    last += std::abs(saw(t) - saw(t + 1));
  }
  EXPECT_LT(ours, 0.5 * last);
}

}  // namespace
}  // namespace starling::predictor
