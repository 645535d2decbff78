#include "transport/roce_port.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace starling::transport {

absl::StatusOr<RocePort> ParseRocePort(absl::string_view text) {
  constexpr std::pair<absl::string_view, RocePort::Kind> kKinds[] = {
      {"af_packet:", RocePort::Kind::kAfPacket}, {"af_xdp:", RocePort::Kind::kAfXdp},
      {"memif:", RocePort::Kind::kMemif},        {"pci:", RocePort::Kind::kPci},
      {"verbs:", RocePort::Kind::kVerbs},
  };
  for (const auto& [prefix, kind] : kKinds) {
    absl::string_view where = text;
    if (!absl::ConsumePrefix(&where, prefix)) continue;
    const bool server = kind == RocePort::Kind::kMemif && absl::ConsumeSuffix(&where, ",server");
    // A comma would begin another argument of a driver.
    if (where.empty() || absl::StrContains(where, ',') || absl::StrContains(where, ' ')) break;
    return RocePort{.kind = kind, .where = std::string(where), .server = server};
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", absl::CHexEscape(text.substr(0, 64)),
                   "' is no port; say af_packet:DEVICE, af_xdp:DEVICE, memif:SOCKET, "
                   "memif:SOCKET,server, pci:ADDRESS or verbs:DEVICE"));
}

}  // namespace starling::transport
