// The part of HostWatch that is about disk space, network and storage bandwidth.

#include <algorithm>
#include <cmath>
#include <utility>

#include "runtime/loop/host_watch.h"

namespace starling::loop {
namespace {

using predictor::Forecast;
using predictor::kHorizonCount;
using reservations::Resource;

constexpr double kLately_s = 60;

// Whether something can be said of it in this step.
bool IsKnown(const shadow::HostIoUse::Of& use) {
  return use.capacity > 0 && std::isfinite(use.used);
}

// A spread of two parts that have nothing to do with one another.
double Joined(double a, double b) { return std::sqrt(a * a + b * b); }

}  // namespace

HostWatch::Io::Io(std::unique_ptr<shadow::HostIo> from, const predictor::ForecasterOptions& options)
    : sampler(std::move(from)), disk(options), network(options), storage(options) {}

HostWatch::Foresight HostWatch::Busier(const Foresight& a, const Foresight& b) {
  Foresight busier;
  busier.value = std::max(a.value, b.value);
  for (size_t h = 0; h < kHorizonCount; ++h) {
    const Forecast &x = a.forecasts[h], &y = b.forecasts[h];
    busier.forecasts[h] = {std::max(x.median, y.median), std::max(x.low, y.low),
                           std::max(x.high, y.high)};
    for (size_t level = 0; level < decisions::kLevelCount; ++level) {
      busier.at[h][level] = std::max(a.at[h][level], b.at[h][level]);
    }
  }
  return busier;
}

HostWatch::Foresight HostWatch::Together(const Foresight& a, const Foresight& b) {
  Foresight both;
  both.value = a.value + b.value;
  for (size_t h = 0; h < kHorizonCount; ++h) {
    const Forecast &x = a.forecasts[h], &y = b.forecasts[h];
    const double median = x.median + y.median;
    both.forecasts[h] = {median, median - Joined(x.median - x.low, y.median - y.low),
                         median + Joined(x.high - x.median, y.high - y.median)};
    const double middle = a.at[h][0] + b.at[h][0];
    for (size_t level = 0; level < decisions::kLevelCount; ++level) {
      both.at[h][level] = middle + Joined(a.at[h][level] - a.at[h][0], b.at[h][level] - b.at[h][0]);
    }
  }
  return both;
}

void HostWatch::SetFolders(const std::vector<std::string>& folders) {
  if (!io_ || io_->folders == folders) return;
  io_->folders = folders;
  io_->sampler->SetFolders(folders);
  // Other file systems fill otherwise.
  io_->disk.rest = predictor::Forecaster(options_);
  io_->disk.joint.Changed();
}

void HostWatch::BeginIo(TimePoint now) {
  if (!io_) return;
  const shadow::HostIoUse use = io_->sampler->Take(now);
  for (const auto& [of, taken] :
       {std::pair(&io_->disk, &use.disk), std::pair(&io_->network, &use.network),
        std::pair(&io_->storage, &use.storage)}) {
    of->use = *taken;
    of->components = 0;
    if (!std::isfinite(taken->used)) continue;
    const double weight = of->lately == 0 ? 1 : std::min(1.0, step_s_ / kLately_s);
    of->lately += weight * (taken->used - of->lately);
  }
}

// What a component's files take is not told apart: they stay when it moves, until it is back.
void HostWatch::StepIo(TimePoint now, const std::string& name, Watched& watched) {
  if (!io_) return;
  const shadow::Shadow& shadow = *watched.shadow;
  const auto see = [&](Io::Of& of, shadow::Metric a, shadow::Metric b,
                       Foresight (*join)(const Foresight&, const Foresight&), Resource resource) {
    // Of what there is not known how much, nothing is said.
    if (of.use.capacity <= 0) watched.use[static_cast<size_t>(resource)] = {};
    if (!IsKnown(of.use)) return;
    const Foresight seen = join(ForesightOf(shadow, a), ForesightOf(shadow, b));
    const Part part = Foresee(now, name, watched, seen, resource, 1);
    of.components += part.value;
    if (!watched.leaving) of.joint.Add(part.value, part.forecasts);
  };
  see(io_->network, shadow::kNetIn, shadow::kNetOut, Busier, Resource::kNetwork);
  see(io_->storage, shadow::kDiskRead, shadow::kDiskWrite, Together, Resource::kStorage);
}

void HostWatch::EndIoOf(double time_s, Io::Of& of, Resource resource) {
  if (!IsKnown(of.use)) return;
  const Part rest = FromRest(time_s, of.rest, std::max(0.0, of.use.used - of.components), resource);
  of.joint.Add(rest.value, rest.forecasts);
  of.joint.End();
}

void HostWatch::EndIo(double time_s) {
  if (!io_) return;
  EndIoOf(time_s, io_->disk, Resource::kDisk);
  EndIoOf(time_s, io_->network, Resource::kNetwork);
  EndIoOf(time_s, io_->storage, Resource::kStorage);
}

}  // namespace starling::loop
