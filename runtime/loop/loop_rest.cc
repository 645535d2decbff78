#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/loop/loop.h"
#include "runtime/shadow/readings.h"

// Components that rest while their users are away.

namespace starling::loop {

using decisions::Action;
using decisions::Rest;
using decisions::Step;

namespace {

constexpr auto kFreezeTimeout = std::chrono::seconds(5);
// For so long it may take until one that has arrived is watched.
constexpr Duration kArrives = std::chrono::seconds(60);
// Less than that is left to nobody.
constexpr int64_t kLeastShrunk = 16 << 20;

absl::Status Gone(const std::string& component) {
  return absl::NotFoundError(absl::StrCat("component ", component, " is not here any more"));
}

}  // namespace

uint64_t Loop::Activities(const std::string& component) const {
  uint64_t activities = 0;
  hints_->With(component,
               [&](const hints::ComponentHints& hints) { activities = hints.activities(); });
  return activities;
}

Parking::Parts Loop::PartsOfParking() {
  Parking::Parts parts;
  parts.freeze = [this](const std::string& component, double term_s) {
    const auto copy = host_.components->Find(component);
    if (copy == nullptr) return Gone(component);
    return copy->Freeze(Deadline::After(kFreezeTimeout), term_s);
  };
  parts.thaw = [this](const std::string& component) {
    const auto copy = host_.components->Find(component);
    return copy == nullptr ? absl::OkStatus() : copy->Thaw(Deadline::After(kFreezeTimeout));
  };
  parts.activities = [this](const std::string& component) { return Activities(component); };
  parts.packets = [this](const std::string& component) -> uint64_t {
    std::optional<pid_t> pid;
    {
      std::lock_guard lock(mutex_);
      const auto found = here_.find(component);
      if (found != here_.end()) pid = found->second.pid;
    }
    if (!pid) return 0;
    // Not its device's: on that come all that is broadcast in its network.
    const auto text = ReadFile(absl::StrCat("/proc/", *pid, "/net/snmp"));
    return text.ok() ? shadow::ParseIpDelivered(*text).value_or(0) : 0;
  };
  parts.event = [this](const std::string& component, absl::string_view kind,
                       absl::string_view text) { host_.Event(component, kind, text); };
  parts.came_back = [this](decisions::Rest rest, Duration after) {
    std::lock_guard lock(mutex_);
    came_back_.emplace_back(rest, after);
  };
  return parts;
}

absl::Status Loop::ParkNow(const std::string& component, Parking::By by, absl::string_view why) {
  const std::string cgroup = CgroupOf(component);
  if (cgroup.empty()) return Gone(component);
  ASSIGN_OR_RETURN(const agent::ComponentTable::Claim claim,
                   host_.components->Take(component, "it is being parked"));
  const v1::ListGhostsResponse ghosts = agent_.ListGhosts();
  for (const v1::GhostInfo& ghost : ghosts.away()) {
    if (ghost.wish().component() != component) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("component ", component, " has a ghost on host ", ghost.wish().on(),
                     ", which is kept fresh while it runs: drop the ghost first"));
  }
  return parking_->Park(component, cgroup, by, why);
}

absl::Status Loop::Rest(const Step& step) {
  if (step.action == Action::kWake) return parking_->Wake(step.component, step.reason);
  if (step.action == Action::kPark)
    return ParkNow(step.component, Parking::By::kPolicy, step.reason);
  const std::string cgroup = CgroupOf(step.component);
  if (cgroup.empty()) return Gone(step.component);
  double share = 1;
  int64_t in_use = 0;
  {
    std::lock_guard lock(mutex_);
    share = policy_.policy().idle.shrink_to;
    in_use = watch_->Used()[step.component][reservations::Resource::kMemory];
  }
  const auto bytes = static_cast<int64_t>(share * static_cast<double>(in_use));
  return parking_->Shrink(step.component, cgroup, std::max(kLeastShrunk, bytes), step.reason);
}

absl::Status Loop::Park(const std::string& component) {
  if (!config_.loop.enabled) {
    return absl::FailedPreconditionError(
        "nobody would see its user come back: loop.enabled is false in the agent's configuration");
  }
  if (CgroupOf(component).empty()) {
    return absl::NotFoundError(absl::StrCat("host ", config_.host, " watches no component named ",
                                            component, ": `starling ps` lists those it has"));
  }
  return ParkNow(component, Parking::By::kPerson, "asked for");
}

absl::Status Loop::Unpark(const std::string& component) {
  if (parking_->Of(component).rest == Rest::kNone) {
    return absl::FailedPreconditionError(
        absl::StrCat("component ", component, " does not rest: there is nothing to undo"));
  }
  return parking_->Wake(component, "asked for");
}

void Loop::SentToRest(const std::string& component, const std::string& from) {
  // Nobody would see its user come back: it runs.
  if (!config_.loop.enabled) return;
  std::lock_guard lock(mutex_);
  sent_to_rest_[component] = {from, Clock::now() + kArrives};
}

void Loop::ParkArrivals(TimePoint now) {
  std::map<std::string, Sent> sent;
  {
    std::lock_guard lock(mutex_);
    std::erase_if(sent_to_rest_, [&](const auto& one) { return now > one.second.until; });
    for (const auto& [name, one] : sent_to_rest_) {
      if (here_.contains(name)) sent.emplace(name, one);
    }
  }
  for (const auto& [name, one] : sent) {
    absl::Status done;
    // Its user was faster.
    if (Activities(name) == 0) {
      done = ParkNow(name, Parking::By::kHost,
                     absl::StrCat("host ", one.from, " sent it here to rest"));
    }
    // Something is being done to it just now: again at the next step.
    if (absl::IsFailedPrecondition(done)) continue;
    if (!done.ok()) host_.Event(name, "park-failed", done.message());
    std::lock_guard lock(mutex_);
    sent_to_rest_.erase(name);
  }
}

bool Loop::Parked(const std::string& component) const {
  return parking_ != nullptr && parking_->Of(component).rest == Rest::kParked;
}

absl::Status Loop::Wake(const std::string& component) {
  if (parking_ == nullptr) return absl::OkStatus();
  return parking_->Wake(component, "something is to be done to it");
}

}  // namespace starling::loop
