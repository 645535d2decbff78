#pragma once

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/decisions/decide.h"

// What tests of decisions make situations of, and read decisions by.

namespace starling::decisions {

inline constexpr size_t kCpu = static_cast<size_t>(Resource::kCpu);
inline constexpr size_t kMemory = static_cast<size_t>(Resource::kMemory);

// So much now, and `at` at every horizon and quantile.
inline Outlook Flat(double now, double at) {
  Outlook outlook;
  outlook.now = now;
  for (auto& horizon : outlook.at) horizon.fill(at);
  return outlook;
}
inline Outlook Flat(double value) { return Flat(value, value); }

// "migrate b there, degrade a": all steps, in their order.
inline std::string Only(const Decision& decision) {
  std::vector<std::string> words;
  for (const Step& step : decision.steps) {
    words.push_back(absl::StrCat(Name(step.action), " ", step.component,
                                 step.host.empty() ? "" : absl::StrCat(" ", step.host)));
  }
  return absl::StrJoin(words, ", ");
}

}  // namespace starling::decisions
