// Costs of the predictor, as JSON on standard output: time and memory of a step, a host full of
// components, decisions, and what is allocated on the way. Usage: predictor-bench [--quick]

#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <memory_resource>
#include <new>
#include <string>
#include <vector>

#include "base/huge_pool.h"
#include "nlohmann/json.hpp"
#include "predictor/forecaster.h"
#include "predictor/gru.h"
#include "predictor/idleness.h"
#include "predictor/keep_warm.h"
#include "predictor/onset.h"

namespace {

using nlohmann::json;
using namespace starling::predictor;

uint64_t allocations = 0;

// Of this thread's processor time: what others do on the machine does not count.
double Now() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

uint32_t random_state = 1;
double Uniform() {
  random_state = random_state * 1664525u + 1013904223u;
  return static_cast<double>(random_state >> 8) / 16777216.0;
}

// A restless load: a daily wave, a slow walk, noise and a spike now and then.
std::vector<double> Load(size_t steps) {
  std::vector<double> values(steps);
  double walk = 40;
  for (size_t i = 0; i < steps; ++i) {
    walk = std::clamp(walk + Uniform() - 0.5, 10.0, 80.0);
    const double spike = Uniform() < 0.01 ? 60 * Uniform() : 0;
    values[i] =
        walk + 10 * std::sin(static_cast<double>(i) * 2 * M_PI / 288) + 3 * Uniform() + spike;
  }
  return values;
}

json Summarize(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  const double median = samples[samples.size() / 2];
  std::vector<double> off;
  for (const double sample : samples) off.push_back(std::abs(sample - median));
  std::sort(off.begin(), off.end());
  return {{"n", samples.size()},
          {"median", median},
          {"mad", off[off.size() / 2]},
          {"min", samples.front()},
          {"max", samples.back()}};
}

double sink = 0;

// Nanoseconds of a step, of one forecaster in cache: repeated runs after a warm-up.
json StepCost(ExpertSet experts, bool train, int repetitions, size_t steps) {
  const std::vector<double> values = Load(steps);
  GruNet net;
  GruTrainer trainer(&net);
  ForecasterOptions options;
  options.step_s = 300;
  options.experts = experts;
  options.net = &net;
  std::vector<double> samples, training;
  uint64_t allocated = 0;
  for (int i = 0; i <= repetitions; ++i) {
    Forecaster forecaster(options);
    for (size_t t = 0; t < 1000; ++t) forecaster.Observe(values[t % values.size()]);
    const uint64_t before = allocations;
    const double started = Now();
    for (const double value : values) {
      forecaster.Observe(value);
      sink += forecaster.At(2).high;
    }
    const double took = Now() - started;
    allocated += allocations - before;
    if (i > 0) samples.push_back(1e9 * took / static_cast<double>(values.size()));
    if (train) {
      const double lesson = Now();
      for (int k = 0; k < 200; ++k) {
        trainer.Learn(forecaster.history(), static_cast<float>(forecaster.center()),
                      static_cast<float>(forecaster.scale()));
      }
      training.push_back(1e9 * (Now() - lesson) / 200);
    }
  }
  json out = {{"ns_per_step", Summarize(samples)}, {"allocations", allocated}};
  if (train) out["ns_per_lesson"] = Summarize(training);
  return out;
}

// A host: `components` with 6 metrics each, all of them a step a second, where the agent has them.
// Their state does not fit into any cache.
json HostCost(size_t components, int rounds) {
  constexpr size_t kMetrics = 6;
  const std::vector<double> values = Load(4096);
  starling::HugePool pool;
  std::vector<std::pmr::vector<Forecaster>> shadows;
  ForecasterOptions options;
  options.step_s = 1;
  for (size_t i = 0; i < components; ++i) {
    std::pmr::vector<Forecaster>& shadow = shadows.emplace_back(&pool);
    shadow.reserve(kMetrics);
    for (size_t metric = 0; metric < kMetrics; ++metric) shadow.emplace_back(options);
  }
  std::vector<double> shares;
  shares.reserve(static_cast<size_t>(rounds));
  const uint64_t before = allocations;
  for (int round = 0; round < rounds + 40; ++round) {
    const double started = Now();
    for (size_t i = 0; i < components; ++i) {
      for (size_t metric = 0; metric < kMetrics; ++metric) {
        if (metric + 1 < kMetrics) {
          shadows[i][metric + 1].Prefetch();
        } else if (i + 1 < components) {
          shadows[i + 1][0].Prefetch();
        }
        const size_t at = static_cast<size_t>(round) + 37 * (i * kMetrics + metric);
        shadows[i][metric].Observe(values[at % values.size()]);
      }
    }
    if (round >= 40) shares.push_back(Now() - started);  // of the second it has
  }
  const uint64_t allocated = allocations - before;
  return {{"components", components},
          {"metrics", kMetrics},
          {"bytes", components * kMetrics * sizeof(Forecaster)},
          {"share_of_a_core_at_1_hz", Summarize(shares)},
          {"allocations", allocated}};
}

json Percentiles(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  const auto at = [&samples](double share) {
    return samples[static_cast<size_t>(share * static_cast<double>(samples.size() - 1))];
  };
  return {{"n", samples.size()}, {"median", at(0.5)}, {"p99", at(0.99)}, {"max", at(1)}};
}

// One decision of each kind, from features to answer.
json Decisions(int count) {
  const std::vector<double> values = Load(2000);
  ForecasterOptions options;
  options.step_s = 300;
  Forecaster forecaster(options);
  OnsetWatch watch(60);
  const auto onset = std::make_unique<OnsetModel>();
  const auto warm = std::make_unique<KeepWarmModel>();
  const auto idle = std::make_unique<IdleModel>();
  Activations activations;
  InputActivity input;
  for (size_t t = 0; t < values.size(); ++t) {
    forecaster.Observe(values[t]);
    watch.Step(values[t]);
    activations.Step(t % 7 == 0 ? 1 : 0);
    if (t % 5 != 0) input.Step(static_cast<double>(t), {3, 0, 1, 0, 40});
  }
  std::vector<double> onsets, warms, idles;
  for (int i = 0; i < count; ++i) {
    const double started = Now();
    OnsetFeatures x;
    watch.Features(forecaster, 1, x);
    sink += onset->Score(1, x, OddsAbove(forecaster, 1, 60));
    const double then = Now();
    WarmFeatures w;
    activations.Features(warm->pooled(), w);
    sink += warm->Probability(w);
    const double later = Now();
    IdleFeatures f;
    input.Features(f);
    sink += idle->Probability(f, 12);
    const double ended = Now();
    onsets.push_back(1e9 * (then - started));
    warms.push_back(1e9 * (later - then));
    idles.push_back(1e9 * (ended - later));
  }
  return {{"onset_ns", Percentiles(onsets)},
          {"keep_warm_ns", Percentiles(warms)},
          {"idle_ns", Percentiles(idles)}};
}

}  // namespace

// Counts what the code above asks the heap for.
[[gnu::noinline]] void* operator new(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

int main(int argc, char** argv) {
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  const int repetitions = quick ? 2 : 15;
  const size_t steps = quick ? 5000 : 40000;
  json out;
  out["state_bytes"] = sizeof(Forecaster);
  out["default"] = StepCost(kDefaultExperts, false, repetitions, steps);
  out["with_recurrent"] = StepCost(kDefaultExperts | Only(kRecurrent), true, repetitions, steps);
  out["all_experts"] = StepCost(kAllExperts, false, repetitions, steps);
  out["host"] = HostCost(quick ? 200 : 10000, quick ? 5 : 20);
  out["decisions"] = Decisions(quick ? 500 : 20000);
  out["sink"] = std::isfinite(sink);
  std::cout << out.dump(1) << "\n";
  return 0;
}
