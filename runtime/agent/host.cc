#include "runtime/agent/host.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace starling::agent {

v1::HostFacts FactsOf(const Host& host) {
  v1::HostFacts facts;
  facts.set_kernel(host.kernel);
  if (host.criu.ok()) facts.set_criu(checkpoint::FormatCriuVersion(host.criu->version));
  return facts;
}

absl::StatusOr<transport::Fabric*> Host::Transport(const std::string& provider) const {
  const std::string& wanted = provider.empty() ? config.data.provider : provider;
  const auto found = fabrics.find(wanted);
  if (found != fabrics.end()) return found->second;
  const auto closed = closed_fabrics.find(wanted);
  if (closed != closed_fabrics.end()) return closed->second;
  const auto name = [](std::string* out, const auto& entry) { out->append(entry.first); };
  return absl::FailedPreconditionError(
      absl::StrCat("host ", config.host, " does not offer the transport ", wanted, " (it offers ",
                   fabrics.empty() ? "none" : absl::StrJoin(fabrics, ", ", name),
                   "): add it to data.offer of its configuration"));
}

std::span<const Rail> Host::RailsOf(const std::string& provider) const {
  const auto found = rails.find(provider);
  return found == rails.end() ? std::span<const Rail>() : found->second;
}

keeper::StartKeeperOptions KeeperOptions(const Config& config) {
  keeper::StartKeeperOptions options;
  options.program = config.keeper.binary;
  options.run_dir = config.run_dir;
  options.log_dir = config.log_dir;
  options.parent_device = config.network.parent;
  return options;
}

}  // namespace starling::agent
