#include "runtime/security/roles.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace starling::security {
namespace {

bool About(const Rule& rule, absl::string_view peer) {
  return rule.peer == "*" || rule.peer == peer;
}

}  // namespace

bool MatchesPattern(absl::string_view pattern, absl::string_view text) {
  // The last '*' is the only one that has to be tried again: what stands before it matched already.
  size_t p = 0;
  size_t t = 0;
  size_t star = absl::string_view::npos;
  size_t resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (star != absl::string_view::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

absl::Status Roles::MayCall(absl::string_view peer) const {
  const bool known = rules_.empty() ? std::find(peers_.begin(), peers_.end(), peer) != peers_.end()
                                    : std::any_of(rules_.begin(), rules_.end(),
                                                  [&](const Rule& r) { return About(r, peer); });
  if (known) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat(
      "host ", peer, " has no role here: ",
      rules_.empty() ? "it is none of this host's [[peer]]s, and there is no [[security.allow]]"
                     : "no [[security.allow]] of this host is about it"));
}

absl::Status Roles::MayMove(absl::string_view peer, absl::string_view component,
                            Direction direction) const {
  absl::Status may = MayCall(peer);
  if (!may.ok() || rules_.empty()) return may;
  for (const Rule& rule : rules_) {
    if (!About(rule, peer) || !(direction == Direction::kFrom ? rule.from : rule.to)) continue;
    for (const std::string& pattern : rule.components) {
      if (MatchesPattern(pattern, component)) return absl::OkStatus();
    }
  }
  return absl::PermissionDeniedError(absl::StrCat(
      "component ", component, " may not be moved ", direction == Direction::kFrom ? "from" : "to",
      " host ", peer, ": no [[security.allow]] of this host says so"));
}

}  // namespace starling::security
