#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "runtime/loop/loop.h"
#include "runtime/loop/messages.h"

// What the loop says of itself, to people and to other hosts.

namespace starling::loop {

using decisions::Step;
using reservations::Amounts;
using reservations::Lease;
using reservations::Resource;

namespace {

constexpr uint32_t kDecisionsShown = 10, kMostDecisionsShown = 1000;
// What other hosts are told of demand may be off by this share of its usual error.
constexpr double kTold = 0.05;
constexpr size_t kP50 = 0, kP90 = 2;
static_assert(decisions::kLevels[kP50] == 0.5 && decisions::kLevels[kP90] == 0.9);

}  // namespace

absl::StatusOr<v1::ForecastResponse> Loop::Forecast(const v1::ForecastRequest& request) const {
  if (!config_.loop.enabled) {
    return absl::FailedPreconditionError(
        "nothing is foreseen here: loop.enabled is false in the agent's configuration");
  }
  v1::ForecastResponse response;
  response.set_host(config_.host);
  response.set_step_s(Seconds(config_.loop.period));
  std::lock_guard lock(mutex_);
  for (v1::ForecastOf& component : watch_->ShowComponents(request.experts())) {
    if (!request.name().empty() && component.name() != request.name()) continue;
    *response.add_components() = std::move(component);
  }
  if (!request.name().empty() && response.components().empty()) {
    return absl::NotFoundError(absl::StrCat("host ", config_.host, " watches no component named ",
                                            request.name(), ": `starling ps` lists those it has"));
  }
  *response.mutable_all() = watch_->ShowAll();
  response.mutable_all()->set_name(config_.host);
  if (!request.pool()) return response;
  v1::ForecastOf& pool = *response.mutable_pool();
  pool.set_name("pool");
  *pool.add_metrics() = pool_cpu_.Show("cpu", 1e-3, pool_cpus_, response.step_s());
  *pool.add_metrics() = pool_memory_.Show("memory", 1, pool_bytes_, response.step_s());
  for (const std::string& host : in_pool_) response.add_pool_hosts(host);
  for (const std::string& host : silent_) response.add_silent(host);
  return response;
}

v1::LeasesResponse Loop::Leases() const {
  v1::LeasesResponse response;
  const TimePoint now = Clock::now();
  response.set_host(config_.host);
  *response.mutable_capacity() = ToMessage(leases_.capacity());
  *response.mutable_free() = ToMessage(leases_.free());
  for (const Lease& lease : leases_.List()) {
    v1::LeaseInfo& shown = *response.add_granted();
    shown = ToMessage(lease, config_.host, now);
    shown.set_warm(warmth_.Bytes(lease.id));
  }
  const auto counts = leases_.counters();
  (*response.mutable_counts())["granted"] = counts.granted;
  (*response.mutable_counts())["refused"] = counts.refused;
  (*response.mutable_counts())["released"] = counts.released;
  (*response.mutable_counts())["expired"] = counts.expired;
  (*response.mutable_counts())["withdrawn"] = counts.withdrawn;
  (*response.mutable_counts())["recalled"] = counts.recalled;
  if (neighbours_ == nullptr) return response;
  for (const Neighbour& neighbour : neighbours_->All()) {
    if (!neighbour.heard) continue;
    for (const v1::LeaseInfo& lease : neighbour.said.yours()) *response.add_held() = lease;
  }
  return response;
}

absl::StatusOr<v1::WhyResponse> Loop::Why(const v1::WhyRequest& request) const {
  v1::WhyResponse response;
  {
    std::lock_guard lock(mutex_);
    response.set_mode(!config_.loop.enabled ? "off" : policy_.policy().act ? "act" : "observe");
    response.set_refused(std::string(policy_.refused().message()));
  }
  response.set_policy(config_.loop.policy);
  const uint32_t last = request.last() == 0 ? kDecisionsShown : request.last();
  std::lock_guard lock(log_mutex_);
  ASSIGN_OR_RETURN(const auto decisions,
                   log_.Read(request.name(), std::min(last, kMostDecisionsShown)));
  for (const decisions::LoggedDecision& logged : decisions) {
    v1::DecidedOnce* once = response.add_decisions();
    once->set_time(logged.situation.time_s);
    once->set_reason(logged.decision.reason);
    once->set_act(logged.policy.act);
    once->set_short_of(logged.decision.short_of);
    once->set_short_now(logged.decision.short_now);
    once->set_short_later(logged.decision.short_later);
    once->set_threshold_shift(logged.situation.threshold_shift);
    if (request.replay()) {
      const std::string differs = decisions::ReplayDecision(logged);
      once->set_again(differs.empty() ? "same" : differs);
    }
    for (const Step& step : logged.decision.steps) {
      if (!request.name().empty() && step.component != request.name()) continue;
      v1::DecidedStep* shown = once->add_steps();
      shown->set_action(std::string(decisions::Name(step.action)));
      shown->set_component(step.component);
      shown->set_host(step.host);
      shown->set_lease(step.lease);
      *shown->mutable_amount() = ToMessage(step.amount);
      shown->set_cost(step.cost);
      shown->set_reason(step.reason);
    }
  }
  return response;
}

v1::LookResponse Loop::Look(const std::string& asker, bool changes) {
  v1::LookResponse response;
  const TimePoint now = Clock::now();
  response.set_host(config_.host);
  response.set_step_s(Seconds(config_.loop.period));
  Amounts free = leases_.free();
  {
    std::lock_guard told_lock(told_mutex_);
    std::lock_guard lock(mutex_);
    const auto tell = [&](const char* metric, Resource resource, const ScoredDemand& joint,
                          size_t level) {
      const std::pair<std::string, std::string> key(asker, metric);
      if (!changes) told_.erase(key);
      std::string message = joint.Changes(told_.try_emplace(key, kTold).first->second);
      if (!message.empty()) {
        v1::MetricSummary* summary = response.add_demand();
        summary->set_metric(metric);
        summary->set_message(std::move(message));
      }
      // What it is about to need itself it does not offer.
      const decisions::Outlook outlook = joint.outlook();
      double most = outlook.now;
      for (const auto& levels : outlook.at) most = std::max(most, levels[level]);
      free[resource] -=
          static_cast<int64_t>(std::min(most - outlook.now, static_cast<double>(Amounts::kMost)));
    };
    // Processors are shared by those who want them at once; memory is there or is not.
    tell("cpu", Resource::kCpu, watch_->cpu(), kP50);
    tell("memory", Resource::kMemory, watch_->memory(), kP90);
    *response.mutable_capacity() = ToMessage(watch_->Capacity());
  }
  *response.mutable_free() = ToMessage(free.AboveZero());
  for (const auto& copy : host_.components->All()) response.add_components(copy->name());
  for (v1::MoveTaken& move : past_moves_.Last(asker)) *response.add_moves() = std::move(move);
  {
    std::lock_guard lock(mutex_);
    std::set<std::string> applications;
    for (const auto& [name, here] : here_) {
      if (here.spec.application().empty()) continue;
      if (applications.insert(here.spec.application()).second) {
        response.add_applications(here.spec.application());
      }
    }
  }
  for (const Lease& lease : leases_.List()) {
    if (lease.holder == asker) *response.add_yours() = ToMessage(lease, config_.host, now);
  }
  return response;
}

}  // namespace starling::loop
