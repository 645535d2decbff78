#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "absl/strings/string_view.h"

namespace starling::security {

// What peers were refused: each kind counted, each case told once, so that somebody who tries again
// and again does not fill the log. Thread-safe.
class Refusals {
 public:
  // `tell` hears of every case that is new; called without a lock held.
  using Tell = std::function<void(absl::string_view kind, absl::string_view text)>;
  explicit Refusals(Tell tell) : tell_(std::move(tell)) {}

  // `kind`: "certificate", "role", "ownership", "token", "stream". `text` is the case: the same words are told once.
  void Add(absl::string_view kind, absl::string_view text);

  std::map<std::string, uint64_t> counts() const;

 private:
  // Cases that are remembered. Beyond it new ones are only counted.
  static constexpr size_t kMaxCases = 256;

  const Tell tell_;
  mutable std::mutex mutex_;
  std::map<std::string, uint64_t> counts_;
  std::set<std::string> told_;
};

}  // namespace starling::security
