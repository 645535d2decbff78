#include "runtime/reservations/audit.h"

namespace starling::reservations {
namespace {

bool Fits(const Amounts& kept, const Amounts& amount, const Amounts& capacity) {
  for (size_t i = 0; i < kResources; ++i) {
    if (amount.of[i] > 0 && kept.of[i] + amount.of[i] > capacity.of[i]) return false;
  }
  return true;
}

}  // namespace

bool PriorityInversion(const std::vector<Lease>& leases, const Amounts& capacity, const Ask& ask,
                       TimePoint now) {
  Amounts promised, in_hand;
  for (const Lease& lease : leases) {
    if (lease.end <= now) continue;
    const bool lower = !lease.pinned && lease.priority < ask.priority;
    const bool yields = lower && (lease.kind != Kind::kFirm || ask.kind == Kind::kFirm);
    if (yields) continue;
    if (lease.kind != Kind::kLoan) promised += lease.amount;
    if (lease.kind != Kind::kSoft) in_hand += lease.amount;
  }
  if (!Fits(promised, ask.amount, capacity)) return false;
  // A firm lease may also find loans of no lower priority in its way.
  return ask.kind != Kind::kFirm || Fits(in_hand, ask.amount, capacity);
}

}  // namespace starling::reservations
