// The part of HostWatch that looks as far ahead as components' hints do.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <utility>

#include "runtime/decisions/outlook.h"
#include "runtime/loop/host_watch.h"

namespace starling::loop {
namespace {

using predictor::Forecast;
using predictor::kHorizons;
using reservations::Resource;

// Of whom nobody has seen anything for longer, nothing is known.
constexpr double kLongestAway_s = 30 * 86400;
// Of one resource, nearest first.
constexpr size_t kMostNeeds = 8;

// The horizon whose forecast is the best known of a time: the first that is not before it.
size_t HorizonFor(double when_s, double step_s) {
  size_t h = 0;
  while (h + 1 < kHorizons.size() && kHorizons[h] * step_s < when_s) ++h;
  return h;
}

}  // namespace

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

std::string HostWatch::SaveUser(const Watched& watched) const {
  if (!watched.active) return watched.user_before;
  std::string saved(kUserMark);
  const double seen_s = stepped_s_ - Seconds(stepped_ - *watched.active);
  saved.append(reinterpret_cast<const char*>(&seen_s), sizeof(seen_s));
  saved.append(reinterpret_cast<const char*>(watched.features), sizeof(watched.features));
  return saved;
}

// As with hints: what makes no sense is passed over.
void HostWatch::TakeUpUser(TimePoint now, double time_s, Watched& watched) {
  if (watched.user_before.empty()) return;
  const std::string before = std::exchange(watched.user_before, "");
  double seen_s = 0;
  predictor::IdleFeatures features = {};
  // What was seen of them here already is newer.
  if (watched.active || before.size() != kUserMark.size() + sizeof(seen_s) + sizeof(features)) {
    return;
  }
  std::memcpy(&seen_s, before.data() + kUserMark.size(), sizeof(seen_s));
  std::memcpy(features, before.data() + kUserMark.size() + sizeof(seen_s), sizeof(features));
  const bool sane = std::all_of(std::begin(features), std::end(features),
                                [](float feature) { return std::isfinite(feature); });
  const double away_s = time_s - seen_s;
  if (!sane || !(std::abs(away_s) <= kLongestAway_s)) return;
  // Two hosts' clocks are not quite the same.
  watched.active = now - std::chrono::duration_cast<Duration>(
                             std::chrono::duration<double>(std::max(0.0, away_s)));
  std::copy(std::begin(features), std::end(features), std::begin(watched.features));
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
    case Resource::kDisk:
      return io_ && io_->disk.use.capacity > 0 ? &io_->disk.joint : nullptr;
    case Resource::kNetwork:
      return io_ && io_->network.use.capacity > 0 ? &io_->network.joint : nullptr;
    case Resource::kStorage:
      return io_ && io_->storage.use.capacity > 0 ? &io_->storage.joint : nullptr;
  }
  return nullptr;
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

}  // namespace starling::loop
