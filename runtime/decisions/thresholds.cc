#include "runtime/decisions/thresholds.h"

#include <algorithm>
#include <cmath>

namespace starling::decisions {
namespace {

// Half of what was learned is forgotten in a day without mistakes.
constexpr double kHalfLife_s = 86400;
constexpr double kMostCost = 10;

}  // namespace

void Thresholds::Missed(const Policy::Thresholds& bounds, double cost) {
  shift_ = std::max(-bounds.lower, shift_ - bounds.step * std::clamp(cost, 0.0, kMostCost));
}

void Thresholds::InVain(const Policy::Thresholds& bounds, double cost) {
  shift_ = std::min(bounds.higher, shift_ + bounds.step * std::clamp(cost, 0.0, kMostCost));
}

void Thresholds::Calm(double seconds) {
  shift_ *= std::exp2(-std::max(0.0, seconds) / kHalfLife_s);
}

double Thresholds::Shift(const Policy::Thresholds& bounds, double load) const {
  const double shift = std::clamp(shift_, -bounds.lower, bounds.higher);
  // From 70 % of the capacity on, what would move up moves up less, and from 95 % on not at all.
  return shift <= 0 ? shift : shift * std::clamp((0.95 - load) / 0.25, 0.0, 1.0);
}

}  // namespace starling::decisions
