#pragma once

#include <vector>

#include "runtime/reservations/ledger.h"

namespace starling::reservations {

// Whether an ask that was refused should not have been: leases of lower priority that might have
// yielded, and what is free, would have been enough. Counted from the leases alone, not from the
// ledger's sums, so that tests and replays can hold the ledger against it. Leases past `now` do not
// count.
bool PriorityInversion(const std::vector<Lease>& leases, const Amounts& capacity, const Ask& ask,
                       TimePoint now);

}  // namespace starling::reservations
