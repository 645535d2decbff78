#pragma once

#include <chrono>
#include <functional>
#include <memory_resource>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "predictor/forecaster.h"
#include "predictor/summary.h"
#include "runtime/shadow/sampler.h"

namespace starling::shadow {

// The shadow of one component: samples it, forecasts each metric, and tells what moved. It runs
// beside the component and never executes its code. Not thread-safe.
class Shadow {
 public:
  struct Options {
    double step_s = 1;
    predictor::ExpertSet experts = predictor::kDefaultExperts;
    double summary_tolerance = 0.05;  // see predictor::SummaryWriter
    bool gpus = false;                // the host has some: their metrics too
    // Where forecasters lie; outlives the shadow.
    std::pmr::memory_resource* memory = std::pmr::get_default_resource();
  };
  // Called with a metric and its message; see predictor::ReadSummary.
  using Tell = std::function<void(Metric, const uint8_t* message, size_t size)>;

  Shadow(Sampler sampler, const Options& options);

  // One step: kNotFound when the component is gone. `time_s` is the same moment in seconds since
  // 1970: models outlive the agent and go to other hosts, whose monotonic clocks are others.
  absl::Status Step(std::chrono::steady_clock::time_point now, double time_s, const Tell& tell,
                    const GpuReading* gpus = nullptr);

  // Of Metric: those from here on are not sampled.
  int metrics() const { return static_cast<int>(forecasters_.size()); }

  // `metric` < metrics().
  const predictor::Forecaster& forecaster(Metric metric) const { return forecasters_[metric]; }
  const Sample& last() const { return last_; }

  // All models as bytes, for a restart or to go with the component; metrics in order.
  std::vector<std::string> Save() const;
  // What cannot be taken is left out and learns afresh; the first such reason is returned.
  absl::Status Restore(const std::vector<std::string>& models);

 private:
  Sampler sampler_;
  std::pmr::vector<predictor::Forecaster> forecasters_;
  std::vector<predictor::SummaryWriter> writers_;
  Sample last_ = {};
};

}  // namespace starling::shadow
