#include "runtime/agent/host.h"

namespace starling::agent {

v1::HostFacts FactsOf(const Host& host) {
  v1::HostFacts facts;
  facts.set_kernel(host.kernel);
  if (host.criu.ok()) facts.set_criu(checkpoint::FormatCriuVersion(host.criu->version));
  return facts;
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
