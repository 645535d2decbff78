#pragma once

#include "base/clock.h"
#include "runtime/proto/loop.pb.h"
#include "runtime/reservations/ledger.h"

// Amounts and leases as messages and back. Nothing is checked here: the ledger does.

namespace starling::loop {

v1::ResourceAmounts ToMessage(const reservations::Amounts& amounts);
reservations::Amounts FromMessage(const v1::ResourceAmounts& message);

// `host`: that granted it.
v1::LeaseInfo ToMessage(const reservations::Lease& lease, const std::string& host, TimePoint now);

}  // namespace starling::loop
