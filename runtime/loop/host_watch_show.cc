// The part of HostWatch that is for people.

#include <algorithm>
#include <array>
#include <cmath>

#include "runtime/loop/host_watch.h"

namespace starling::loop {
namespace {

using predictor::Forecast;
using predictor::Forecaster;
using predictor::kHorizonCount;
using predictor::kHorizons;
using reservations::Amounts;
using reservations::Resource;

double Known(double value) { return std::isfinite(value) ? value : 0; }

// The resource that a metric is of, of those that are counted.
std::optional<Resource> ResourceOf(shadow::Metric metric) {
  switch (metric) {
    case shadow::kCpu:
      return Resource::kCpu;
    case shadow::kMemory:
      return Resource::kMemory;
    case shadow::kGpu:
      return Resource::kGpu;
    case shadow::kGpuMemory:
      return Resource::kGpuMemory;
    default:
      return std::nullopt;
  }
}

// In thousandths.
bool Counted(Resource resource) { return resource == Resource::kCpu || resource == Resource::kGpu; }

}  // namespace

// Farther than the horizons, as hints have it: of its error nothing is known.
void HostWatch::ShowNeed(double when_s, const std::array<double, decisions::kLevelCount>& levels,
                         double scale, v1::MetricForecast& metric) {
  v1::ForecastAhead* ahead = metric.add_ahead();
  ahead->set_ahead_s(when_s);
  ahead->set_p50(scale * levels[0]);
  ahead->set_p90(scale * levels[2]);
  ahead->set_p99(scale * levels[4]);
  ahead->set_low(scale * levels[0]);
  ahead->set_high(scale * levels[3]);
  ahead->set_hinted(true);
}

void HostWatch::ShowExperts(const Forecaster& forecaster, int horizon, v1::ForecastAhead& ahead) {
  ahead.set_error(forecaster.interval(horizon).scale());
  for (int expert = 0; expert < predictor::kExpertCount; ++expert) {
    if ((forecaster.options().experts & predictor::Only(expert)) == 0) continue;
    v1::ExpertShare* share = ahead.add_experts();
    share->set_name(predictor::ExpertName(expert));
    share->set_weight(forecaster.Weight(expert, horizon));
    share->set_error(forecaster.Loss(expert, horizon));
  }
}

void HostWatch::ShowTrust(const std::string& name, v1::ForecastOf& shown) const {
  if (hints_ == nullptr) return;
  hints_->With(name, [&](hints::ComponentHints& hints) {
    for (size_t r = 0; r < reservations::kResources; ++r) {
      const predictor::Hints& needs = hints.needs(static_cast<Resource>(r));
      if (needs.open() == 0 && needs.reliability(0) == predictor::Reliability().value()) continue;
      v1::HintTrust* trust = shown.add_trust();
      trust->set_resource(std::string(reservations::Name(static_cast<Resource>(r))));
      trust->set_reliability(needs.reliability(0));
      trust->set_open(static_cast<uint32_t>(needs.open()));
    }
  });
}

std::vector<v1::ForecastOf> HostWatch::ShowComponents(bool experts) const {
  std::vector<v1::ForecastOf> all;
  for (const auto& [name, watched] : components_) {
    v1::ForecastOf& shown = all.emplace_back();
    shown.set_name(name);
    shown.set_phase(watched.phase);
    ShowTrust(name, shown);
    for (int m = 0; m < watched.shadow->metrics(); ++m) {
      const auto metric = static_cast<shadow::Metric>(m);
      const Forecaster& forecaster = watched.shadow->forecaster(metric);
      // One that has never been seen, as the network of a component without an address.
      if (forecaster.steps() == 0) continue;
      v1::MetricForecast* of_metric = shown.add_metrics();
      of_metric->set_metric(shadow::MetricName(m));
      of_metric->set_now(Known(watched.shadow->last().values[m]));
      for (int h = 0; h < kHorizonCount; ++h) {
        v1::ForecastAhead* ahead = of_metric->add_ahead();
        const Forecast interval = forecaster.At(h);
        ahead->set_ahead_s(kHorizons[static_cast<size_t>(h)] * step_s_);
        ahead->set_p50(std::max(0.0, forecaster.Quantile(h, 0.5)));
        ahead->set_p90(std::max(0.0, forecaster.Quantile(h, 0.9)));
        ahead->set_p99(std::max(0.0, forecaster.Quantile(h, 0.99)));
        ahead->set_low(interval.low);
        ahead->set_high(interval.high);
        ahead->set_coverage(forecaster.coverage(h));
        ahead->set_outcomes(forecaster.interval(h).outcomes());
        if (experts) ShowExperts(forecaster, h, *ahead);
      }
      // By hints, where there are any.
      const std::optional<Resource> resource = ResourceOf(metric);
      if (!resource) continue;
      const decisions::Outlook& outlook = watched.use[static_cast<size_t>(*resource)];
      const double scale = Counted(*resource) ? 1 / kCpuScale : 1;
      for (int h = 0; h < kHorizonCount; ++h) {
        const auto& levels = outlook.at[static_cast<size_t>(h)];
        v1::ForecastAhead* ahead = of_metric->mutable_ahead(h);
        ahead->set_p50(scale * levels[0]);
        ahead->set_p90(scale * levels[2]);
        ahead->set_p99(scale * levels[4]);
      }
      for (const decisions::NeedView& need : needs_) {
        if (need.resource != static_cast<size_t>(*resource)) continue;
        for (const decisions::NeedView::Part& part : need.parts) {
          if (part.component == name) ShowNeed(need.when_s, part.use, scale, *of_metric);
        }
      }
    }
  }
  return all;
}

v1::ForecastOf HostWatch::ShowAll() const {
  v1::ForecastOf shown = ShowJoint();
  for (v1::MetricForecast& metric : *shown.mutable_metrics()) {
    Resource resource;
    if (!reservations::ParseResource(metric.metric(), resource)) continue;
    for (const decisions::NeedView& need : needs_) {
      if (need.resource != static_cast<size_t>(resource)) continue;
      ShowNeed(need.when_s, need.demand, Counted(resource) ? 1 / kCpuScale : 1, metric);
    }
  }
  return shown;
}

v1::ForecastOf HostWatch::ShowJoint() const {
  v1::ForecastOf shown;
  const Amounts capacity = Capacity();
  *shown.add_metrics() =
      cpu_.Show("cpu", 1 / kCpuScale, static_cast<double>(capacity[Resource::kCpu]), step_s_);
  *shown.add_metrics() =
      memory_.Show("memory", 1, static_cast<double>(capacity[Resource::kMemory]), step_s_);
  for (const Resource resource : {Resource::kDisk, Resource::kNetwork, Resource::kStorage}) {
    const ScoredDemand* const joint = JointOf(resource);
    if (joint == nullptr) continue;
    *shown.add_metrics() = joint->Show(std::string(reservations::Name(resource)), 1,
                                       static_cast<double>(capacity[resource]), step_s_);
  }
  if (!gpus_) return shown;
  *shown.add_metrics() = gpus_->share.Show("gpu", 1 / kCpuScale,
                                           static_cast<double>(capacity[Resource::kGpu]), step_s_);
  *shown.add_metrics() = gpus_->memory.Show(
      "gpu-memory", 1, static_cast<double>(capacity[Resource::kGpuMemory]), step_s_);
  return shown;
}

}  // namespace starling::loop
