#include "runtime/agent/host.h"

namespace starling::agent {

keeper::StartKeeperOptions KeeperOptions(const Config& config) {
  keeper::StartKeeperOptions options;
  options.program = config.keeper.binary;
  options.run_dir = config.run_dir;
  options.log_dir = config.log_dir;
  options.parent_device = config.network.parent;
  return options;
}

}  // namespace starling::agent
