#include "runtime/shadow/shadow.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "predictor/model_codec.h"

namespace starling::shadow {

Shadow::Shadow(Sampler sampler, const Options& options)
    : sampler_(std::move(sampler)), forecasters_(options.memory) {
  predictor::ForecasterOptions forecaster;
  forecaster.step_s = options.step_s;
  forecaster.experts = options.experts;
  const int metrics = options.gpus ? kMetricCount : kGpu;
  forecasters_.reserve(static_cast<size_t>(metrics));
  for (int i = 0; i < metrics; ++i) {
    forecasters_.emplace_back(forecaster);
    writers_.emplace_back(options.summary_tolerance);
  }
}

absl::Status Shadow::Step(std::chrono::steady_clock::time_point now, double time_s,
                          const Tell& tell, const GpuReading* gpus) {
  ASSIGN_OR_RETURN(last_, sampler_.Take(now, gpus));
  for (int i = 0; i < metrics(); ++i) {
    if (i + 1 < metrics()) forecasters_[i + 1].Prefetch();
    predictor::Forecaster& forecaster = forecasters_[i];
    const double value = last_.values[i];
    // Nothing is known of it yet, and nothing is to be told.
    if (!std::isfinite(value) && forecaster.steps() == 0) continue;
    forecaster.Observe(time_s, value);
    uint8_t message[predictor::Summary::kMostBytes];
    const size_t size = writers_[i].Write(forecaster, value, message);
    if (size > 0) tell(static_cast<Metric>(i), message, size);
  }
  return absl::OkStatus();
}

std::vector<std::string> Shadow::Save() const {
  std::vector<std::string> models;
  for (const predictor::Forecaster& forecaster : forecasters_) {
    models.push_back(predictor::ModelCodec::Save(forecaster));
  }
  return models;
}

absl::Status Shadow::Restore(const std::vector<std::string>& models) {
  absl::Status first;
  for (size_t i = 0; i < std::min(models.size(), forecasters_.size()); ++i) {
    auto loaded = predictor::ModelCodec::Load(models[i]);
    if (loaded.ok() && loaded->options().step_s != forecasters_[i].options().step_s) {
      loaded = absl::FailedPreconditionError("a model of another sampling interval");
    }
    if (loaded.ok() && loaded->options().experts != forecasters_[i].options().experts) {
      loaded = absl::FailedPreconditionError("a model of other experts");
    }
    if (loaded.ok()) {
      forecasters_[i] = std::move(*loaded);
    } else if (first.ok()) {
      first = Annotate(loaded.status(), MetricName(static_cast<int>(i)));
    }
  }
  return first;
}

}  // namespace starling::shadow
