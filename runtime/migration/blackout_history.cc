#include "runtime/migration/blackout_history.h"

#include <algorithm>

namespace starling::migration {

double BlackoutHistory::Expected(const std::string& component) const {
  const std::lock_guard lock(mutex_);
  const auto found = seconds_.find(component);
  return found == seconds_.end() ? any_ : found->second;
}

void BlackoutHistory::Learn(const std::string& component, double held_s, double memory_s) {
  const double fixed = std::max(0.0, held_s - memory_s);
  const std::lock_guard lock(mutex_);
  const bool first = seconds_.empty();
  const auto [found, added] = seconds_.try_emplace(component, fixed);
  if (!added) found->second += kNewest * (fixed - found->second);
  any_ = first ? fixed : any_ + kNewest * (fixed - any_);
}

}  // namespace starling::migration
