#include "runtime/config.h"
#include "tests/fuzz/fuzz.h"

// The configuration: any text is either right or refused with one line.

using starling::fuzz::Require;
using starling::fuzz::Text;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = starling::ParseConfig(Text(data, size), "starlingd.toml");
  if (config.ok()) {
    Require(!config->host.empty() && config->data.slabs >= 2);
    Require(!config->security.insecure || !config->security.has_certificates());
  } else {
    Require(!config.status().message().empty());
  }
  return 0;
}
