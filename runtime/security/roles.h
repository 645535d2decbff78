#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

// Who may move what to whom. Pure: rules and a question in, a word out.

namespace starling::security {

enum class Direction : unsigned char {
  kFrom,  // the peer sends the component to this host
  kTo,    // this host sends it to the peer
};

// One [[security.allow]] of the configuration.
struct Rule {
  std::string peer;                     // a host's name, or "*" for every one of the authority's
  std::vector<std::string> components;  // patterns: '*' any letters, '?' one
  bool from = true;
  bool to = true;
};

// The rules of one host. Without any, the hosts that it names as peers may do all, others nothing.
// With some, what none of them allows is refused. Value type.
class Roles {
 public:
  Roles() = default;
  Roles(std::vector<Rule> rules, std::vector<std::string> peers)
      : rules_(std::move(rules)), peers_(std::move(peers)) {}

  // Whether the host may speak with this one at all: some rule is about it. kPermissionDenied.
  absl::Status MayCall(absl::string_view peer) const;
  // kPermissionDenied, saying which rule would have to be there.
  absl::Status MayMove(absl::string_view peer, absl::string_view component,
                       Direction direction) const;

 private:
  std::vector<Rule> rules_;
  std::vector<std::string> peers_;
};

// '*' stands for any number of letters, '?' for one.
bool MatchesPattern(absl::string_view pattern, absl::string_view text);

}  // namespace starling::security
