#pragma once

#include <memory>

#include "transport/fabric.h"
#include "transport/queue_pair_connection.h"

namespace starling::transport {

// The provider for machines with nothing else: queue pairs over the kernel's TCP, one connection
// and two threads each. Keeps the promises of the others: what is written goes straight from
// registered memory to the socket and from the socket into granted memory, whose key and address
// are random, and whose bounds and rights are checked. docs/wire.md has its frames. It does not
// encrypt.
std::unique_ptr<Fabric> OpenTcp(const ConnectionTuning& tuning = {});

}  // namespace starling::transport
