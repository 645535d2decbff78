#include "runtime/loop/host_watch.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "base/status.h"
#include "predictor/model_codec.h"
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
constexpr double kLately_s = 60;
// Thousandths of a processor from which a component is at work.
constexpr double kWorks = 50;
// How much one gap of a user's teaches, compared with a fit over all of them.
constexpr double kFollowRate = 0.1;

predictor::ForecasterOptions OptionsOf(double step_s, predictor::ExpertSet experts) {
  predictor::ForecasterOptions options;
  options.step_s = step_s;
  options.experts = experts;
  return options;
}

double Known(double value) { return std::isfinite(value) ? value : 0; }

bool Any(const predictor::Activity& activity) {
  return activity.moves > 0 || activity.drags > 0 || activity.clicks > 0 || activity.scrolls > 0 ||
         activity.keys > 0;
}

}  // namespace

HostWatch::Gpus::Gpus(std::unique_ptr<shadow::Nvml> library,
                      const predictor::ForecasterOptions& options)
    : nvml(std::move(library)), rest_share(options), rest_memory(options) {}

HostWatch::HostWatch(double step_s, hints::HintListener* hints, std::string proc,
                     std::unique_ptr<shadow::Nvml> nvml, predictor::ExpertSet experts,
                     std::unique_ptr<shadow::HostIo> io)
    : step_s_(step_s),
      options_(OptionsOf(step_s, experts)),
      hints_(hints),
      proc_(proc),
      host_(std::move(proc)),
      rest_cpu_(options_),
      rest_memory_(options_) {
  if (nvml != nullptr) gpus_ = std::make_unique<Gpus>(std::move(nvml), options_);
  if (io != nullptr) io_ = std::make_unique<Io>(std::move(io), options_);
}

void HostWatch::Changed() {
  cpu_.Changed();
  memory_.Changed();
  if (io_) {
    io_->network.joint.Changed();
    io_->storage.joint.Changed();
  }
  if (!gpus_) return;
  gpus_->share.Changed();
  gpus_->memory.Changed();
}

absl::Status HostWatch::Add(const std::string& name, const std::string& cgroup,
                            std::optional<pid_t> pid, const shadow::ModelShelf::Models& models) {
  shadow::Shadow::Options options;
  options.step_s = step_s_;
  options.gpus = gpus_ != nullptr;
  options.experts = options_.experts;
  options.memory = &forecasters_;
  Watched& watched = components_[name];
  watched = Watched();
  watched.shadow = std::make_unique<shadow::Shadow>(shadow::Sampler(cgroup, proc_, pid), options);
  Changed();
  shadow::ModelShelf::Models metrics = models;
  if (!metrics.empty() && absl::StartsWith(metrics.back(), kHintsMark)) {
    watched.hints_before = std::move(metrics.back());
    metrics.pop_back();
  }
  if (!metrics.empty() && absl::StartsWith(metrics.back(), kUserMark)) {
    watched.user_before = std::move(metrics.back());
    metrics.pop_back();
  }
  return watched.shadow->Restore(metrics);
}

void HostWatch::Remove(const std::string& name) {
  if (components_.erase(name) == 0) return;
  Changed();
}

void HostWatch::SetMoving(const std::set<std::string>& leaving, bool arriving) {
  // The step in which the last one goes, or has come, has seen some of it, too.
  if (!leaving.empty() || arriving) held_ = 2;
  for (auto& [name, watched] : components_) {
    const bool leaves = leaving.contains(name);
    if (watched.leaving == leaves) continue;
    watched.leaving = leaves;
    Changed();
  }
}

HostWatch::Foresight HostWatch::ForesightOf(const shadow::Shadow& shadow, shadow::Metric metric) {
  const Forecaster& forecaster = shadow.forecaster(metric);
  Foresight seen;
  seen.value = Known(shadow.last().values[metric]);
  if (forecaster.steps() == 0) return seen;
  for (int h = 0; h < kHorizonCount; ++h) {
    seen.forecasts[h] = forecaster.At(h);
    for (size_t level = 0; level < decisions::kLevelCount; ++level) {
      seen.at[static_cast<size_t>(h)][level] = forecaster.Quantile(h, decisions::kLevels[level]);
    }
  }
  return seen;
}

