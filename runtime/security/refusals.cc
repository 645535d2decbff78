#include "runtime/security/refusals.h"

#include "absl/strings/str_cat.h"

namespace starling::security {

void Refusals::Add(absl::string_view kind, absl::string_view text) {
  {
    std::lock_guard lock(mutex_);
    ++counts_[std::string(kind)];
    if (told_.size() >= kMaxCases || !told_.insert(absl::StrCat(kind, ": ", text)).second) return;
  }
  tell_(kind, text);
}

std::map<std::string, uint64_t> Refusals::counts() const {
  std::lock_guard lock(mutex_);
  return counts_;
}

}  // namespace starling::security
