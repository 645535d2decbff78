#include "predictor/hints.h"

#include <algorithm>
#include <cmath>

namespace starling::predictor {

void Reliability::Learn(double share) {
  hits_ = kKeep * hits_ + std::clamp(share, 0.0, 1.0);
  hints_ = kKeep * hints_ + 1;
}

Hints::Hints() {
  open_.reserve(kOpen + 1);
  sources_.reserve(kSources);
}

Reliability* Hints::Find(uint32_t source) {
  for (Source& one : sources_) {
    if (one.id == source) return &one.reliability;
  }
  if (sources_.size() == kSources) return nullptr;
  sources_.push_back({source, {}});
  return &sources_.back().reliability;
}

double Hints::reliability(uint32_t source) const {
  for (const Source& one : sources_) {
    if (one.id == source) return one.reliability.value();
  }
  return Reliability().value();
}

bool Hints::Add(double now_s, const Hint& hint) {
  if (!std::isfinite(hint.time_s) || !std::isfinite(hint.amount) || hint.amount < 0 ||
      !(hint.tolerance > 0) || !std::isfinite(hint.tolerance) || !(hint.time_s >= now_s)) {
    return false;
  }
  if (Find(hint.source) == nullptr) return false;  // more sources than one component can have
  open_.push_back({hint, last_value_, last_value_, false});
  if (open_.size() > kOpen) {
    const auto farthest = std::max_element(
        open_.begin(), open_.end(),
        [](const Open& a, const Open& b) { return a.hint.time_s < b.hint.time_s; });
    open_.erase(farthest);
  }
  return true;
}

void Hints::Observe(double now_s, double value) {
  if (!std::isfinite(now_s) || !std::isfinite(value)) return;
  last_value_ = value;
  for (size_t i = 0; i < open_.size();) {
    Open& one = open_[i];
    if (now_s >= one.hint.time_s - kEarly_s && now_s <= one.hint.time_s + kLate_s) {
      if (!one.seen ||
          std::abs(value - one.hint.amount) < std::abs(one.nearest - one.hint.amount)) {
        one.nearest = value;
      }
      one.seen = true;
    }
    if (now_s <= one.hint.time_s + kLate_s) {
      ++i;
      continue;
    }
    // Right when the value came within the tolerance of what was said, less so with the distance.
    const double allowed = one.hint.tolerance *
                           std::max({one.hint.amount, std::abs(one.hint.amount - one.base), 1e-9});
    const double off = std::abs(one.nearest - one.hint.amount);
    if (one.seen)
      Find(one.hint.source)->Learn(off <= allowed ? 1 : std::max(0.0, 2 - off / allowed));
    open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

Forecast Hints::Apply(double at_s, const Forecast& forecast) const {
  Forecast moved = forecast;
  for (const Open& one : open_) {
    if (at_s < one.hint.time_s - kEarly_s || at_s > one.hint.time_s + kLate_s) continue;
    const double reliability = this->reliability(one.hint.source);
    if (reliability < kLeastReliability) continue;
    moved.median += reliability * (one.hint.amount - moved.median);
    // What is hinted at becomes possible; what was is not ruled out.
    moved.low = std::min(moved.low, one.hint.amount);
    moved.high = std::max(moved.high, one.hint.amount * (1 + one.hint.tolerance));
  }
  return moved;
}

}  // namespace starling::predictor