HostWatch::Part HostWatch::Foresee(TimePoint now, const std::string& name, Watched& watched,
                                   const Foresight& seen, Resource resource, double scale) {
  decisions::Outlook& outlook = watched.use[static_cast<size_t>(resource)];
  // Nobody uses more than there is, whatever a rise that just began seems to promise.
  const auto most = static_cast<double>(Capacity()[resource]);
  const auto bounded = [&](double value) { return std::clamp(scale * value, 0.0, most); };
  Part part;
  part.value = outlook.now = scale * seen.value;
  for (int h = 0; h < kHorizonCount; ++h) {
    const Forecast& forecast = seen.forecasts[h];
    part.forecasts[h] = {bounded(forecast.median), bounded(forecast.low), bounded(forecast.high)};
    for (size_t level = 0; level < decisions::kLevelCount; ++level) {
      outlook.at[static_cast<size_t>(h)][level] = bounded(seen.at[static_cast<size_t>(h)][level]);
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
  BeginIo(now);
  double cpu = 0, memory = 0, gpu = 0, gpu_memory = 0;
  for (auto& [name, watched] : components_) {
    const absl::Status sampled = watched.shadow->Step(
        now, time_s, [](shadow::Metric, const uint8_t*, size_t) {}, gpus);
    watched.sampled = sampled.ok();
    if (!sampled.ok()) continue;
    TakeUpHints(now, time_s, name, watched);
    TakeUpUser(now, time_s, watched);
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
    StepIo(now, name, watched);
    if (watched.leaving) continue;
    cpu_.Add(of_cpu.value, of_cpu.forecasts);
    memory_.Add(of_memory.value, of_memory.forecasts);
    if (!of_gpu) continue;
    gpus_->share.Add(of_gpu->value, of_gpu->forecasts);
    gpus_->memory.Add(of_gpu_memory->value, of_gpu_memory->forecasts);
  }
  if (gpus != nullptr) EndGpus(time_s, gpu, gpu_memory);
  EndIo(time_s);
  const Part rest_memory =
      FromRest(time_s, rest_memory_, std::max(0.0, static_cast<double>(use_.memory_used) - memory),
               Resource::kMemory);
  memory_.Add(rest_memory.value, rest_memory.forecasts);
  memory_.End();
  if (!first) {
    // What a host does by itself for a step (a person's command) is over before a move would be, and
    // is nothing that could be moved: as much counts as lasts for two.
    const double measured = std::max(0.0, kCpuScale * processors - cpu);
    double rest = std::min(measured, std::exchange(rest_last_, measured));
    // What a move itself takes is over with it, and no reason for the next one.
    if (held_ > 0) {
      rest = std::min(rest, rest_before_);
      --held_;
    } else {
      rest_before_ = rest;
    }
    const Part rest_cpu = FromRest(time_s, rest_cpu_, rest, Resource::kCpu);
    cpu_.Add(rest_cpu.value, rest_cpu.forecasts);
    cpu_.End();
  }
  LookFarther(now);
  return absl::OkStatus();
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
  if (io_) {
    capacity[Resource::kDisk] = static_cast<int64_t>(io_->disk.use.capacity);
    capacity[Resource::kNetwork] = static_cast<int64_t>(io_->network.use.capacity);
    capacity[Resource::kStorage] = static_cast<int64_t>(io_->storage.use.capacity);
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
  if (io_) {
    used[Resource::kDisk] = static_cast<int64_t>(Known(io_->disk.use.used));
    used[Resource::kNetwork] = static_cast<int64_t>(io_->network.lately);
    used[Resource::kStorage] = static_cast<int64_t>(io_->storage.lately);
  }
  return used;
}

std::map<std::string, Amounts> HostWatch::Used() const {
  std::map<std::string, Amounts> all;
  for (const auto& [name, watched] : components_) {
    Amounts& used = all[name];
    for (size_t r = 0; r < reservations::kResources; ++r) {
      used.of[r] = static_cast<int64_t>(watched.use[r].now);
    }
  }
  return all;
}

std::map<std::string, shadow::ModelShelf::Models> HostWatch::Save() const {
  std::map<std::string, shadow::ModelShelf::Models> all;
  for (const auto& [name, watched] : components_) {
    shadow::ModelShelf::Models& models = all[name];
    models = watched.shadow->Save();
    std::string user = SaveUser(watched);
    if (!user.empty()) models.push_back(std::move(user));
    std::string hints = watched.hints_before.empty() ? SaveHints(name) : watched.hints_before;
    if (!hints.empty()) models.push_back(std::move(hints));
  }
  return all;
}

shadow::ModelShelf::Models HostWatch::SaveHost() const {
  shadow::ModelShelf::Models models = {predictor::ModelCodec::Save(rest_cpu_),
                                       predictor::ModelCodec::Save(rest_memory_), idle_.Save()};
  if (io_) {
    for (const Io::Of* of : {&io_->network, &io_->storage}) {
      models.push_back(predictor::ModelCodec::Save(of->rest));
    }
  }
  return models;
}

absl::Status HostWatch::RestoreHost(const shadow::ModelShelf::Models& models) {
  absl::Status first;
  const auto take = [&](size_t i, Forecaster& forecaster) {
    if (i >= models.size()) return;
    auto loaded = predictor::ModelCodec::Load(models[i]);
    if (loaded.ok() && (loaded->options().step_s != options_.step_s ||
                        loaded->options().experts != options_.experts)) {
      loaded = absl::FailedPreconditionError("a model of another sampling interval or experts");
    }
    first.Update(loaded.status());
    if (loaded.ok()) forecaster = *std::move(loaded);
  };
  take(0, rest_cpu_);
  take(1, rest_memory_);
  if (io_) {
    take(3, io_->network.rest);
    take(4, io_->storage.rest);
  }
  if (models.size() > 2 && !idle_.Restore(models[2])) {
    first.Update(absl::InvalidArgumentError("what was learned of idle users is damaged"));
  }
  return first;
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
  if (io_) {
    for (const Resource resource : {Resource::kDisk, Resource::kNetwork, Resource::kStorage}) {
      const ScoredDemand* const joint = JointOf(resource);
      if (joint != nullptr) situation.demand[static_cast<size_t>(resource)] = joint->outlook();
    }
  }
  situation.needs = needs_;
  for (const auto& [name, watched] : components_) {
    if (watched.leaving) {
      ++situation.moving;
      continue;
    }
    decisions::ComponentView& view = situation.components.emplace_back();
    view.name = name;
    view.use = watched.use;
    view.idle_probability = watched.idle_probability;
    view.away_s = watched.active ? Seconds(now - *watched.active) : -1;
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

}  // namespace starling::loop
