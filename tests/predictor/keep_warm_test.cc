#include "predictor/keep_warm.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

namespace starling::predictor {
namespace {

TEST(KeepWarmModel, KnowsATimerFromTheIdle) {
  const auto model = std::make_unique<KeepWarmModel>();
  Activations timer, dead;
  struct {
    WarmFeatures x;
    int gap = 0;
    bool made = false;
  } pending[2];
  double at_timer = 0, before_timer = 0, at_dead = 0;
  int timers = 0;
  for (int t = 0; t < 3000; ++t) {
    Activations* all[] = {&timer, &dead};
    for (int i = 0; i < 2; ++i) {
      const bool active = i == 0 ? t % 15 == 0 : t == 3;
      if (pending[i].made) {
        const double probability = model->Probability(pending[i].x);
        if (t > 2000 && i == 0) (active ? at_timer : before_timer) += probability;
        if (t > 2000 && i == 1) at_dead += probability;
        timers += t > 2000 && active;
        model->Learn(pending[i].x, pending[i].gap, active);
      }
      all[i]->Step(active ? 1 : 0);
      pending[i].made = all[i]->ever() && !all[i]->active();
      if (!pending[i].made) continue;
      pending[i].gap = all[i]->idle();
      all[i]->Features(model->pooled(), pending[i].x);
    }
  }
  ASSERT_GT(timers, 0);
  EXPECT_GT(at_timer / timers, 0.9);
  EXPECT_LT(before_timer / (timers * 13.0), 0.05);
  EXPECT_LT(at_dead / 1000, 0.02);
}

TEST(GrantByPriority, TheHigherGoFirst) {
  std::vector<WarmWish> wishes = {{0, 1, 0.9}, {3, 2, 0.1}, {1, 2, 0.5}, {3, 1, 0.2}};
  std::vector<WarmWish*> order;
  for (WarmWish& wish : wishes) order.push_back(&wish);
  GrantByPriority(order, 4);
  EXPECT_TRUE(wishes[1].granted);
  EXPECT_TRUE(wishes[3].granted);
  EXPECT_FALSE(wishes[2].granted);  // 1 GB is left
  EXPECT_TRUE(wishes[0].granted);   // what is left was not enough for the one above
  EXPECT_EQ(CountInversions(order, 4), 0);
}

TEST(GrantByPriority, NeverInverts) {
  uint32_t state = 1;
  const auto next = [&state](uint32_t bound) {
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % bound;
  };
  for (int round = 0; round < 500; ++round) {
    std::vector<WarmWish> wishes(1 + next(30));
    std::vector<WarmWish*> order;
    for (WarmWish& wish : wishes) {
      wish = {static_cast<int>(next(4)), 0.1 * (1 + next(40)), 0.01 * next(100)};
      order.push_back(&wish);
    }
    const double memory = 0.1 * next(400);
    GrantByPriority(order, memory);
    EXPECT_EQ(CountInversions(order, memory), 0);
    double granted = 0;
    for (const WarmWish& wish : wishes) granted += wish.granted ? wish.memory_gb : 0;
    EXPECT_LE(granted, memory + 1e-9);
  }
}

TEST(CountInversions, SeesOne) {
  WarmWish low{0, 2, 0.5, true}, high{1, 2, 0.5, false};
  EXPECT_EQ(CountInversions({&low, &high}, 2), 1);
  EXPECT_EQ(CountInversions({&low, &high}, 1), 0);  // it would not have fitted at all
}

TEST(WorthWarming, LargeOnesHaveToPromiseMore) {
  EXPECT_TRUE(WorthWarming(0.01, 1, 0.01));
  EXPECT_FALSE(WorthWarming(0.01, 4, 0.01));
  EXPECT_TRUE(WorthWarming(0.01, 0.2, 0.02));
}

}  // namespace
}  // namespace starling::predictor
