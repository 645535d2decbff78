#include "runtime/loop/ghost_needs.h"

#include <algorithm>

namespace starling::loop {
namespace {

constexpr Duration kMinute = std::chrono::minutes(1);
// After a pause, as that of a host that slept, so many minutes are taken to have been idle.
constexpr int kMostMinutes = 240;
constexpr double kNewest = 0.3;  // weight of the newest rate
constexpr int kKnown = 2;        // times that it was needed

}  // namespace

GhostNeeds::Pair& GhostNeeds::Of(const std::string& component, const std::string& host,
                                 TimePoint now) {
  const Key key(component, host);
  if (const auto found = pairs_.find(key); found != pairs_.end()) return found->second;
  if (pairs_.size() >= kMost) {
    pairs_.erase(std::min_element(pairs_.begin(), pairs_.end(), [](const auto& a, const auto& b) {
      return a.second.needed_at < b.second.needed_at;
    }));
  }
  if (model_ == nullptr) model_ = std::make_unique<predictor::KeepWarmModel>();
  Pair& pair = pairs_[key];
  pair.needed_at = now;
  return pair;
}

const GhostNeeds::Pair* GhostNeeds::Find(const std::string& component,
                                         const std::string& host) const {
  const auto found = pairs_.find(Key(component, host));
  return found == pairs_.end() ? nullptr : &found->second;
}

void GhostNeeds::Needed(const std::string& component, const std::string& host, TimePoint now) {
  Pair& pair = Of(component, host, now);
  pair.needed_at = now;
  pair.in_this_minute = true;
}

void GhostNeeds::Saw(const std::string& component, const std::string& host, uint32_t rounds,
                     uint64_t bytes_sent, TimePoint now) {
  Pair& pair = Of(component, host, now);
  // One that was made anew begins anew.
  if (!pair.since || rounds < pair.rounds || bytes_sent < pair.bytes) {
    pair.since = now;
    pair.rounds = 0;
  }
  if (rounds == pair.rounds) return;
  if (pair.rounds > 0 && now > pair.bytes_at) {
    const double rate = static_cast<double>(bytes_sent - pair.bytes) / Seconds(now - pair.bytes_at);
    const auto [known, fresh] = written_.emplace(component, rate);
    if (!fresh) known->second += kNewest * (rate - known->second);
  }
  pair.rounds = rounds;
  pair.bytes = bytes_sent;
  pair.bytes_at = now;
}

void GhostNeeds::Gone(const std::string& component, const std::string& host) {
  const auto found = pairs_.find(Key(component, host));
  if (found == pairs_.end()) return;
  found->second.since.reset();
  found->second.rounds = 0;
  found->second.bytes = 0;
}

void GhostNeeds::Step(TimePoint now) {
  if (!minute_) minute_ = now;
  for (int minutes = 0; now - *minute_ >= kMinute; ++minutes) {
    if (minutes == kMostMinutes) {
      minute_ = now;
      break;
    }
    *minute_ += kMinute;
    for (auto& [key, pair] : pairs_) {
      const bool active = std::exchange(pair.in_this_minute, false);
      if (std::exchange(pair.foretold, false)) model_->Learn(pair.features, pair.gap, active);
      if (active && !pair.past.active()) ++pair.times;
      pair.past.Step(active ? 1 : 0);
      pair.again = active ? 1 : 0;
      if (active || !pair.past.ever()) continue;
      pair.past.Features(model_->pooled(), pair.features);
      pair.gap = pair.past.idle();
      pair.foretold = true;
      pair.again = model_->Probability(pair.features);
    }
  }
}

void GhostNeeds::KeepOnly(const std::function<bool(const std::string&)>& here) {
  std::erase_if(pairs_, [&](const auto& each) { return !here(each.first.first); });
  std::erase_if(written_, [&](const auto& each) { return !here(each.first); });
  std::erase_if(given_up_, [&](const auto& each) { return !here(each.first); });
}

double GhostNeeds::Again(const std::string& component, const std::string& host) const {
  const Pair* const pair = Find(component, host);
  return pair != nullptr && pair->times >= kKnown ? pair->again : 0;
}

double GhostNeeds::UnneededFor(const std::string& component, const std::string& host,
                               TimePoint now) const {
  const Pair* const pair = Find(component, host);
  return pair == nullptr ? 0 : std::max(0.0, Seconds(now - pair->needed_at));
}

double GhostNeeds::Age(const std::string& component, const std::string& host, TimePoint now) const {
  const Pair* const pair = Find(component, host);
  return pair == nullptr || !pair->since ? 0 : std::max(0.0, Seconds(now - *pair->since));
}

std::optional<double> GhostNeeds::WrittenPerSecond(const std::string& component) const {
  const auto found = written_.find(component);
  if (found == written_.end()) return std::nullopt;
  return found->second;
}

bool GhostNeeds::MayStage(const std::string& component, TimePoint now, double rest_s) const {
  const auto found = given_up_.find(component);
  return found == given_up_.end() || Seconds(now - found->second) >= rest_s;
}

}  // namespace starling::loop
