#include "runtime/reservations/lease_desk.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"

namespace starling::reservations {
namespace {

constexpr size_t kMemory = static_cast<size_t>(Resource::kMemory);

Amounts Least(const Amounts& a, const Amounts& b) {
  Amounts least;
  for (size_t i = 0; i < kResources; ++i) least.of[i] = std::min(a.of[i], b.of[i]);
  return least;
}

// What nobody can do anything about any more.
void Told(const char* what, const std::string& id, const absl::Status& status) {
  if (!status.ok()) spdlog::warn("lease {}: {}: {}", id, what, status.ToString());
}

}  // namespace

std::string LeaseId(const std::string& holder, const std::string& component) {
  return absl::StrCat(holder, "/", component);
}

absl::StatusOr<std::unique_ptr<LeaseDesk>> LeaseDesk::Open(std::string host,
                                                           const std::string& folder,
                                                           const std::string& boot_id,
                                                           TimePoint now) {
  // What is written down is held on to until it is known what this host has.
  Amounts most;
  most.of.fill(Amounts::kMost);
  ASSIGN_OR_RETURN(std::unique_ptr<Reservations> all,
                   Reservations::Open(folder, boot_id, most, now));
  return std::unique_ptr<LeaseDesk>(new LeaseDesk(std::move(host), std::move(all)));
}

absl::Status LeaseDesk::Measure(TimePoint now, const Measured& measured) {
  std::set<std::string> alive;
  for (const auto& [name, used] : measured.of_each) alive.insert(name);
  // One that was pinned since the last time belongs to a component that came after `measured` was.
  std::set<std::string> pinned;
  for (const Lease& lease : all_->List()) {
    if (!lease.pinned) continue;
    pinned.insert(lease.id);
    if (!pinned_before_.contains(lease.id)) alive.insert(lease.component);
  }
  pinned_before_ = std::move(pinned);
  RETURN_IF_ERROR(all_->KeepPinned(now, alive));
  std::set<std::string> arriving;
  {
    std::lock_guard lock(mutex_);
    arriving = arriving_;
  }
  Amounts covered, landing;
  const std::vector<Lease> leases = all_->List();
  for (const Lease& lease : leases) {
    if (lease.pinned) {
      const auto used = measured.of_each.find(lease.component);
      if (used != measured.of_each.end()) covered += Least(lease.amount, used->second);
    } else if (arriving.contains(lease.id)) {
      landing += lease.amount;
    }
  }
  // What runs here, and what a migration under way was told it has, is not taken back because
  // others use more meanwhile; landing itself takes processors.
  Amounts kept = landing;
  for (const Lease& lease : leases) {
    if (lease.pinned) kept += lease.amount;
  }
  covered += Least(landing, measured.landing);
  const Amounts others = (measured.used - covered).AboveZero();
  Amounts capacity = (measured.total - others).AboveZero();
  for (size_t i = 0; i < kResources; ++i) capacity.of[i] = std::max(capacity.of[i], kept.of[i]);
  RETURN_IF_ERROR(all_->Resize(now, capacity));
  measured_ = true;
  return absl::OkStatus();
}

absl::Status LeaseDesk::CheckMeasured() const {
  if (measured_) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("host ", host_, " does not know yet what it has: ask again"));
}

absl::Status LeaseDesk::NoRoom(const absl::Status& why, const std::string& holder,
                               const std::string& component, const Amounts& asked) const {
  if (!absl::IsResourceExhausted(why)) return why;
  return absl::ResourceExhaustedError(absl::StrCat(
      "host ", host_, " has no room for component ", component, " of host ", holder,
      ": it was asked for ", Show(asked), ", and has ", Show(Least(free(), capacity())),
      " free (`starling leases` there says who has the rest)"));
}

absl::StatusOr<Lease> LeaseDesk::Grant(TimePoint now, const Ask& ask) {
  if (ask.id != LeaseId(ask.holder, ask.component)) {
    return absl::InvalidArgumentError(
        absl::StrCat("lease '", ask.id, "': its id is to be ", LeaseId(ask.holder, ask.component)));
  }
  RETURN_IF_ERROR(CheckMeasured());
  absl::StatusOr<Lease> lease = all_->Grant(now, ask);
  if (!lease.ok()) return NoRoom(lease.status(), ask.holder, ask.component, ask.amount);
  return lease;
}

absl::StatusOr<Lease> LeaseDesk::Renew(TimePoint now, const std::string& id,
                                       const std::string& holder, Duration length,
                                       const std::optional<Amounts>& amount) {
  return all_->Renew(now, id, holder, length, amount);
}

absl::StatusOr<Lease> LeaseDesk::Claim(TimePoint now, const std::string& id,
                                       const std::string& holder) {
  return all_->Claim(now, id, holder);
}

absl::Status LeaseDesk::GiveBack(TimePoint now, const std::string& id, const std::string& holder) {
  return all_->Release(now, id, holder);
}

absl::Status LeaseDesk::Arrive(TimePoint now, const std::string& source,
                               const std::string& component, int priority, int64_t memory) {
  RETURN_IF_ERROR(CheckMeasured());
  const std::string id = LeaseId(source, component);
  // It was here before, and nobody has looked since it left.
  (void)all_->Release(now, id, host_);
  Ask ask;
  ask.id = id;
  ask.holder = source;
  ask.component = component;
  ask.priority = priority;
  ask.kind = Kind::kFirm;
  ask.amount[Resource::kMemory] = std::min(memory, Amounts::kMost);
  ask.length = Ledger::kLongest;
  for (const Lease& lease : all_->List()) {
    // What was reserved beside memory stays.
    if (lease.id != id) continue;
    for (size_t i = 0; i < kResources; ++i) {
      ask.amount.of[i] = std::max(ask.amount.of[i], lease.amount.of[i]);
    }
  }
  absl::StatusOr<Lease> lease = all_->Grant(now, ask);
  // A lease that is there keeps its old size where it cannot grow.
  if (lease.ok() && lease->amount.of[kMemory] < ask.amount.of[kMemory]) {
    lease = absl::ResourceExhaustedError("it cannot grow");
  }
  if (lease.ok() && lease->kind != Kind::kFirm) lease = all_->Claim(now, id, source);
  if (!lease.ok()) return NoRoom(lease.status(), source, component, ask.amount);
  std::lock_guard lock(mutex_);
  arriving_.insert(id);
  return absl::OkStatus();
}

void LeaseDesk::Keep(TimePoint now, const std::string& source, const std::string& component) {
  const std::string id = LeaseId(source, component);
  Told("renewing it", id, all_->Renew(now, id, source, Ledger::kLongest, std::nullopt).status());
  // After a restart of the agent this is how it is known again.
  std::lock_guard lock(mutex_);
  arriving_.insert(id);
}

void LeaseDesk::Arrived(TimePoint now, const std::string& source, const std::string& component) {
  const std::string id = LeaseId(source, component);
  Told("its component runs here", id, all_->Pin(now, id, source, host_).status());
  std::lock_guard lock(mutex_);
  arriving_.erase(id);
}

void LeaseDesk::CalledOff(TimePoint now, const std::string& source, const std::string& component) {
  const std::string id = LeaseId(source, component);
  const absl::Status released = all_->Release(now, id, source);
  // A migration that was refused for want of room has none.
  if (!absl::IsNotFound(released)) Told("giving it back", id, released);
  std::lock_guard lock(mutex_);
  arriving_.erase(id);
}

}  // namespace starling::reservations
