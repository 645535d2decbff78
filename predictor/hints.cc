#include "predictor/hints.h"

#include <algorithm>
#include <cmath>
#include <cstring>

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
    if (!Covers(one.hint, at_s)) continue;
    const double reliability = this->reliability(one.hint.source);
    if (reliability < kLeastReliability) continue;
    moved.median += reliability * (one.hint.amount - moved.median);
    // What is hinted at becomes possible; what was is not ruled out.
    moved.low = std::min(moved.low, one.hint.amount);
    moved.high = std::max(moved.high, one.hint.amount * (1 + one.hint.tolerance));
  }
  return moved;
}

namespace {

constexpr double kVersion = 1;

// Everything as doubles: a few dozen of them.
class Doubles {
 public:
  explicit Doubles(std::string_view bytes) : bytes_(bytes) {}
  bool Get(double& value) {
    if (bytes_.size() < sizeof(value)) return false;
    std::memcpy(&value, bytes_.data(), sizeof(value));
    bytes_.remove_prefix(sizeof(value));
    return std::isfinite(value);
  }
  // A whole number from 0 to `most`.
  bool Count(size_t most, size_t& count) {
    double value = 0;
    if (!Get(value) || !(value >= 0 && value <= static_cast<double>(most)) ||
        value != std::floor(value)) {
      return false;
    }
    count = static_cast<size_t>(value);
    return true;
  }
  bool empty() const { return bytes_.empty(); }

 private:
  std::string_view bytes_;
};

}  // namespace

std::string Hints::Save(double now_s) const {
  std::string bytes;
  const auto put = [&bytes](double value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  put(kVersion);
  put(static_cast<double>(sources_.size()));
  for (const Source& source : sources_) {
    put(source.id);
    put(source.reliability.hits_);
    put(source.reliability.hints_);
  }
  put(static_cast<double>(open_.size()));
  for (const Open& one : open_) {
    put(one.hint.source);
    put(one.hint.time_s - now_s);
    put(one.hint.amount);
    put(one.hint.tolerance);
    put(one.base);
    put(one.nearest);
    put(one.seen ? 1 : 0);
  }
  return bytes;
}

bool Hints::Restore(std::string_view saved, double now_s, double later_s) {
  Doubles doubles(saved);
  double version = 0;
  size_t count = 0;
  if (!std::isfinite(later_s) || !doubles.Get(version) || version != kVersion ||
      !doubles.Count(kSources, count)) {
    return false;
  }
  Hints restored;
  for (size_t i = 0; i < count; ++i) {
    size_t id = 0;
    Reliability known;
    if (!doubles.Count(UINT32_MAX, id) || !doubles.Get(known.hits_) || !doubles.Get(known.hints_) ||
        known.hits_ < 0 || known.hits_ > known.hints_ ||
        known.hints_ > 1 / (1 - Reliability::kKeep)) {
      return false;
    }
    restored.sources_.push_back({static_cast<uint32_t>(id), known});
  }
  if (!doubles.Count(kOpen, count)) return false;
  for (size_t i = 0; i < count; ++i) {
    Open one;
    size_t source = 0;
    double ahead_s = 0, seen = 0;
    if (!doubles.Count(UINT32_MAX, source) || !doubles.Get(ahead_s) ||
        !doubles.Get(one.hint.amount) || !doubles.Get(one.hint.tolerance) ||
        !doubles.Get(one.base) || !doubles.Get(one.nearest) || !doubles.Get(seen) ||
        one.hint.amount < 0 || one.hint.tolerance <= 0) {
      return false;
    }
    one.hint.source = static_cast<uint32_t>(source);
    one.hint.time_s = now_s + ahead_s - later_s;
    one.seen = seen != 0;
    if (restored.Find(one.hint.source) == nullptr) return false;
    restored.open_.push_back(one);
  }
  if (!doubles.empty()) return false;
  open_ = std::move(restored.open_);
  open_.reserve(kOpen + 1);
  sources_ = std::move(restored.sources_);
  sources_.reserve(kSources);
  return true;
}

}  // namespace starling::predictor
