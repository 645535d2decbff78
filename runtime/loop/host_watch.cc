#include "runtime/loop/host_watch.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "base/status.h"
#include "runtime/decisions/outlook.h"

namespace starling::loop {
namespace {

using predictor::Forecast;
using predictor::Forecaster;
using predictor::kHorizonCount;
using predictor::kHorizons;
using reservations::Amounts;
using reservations::Resource;

constexpr size_t kCpuIndex = static_cast<size_t>(Resource::kCpu);
constexpr size_t kMemoryIndex = static_cast<size_t>(Resource::kMemory);
constexpr size_t kGpuIndex = static_cast<size_t>(Resource::kGpu);
constexpr size_t kGpuMemoryIndex = static_cast<size_t>(Resource::kGpuMemory);
// Of one resource, nearest first.
constexpr size_t kMostNeeds = 8;
// What is saved of hints, beside the models of metrics.
constexpr absl::string_view kHintsMark = "STHINTS1";
constexpr double kLately_s = 60;
// Thousandths of a processor from which a component is at work.
constexpr double kWorks = 50;
// How much one gap of a user's teaches, compared with a fit over all of them.
constexpr double kFollowRate = 0.1;

Forecaster MakeForecaster(double step_s) {
  predictor::ForecasterOptions options;
  options.step_s = step_s;
  return Forecaster(options);
}

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

// The horizon whose forecast is the best known of a time: the first that is not before it.
size_t HorizonFor(double when_s, double step_s) {
  size_t h = 0;
  while (h + 1 < kHorizons.size() && kHorizons[h] * step_s < when_s) ++h;
  return h;
}

bool Any(const predictor::Activity& activity) {
  return activity.moves > 0 || activity.drags > 0 || activity.clicks > 0 || activity.scrolls > 0 ||
         activity.keys > 0;
}

}  // namespace

HostWatch::Gpus::Gpus(std::unique_ptr<shadow::Nvml> library, double step_s)
    : nvml(std::move(library)),
      rest_share(MakeForecaster(step_s)),
      rest_memory(MakeForecaster(step_s)) {}

HostWatch::HostWatch(double step_s, hints::HintListener* hints, std::string proc,
                     std::unique_ptr<shadow::Nvml> nvml)
    : step_s_(step_s),
      hints_(hints),
      proc_(proc),
      host_(std::move(proc)),
      rest_cpu_(MakeForecaster(step_s)),
      rest_memory_(MakeForecaster(step_s)) {
  if (nvml != nullptr) gpus_ = std::make_unique<Gpus>(std::move(nvml), step_s);
}

void HostWatch::Changed() {
  cpu_.Changed();
  memory_.Changed();
  if (!gpus_) return;
  gpus_->share.Changed();
  gpus_->memory.Changed();
}

absl::Status HostWatch::Add(const std::string& name, const std::string& cgroup,
                            std::optional<pid_t> pid, const shadow::ModelShelf::Models& models) {
  shadow::Shadow::Options options;
  options.step_s = step_s_;
  options.gpus = gpus_ != nullptr;
  Watched& watched = components_[name];
  watched = Watched();
  watched.shadow = std::make_unique<shadow::Shadow>(shadow::Sampler(cgroup, proc_, pid), options);
  Changed();
  shadow::ModelShelf::Models metrics = models;
  if (!metrics.empty() && absl::StartsWith(metrics.back(), kHintsMark)) {
    watched.hints_before = std::move(metrics.back());
    metrics.pop_back();
  }
  return watched.shadow->Restore(metrics);
}

std::string HostWatch::SaveHints(const std::string& name) const {
  std::string saved(kHintsMark);
  const auto put = [&saved](const void* bytes, size_t size) {
    saved.append(static_cast<const char*>(bytes), size);
  };
  put(&stepped_s_, sizeof(stepped_s_));
  const bool heard = hints_ != nullptr && hints_->With(name, [&](hints::ComponentHints& hints) {
    for (size_t r = 0; r < reservations::kResources; ++r) {
      const std::string needs =
          hints.needs(static_cast<Resource>(r)).Save(hints::ComponentHints::AxisSeconds(stepped_));
      const auto size = static_cast<uint32_t>(needs.size());
      put(&size, sizeof(size));
      put(needs.data(), needs.size());
    }
  });
  return heard ? saved : "";
}

// What makes no sense is passed over: it came from elsewhere, and is learned again.
void HostWatch::TakeUpHints(TimePoint now, double time_s, const std::string& name,
                            Watched& watched) {
  if (watched.hints_before.empty() || hints_ == nullptr) return;
  hints_->With(name, [&](hints::ComponentHints& hints) {
    const std::string before = std::exchange(watched.hints_before, "");
    absl::string_view rest = before;
    rest.remove_prefix(kHintsMark.size());
    const auto get = [&rest](void* to, size_t size) {
      if (rest.size() < size) return false;
      std::memcpy(to, rest.data(), size);
      rest.remove_prefix(size);
      return true;
    };
    double saved_s = 0;
    if (!get(&saved_s, sizeof(saved_s))) return;
    for (size_t r = 0; r < reservations::kResources; ++r) {
      uint32_t size = 0;
      if (!get(&size, sizeof(size)) || rest.size() < size) return;
      // What it said to this agent already is newer.
      predictor::Hints& needs = hints.needs(static_cast<Resource>(r));
      if (needs.open() == 0) {
        (void)needs.Restore({rest.data(), size}, hints::ComponentHints::AxisSeconds(now),
                            time_s - saved_s);
      }
      rest.remove_prefix(size);
    }
  });
}

void HostWatch::Remove(const std::string& name) {
  if (components_.erase(name) == 0) return;
  Changed();
}

void HostWatch::SetLeaving(const std::set<std::string>& leaving) {
  for (auto& [name, watched] : components_) {
    const bool leaves = leaving.contains(name);
    if (watched.leaving == leaves) continue;
    watched.leaving = leaves;
    Changed();
  }
}

HostWatch::Part HostWatch::Foresee(TimePoint now, const std::string& name, Watched& watched,
                                   shadow::Metric metric, Resource resource, double scale) {
  const Forecaster& forecaster = watched.shadow->forecaster(metric);
  decisions::Outlook& outlook = watched.use[static_cast<size_t>(resource)];
  // Nobody uses more than there is, whatever a rise that just began seems to promise.
  const auto most = static_cast<double>(Capacity()[resource]);
  const auto bounded = [&](double value) { return std::clamp(scale * value, 0.0, most); };
  Part part;
  part.value = outlook.now = scale * Known(watched.shadow->last().values[metric]);
  for (int h = 0; h < kHorizonCount; ++h) {
    const Forecast forecast = forecaster.At(h);
    part.forecasts[h] = {bounded(forecast.median), bounded(forecast.low), bounded(forecast.high)};
    for (size_t level = 0; level < decisions::kLevelCount; ++level) {
      const double quantile =
          forecaster.steps() == 0 ? 0 : forecaster.Quantile(h, decisions::kLevels[level]);
      outlook.at[static_cast<size_t>(h)][level] = bounded(quantile);
    }
  }
  if (hints_ == nullptr) return part;
  hints_->With(name, [&](hints::ComponentHints& hints) {
    predictor::Hints& needs = hints.needs(resource);
    const double axis_s = hints::ComponentHints::AxisSeconds(now);
    needs.Observe(axis_s, part.value);
    if (needs.open() == 0) return;
    for (int h = 0; h < kHorizonCount; ++h) {
      const Forecast moved =
          needs.Apply(axis_s + kHorizons[static_cast<size_t>(h)] * step_s_, part.forecasts[h]);
      if (moved.median == part.forecasts[h].median && moved.high == part.forecasts[h].high) {
        continue;
      }
      part.forecasts[h] = moved;
      outlook.at[static_cast<size_t>(h)] = decisions::Quantiles(moved);
    }
  });
  return part;
}

void HostWatch::SeeActivity(TimePoint now, const std::string& name, Watched& watched) {
  if (hints_ == nullptr) return;
  predictor::Activity activity;
  hints_->With(name, [&](hints::ComponentHints& hints) {
    activity = hints.TakeActivity();
    watched.phase = hints.phase();
    watched.users = hints.users();
  });
  watched.input = Any(activity);
  // What only the shadow sees of it.
  const shadow::Sample& sample = watched.shadow->last();
  activity.network_bytes =
      step_s_ * (Known(sample.values[shadow::kNetIn]) + Known(sample.values[shadow::kNetOut]));
  activity.gpu = Known(sample.values[shadow::kGpu]);
  if (watched.input) {
    if (watched.activity.Step(Seconds(now - begun_), activity) && watched.active) {
      idle_.Learn(watched.features, watched.activity.last_gap_s(), kFollowRate);
    }
    watched.activity.Features(watched.features);
    watched.active = now;
  }
  // Who never told of a user has none that could be idle.
  watched.idle_probability =
      watched.active ? idle_.Probability(watched.features, Seconds(now - *watched.active)) : 0;
}

HostWatch::Part HostWatch::FromRest(double time_s, Forecaster& forecaster, double value,
                                    Resource resource) const {
  forecaster.Observe(time_s, value);
  const auto most = static_cast<double>(Capacity()[resource]);
  Part part;
  part.value = value;
  for (int h = 0; h < kHorizonCount; ++h) {
    const Forecast forecast = forecaster.At(h);
    part.forecasts[h] = {std::clamp(forecast.median, 0.0, most),
                         std::clamp(forecast.low, 0.0, most), std::clamp(forecast.high, 0.0, most)};
  }
  return part;
}

absl::Status HostWatch::Step(TimePoint now, double time_s) {
  if (begun_ == TimePoint{}) begun_ = now;
  stepped_ = now;
  stepped_s_ = time_s;
  ASSIGN_OR_RETURN(use_, host_.Take());
  const bool first = !std::isfinite(use_.processors_used);
  const double processors = Known(use_.processors_used);
  if (!first) {
    const double weight = processors_lately_ == 0 ? 1 : std::min(1.0, step_s_ / kLately_s);
    processors_lately_ += weight * (processors - processors_lately_);
  }
  const shadow::GpuReading* gpus = nullptr;
  if (gpus_) {
    auto reading = gpus_->nvml->Take();
    gpu_status_ = reading.status();
    if (reading.ok()) {
      gpus_->reading = *std::move(reading);
      gpus = &gpus_->reading;
    }
  }
  double cpu = 0, memory = 0, gpu = 0, gpu_memory = 0;
  for (auto& [name, watched] : components_) {
    const absl::Status sampled = watched.shadow->Step(
        now, time_s, [](shadow::Metric, const uint8_t*, size_t) {}, gpus);
    watched.sampled = sampled.ok();
    if (!sampled.ok()) continue;
    TakeUpHints(now, time_s, name, watched);
    SeeActivity(now, name, watched);
    const Part of_cpu = Foresee(now, name, watched, shadow::kCpu, Resource::kCpu, kCpuScale);
    const Part of_memory = Foresee(now, name, watched, shadow::kMemory, Resource::kMemory, 1);
    watched.cpu_lately += std::min(1.0, step_s_ / kLately_s) * (of_cpu.value - watched.cpu_lately);
    cpu += of_cpu.value;
    memory += of_memory.value;
    std::optional<Part> of_gpu, of_gpu_memory;
    if (gpus != nullptr) {
      of_gpu = Foresee(now, name, watched, shadow::kGpu, Resource::kGpu, kCpuScale);
      of_gpu_memory = Foresee(now, name, watched, shadow::kGpuMemory, Resource::kGpuMemory, 1);
      gpu += of_gpu->value;
      gpu_memory += of_gpu_memory->value;
    }
    if (watched.leaving) continue;
    cpu_.Add(of_cpu.value, of_cpu.forecasts);
    memory_.Add(of_memory.value, of_memory.forecasts);
    if (!of_gpu) continue;
    gpus_->share.Add(of_gpu->value, of_gpu->forecasts);
    gpus_->memory.Add(of_gpu_memory->value, of_gpu_memory->forecasts);
  }
  if (gpus != nullptr) EndGpus(time_s, gpu, gpu_memory);
  const Part rest_memory =
      FromRest(time_s, rest_memory_, std::max(0.0, static_cast<double>(use_.memory_used) - memory),
               Resource::kMemory);
  memory_.Add(rest_memory.value, rest_memory.forecasts);
  memory_.End();
  if (!first) {
    const Part rest_cpu =
        FromRest(time_s, rest_cpu_, std::max(0.0, kCpuScale * processors - cpu), Resource::kCpu);
    cpu_.Add(rest_cpu.value, rest_cpu.forecasts);
    cpu_.End();
  }
  LookFarther(now);
  return absl::OkStatus();
}

const ScoredDemand* HostWatch::JointOf(Resource resource) const {
  switch (resource) {
    case Resource::kCpu:
      return &cpu_;
    case Resource::kMemory:
      return &memory_;
    case Resource::kGpu:
      return gpus_ ? &gpus_->share : nullptr;
    case Resource::kGpuMemory:
      return gpus_ ? &gpus_->memory : nullptr;
    default:
      return nullptr;
  }
}

void HostWatch::LookFarther(TimePoint now) {
  needs_.clear();
  if (hints_ == nullptr) return;
  std::array<std::vector<double>, reservations::kResources> times;
  const double axis_s = hints::ComponentHints::AxisSeconds(now);
  for (const auto& [name, watched] : components_) {
    if (watched.leaving || !watched.sampled) continue;
    hints_->With(name, [&](hints::ComponentHints& hints) {
      for (size_t r = 0; r < reservations::kResources; ++r) {
        const auto resource = static_cast<Resource>(r);
        const predictor::Hints& needs = hints.needs(resource);
        if (needs.open() == 0 || JointOf(resource) == nullptr) continue;
        for (size_t i = 0; i < needs.open(); ++i) {
          const predictor::Hint& hint = needs.hint(i);
          // Near a horizon it is in that one's forecast already.
          const bool seen = std::any_of(kHorizons.begin(), kHorizons.end(), [&](int steps) {
            return predictor::Hints::Covers(hint, axis_s + steps * step_s_);
          });
          const bool believed =
              needs.reliability(hint.source) >= predictor::Hints::kLeastReliability;
          if (!seen && believed && hint.time_s > axis_s) times[r].push_back(hint.time_s - axis_s);
        }
      }
    });
  }
  for (size_t r = 0; r < reservations::kResources; ++r) {
    std::sort(times[r].begin(), times[r].end());
    double last_s = -std::numeric_limits<double>::infinity();
    size_t count = 0;
    for (const double when_s : times[r]) {
      // What is said of nearly the same time is one need.
      if (when_s - last_s <= predictor::Hints::kEarly_s) continue;
      if (++count > kMostNeeds) break;
      last_s = when_s;
      AddNeed(now, static_cast<Resource>(r), when_s);
    }
  }
}

void HostWatch::AddNeed(TimePoint now, Resource resource, double when_s) {
  const auto r = static_cast<size_t>(resource);
  const size_t h = HorizonFor(when_s, step_s_);
  const auto most = static_cast<double>(Capacity()[resource]);
  decisions::NeedView need;
  need.when_s = when_s;
  need.resource = r;
  need.demand = JointOf(resource)->outlook().at[h];
  for (const auto& [name, watched] : components_) {
    if (watched.leaving || !watched.sampled) continue;
    const auto& own = watched.use[r].at[h];
    hints_->With(name, [&](hints::ComponentHints& hints) {
      const predictor::Hints& needs = hints.needs(resource);
      if (needs.open() == 0) return;
      constexpr size_t kP95 = 3;
      static_assert(decisions::kLevels[kP95] == 0.95);
      const Forecast before{own[0], std::max(0.0, 2 * own[0] - own[kP95]), own[kP95]};
      const double axis_s = hints::ComponentHints::AxisSeconds(now);
      const Forecast after = needs.Apply(axis_s + when_s, before);
      if (after.median == before.median && after.high == before.high) return;
      decisions::NeedView::Part& part = need.parts.emplace_back();
      part.component = name;
      part.use = decisions::Quantiles(after);
      for (size_t level = 0; level < decisions::kLevelCount; ++level) {
        // A hint says what else is possible, and takes nothing away from what was.
        part.use[level] =
            std::min(most, level == 0 ? part.use[level] : std::max(part.use[level], own[level]));
        need.demand[level] = std::max(0.0, need.demand[level] + part.use[level] - own[level]);
      }
    });
  }
  for (size_t level = 1; level < decisions::kLevelCount; ++level) {
    need.demand[level] = std::max(need.demand[level], need.demand[level - 1]);
  }
  if (!need.parts.empty()) needs_.push_back(std::move(need));
}

void HostWatch::EndGpus(double time_s, double share, double memory) {
  const shadow::GpuReading::Use& used = gpus_->reading.used;
  const Part rest_share = FromRest(time_s, gpus_->rest_share,
                                   std::max(0.0, kCpuScale * used.share - share), Resource::kGpu);
  const Part rest_memory =
      FromRest(time_s, gpus_->rest_memory, std::max(0.0, static_cast<double>(used.memory) - memory),
               Resource::kGpuMemory);
  gpus_->share.Add(rest_share.value, rest_share.forecasts);
  gpus_->share.End();
  gpus_->memory.Add(rest_memory.value, rest_memory.forecasts);
  gpus_->memory.End();
}

std::set<std::string> HostWatch::names() const {
  std::set<std::string> names;
  for (const auto& [name, watched] : components_) names.insert(name);
  return names;
}

Amounts HostWatch::Capacity() const {
  Amounts capacity;
  capacity[Resource::kCpu] = static_cast<int64_t>(kCpuScale * use_.processors);
  capacity[Resource::kMemory] = static_cast<int64_t>(use_.memory);
  if (gpus_) {
    capacity[Resource::kGpu] = static_cast<int64_t>(kCpuScale * gpus_->reading.gpus);
    capacity[Resource::kGpuMemory] = static_cast<int64_t>(gpus_->reading.memory);
  }
  return capacity;
}

Amounts HostWatch::AllUsed() const {
  Amounts used;
  used[Resource::kCpu] = static_cast<int64_t>(kCpuScale * processors_lately_);
  used[Resource::kMemory] = static_cast<int64_t>(use_.memory_used);
  if (gpus_) {
    used[Resource::kGpu] = static_cast<int64_t>(kCpuScale * gpus_->reading.used.share);
    used[Resource::kGpuMemory] = static_cast<int64_t>(gpus_->reading.used.memory);
  }
  return used;
}

std::map<std::string, Amounts> HostWatch::Used() const {
  std::map<std::string, Amounts> all;
  for (const auto& [name, watched] : components_) {
    Amounts& used = all[name];
    used[Resource::kCpu] = static_cast<int64_t>(watched.use[kCpuIndex].now);
    used[Resource::kMemory] = static_cast<int64_t>(watched.use[kMemoryIndex].now);
    used[Resource::kGpu] = static_cast<int64_t>(watched.use[kGpuIndex].now);
    used[Resource::kGpuMemory] = static_cast<int64_t>(watched.use[kGpuMemoryIndex].now);
  }
  return all;
}

std::map<std::string, shadow::ModelShelf::Models> HostWatch::Save() const {
  std::map<std::string, shadow::ModelShelf::Models> all;
  for (const auto& [name, watched] : components_) {
    shadow::ModelShelf::Models& models = all[name];
    models = watched.shadow->Save();
    std::string hints = watched.hints_before.empty() ? SaveHints(name) : watched.hints_before;
    if (!hints.empty()) models.push_back(std::move(hints));
  }
  return all;
}

void HostWatch::Describe(TimePoint now, decisions::Situation& situation) const {
  situation.step_s = step_s_;
  situation.capacity = Capacity();
  situation.demand[kCpuIndex] = cpu_.outlook();
  situation.demand[kMemoryIndex] = memory_.outlook();
  if (gpus_) {
    situation.demand[kGpuIndex] = gpus_->share.outlook();
    situation.demand[kGpuMemoryIndex] = gpus_->memory.outlook();
  }
  situation.needs = needs_;
  for (const auto& [name, watched] : components_) {
    if (watched.leaving) continue;
    decisions::ComponentView& view = situation.components.emplace_back();
    view.name = name;
    view.use = watched.use;
    view.idle_probability = watched.idle_probability;
    if (hints_ == nullptr) continue;
    hints_->With(name, [&](const hints::ComponentHints& hints) {
      view.not_now_s = Seconds(hints.NotNowLeft(now));
      view.good_moment = hints.GoodMoment(now);
    });
  }
}

std::vector<ProfileSeen> HostWatch::Presence() const {
  std::vector<ProfileSeen> all;
  for (const auto& [name, watched] : components_) {
    if (!watched.sampled) continue;
    all.push_back({name, watched.users, "", watched.input, watched.cpu_lately >= kWorks});
  }
  return all;
}

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

std::vector<v1::ForecastOf> HostWatch::ShowComponents() const {
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
  if (!gpus_) return shown;
  *shown.add_metrics() = gpus_->share.Show("gpu", 1 / kCpuScale,
                                           static_cast<double>(capacity[Resource::kGpu]), step_s_);
  *shown.add_metrics() = gpus_->memory.Show(
      "gpu-memory", 1, static_cast<double>(capacity[Resource::kGpuMemory]), step_s_);
  return shown;
}

}  // namespace starling::loop
