#include "runtime/reservations/reservations.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "runtime/reservations/lease_file.h"

namespace starling::reservations {
namespace {

const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& value) {
  return value.status();
}

}  // namespace

Reservations::Reservations(std::unique_ptr<LeaseFile> file, const Amounts& capacity)
    : file_(std::move(file)), ledger_(capacity) {}
Reservations::~Reservations() = default;

absl::StatusOr<std::unique_ptr<Reservations>> Reservations::Open(const std::string& folder,
                                                                 const std::string& boot_id,
                                                                 const Amounts& capacity,
                                                                 TimePoint now) {
  ASSIGN_OR_RETURN(LeaseFile file, LeaseFile::Open(folder, boot_id));
  ASSIGN_OR_RETURN(const std::vector<Lease> leases, file.Read());
  std::unique_ptr<Reservations> all(
      new Reservations(std::make_unique<LeaseFile>(std::move(file)), capacity));
  for (const Lease& lease : leases) all->ledger_.Restore(lease);
  // Ends what is past its end, and what does not fit any more should the host have shrunk.
  RETURN_IF_ERROR(all->Resize(now, capacity));
  return all;
}

template <typename Body>
auto Reservations::Do(Body body) -> decltype(body(std::declval<Changes&>())) {
  std::lock_guard<std::mutex> lock(mutex_);
  Changes changes;
  auto result = body(changes);
  if (absl::Status written = file_->Write(changes); !written.ok()) {
    ledger_.Undo(changes);
    return Annotate(written, "a lease could not be written down");
  }
  if (StatusOf(result).code() == absl::StatusCode::kResourceExhausted) ++counters_.refused;
  Note(std::move(changes));
  return result;
}

void Reservations::Note(Changes changes) {
  for (Change& change : changes) {
    counters_.granted += change.what == What::kGranted;
    counters_.released += change.what == What::kReleased;
    counters_.expired += change.what == What::kExpired;
    counters_.withdrawn += change.what == What::kWithdrawn;
    counters_.recalled += change.what == What::kRecalled;
    if (change.what == What::kRenewed) continue;
    notices_.push_back(std::move(change));
  }
  if (notices_.size() > 2 * kNotices) {
    notices_.erase(notices_.begin(), notices_.end() - kNotices);
  }
}

absl::StatusOr<Lease> Reservations::Grant(TimePoint now, const Ask& ask) {
  return Do([&](Changes& changes) { return ledger_.Grant(now, ask, changes); });
}

absl::StatusOr<Lease> Reservations::Renew(TimePoint now, const std::string& id,
                                          const std::string& holder, Duration length,
                                          const std::optional<Amounts>& amount) {
  return Do(
      [&](Changes& changes) { return ledger_.Renew(now, id, holder, length, amount, changes); });
}

absl::StatusOr<Lease> Reservations::Claim(TimePoint now, const std::string& id,
                                          const std::string& holder) {
  return Do([&](Changes& changes) { return ledger_.Claim(now, id, holder, changes); });
}

absl::StatusOr<Lease> Reservations::Pin(TimePoint now, const std::string& id,
                                        const std::string& holder, const std::string& resident) {
  return Do([&](Changes& changes) { return ledger_.Pin(now, id, holder, resident, changes); });
}

absl::Status Reservations::Release(TimePoint now, const std::string& id,
                                   const std::string& holder) {
  return Do([&](Changes& changes) { return ledger_.Release(now, id, holder, changes); });
}

absl::Status Reservations::Expire(TimePoint now) {
  return Do([&](Changes& changes) {
    ledger_.Expire(now, changes);
    return absl::OkStatus();
  });
}

absl::Status Reservations::Resize(TimePoint now, const Amounts& capacity) {
  return Do([&](Changes& changes) {
    ledger_.Resize(now, capacity, changes);
    return absl::OkStatus();
  });
}

absl::Status Reservations::KeepPinned(TimePoint now, const std::set<std::string>& alive) {
  return Do([&](Changes& changes) {
    std::vector<std::pair<std::string, std::string>> gone;
    ledger_.ForEach([&](const Lease& lease) {
      if (lease.pinned && alive.count(lease.component) == 0) {
        gone.emplace_back(lease.id, lease.holder);
      }
    });
    for (const auto& [id, holder] : gone) {
      if (absl::Status status = ledger_.Release(now, id, holder, changes); !status.ok()) {
        return status;
      }
    }
    return absl::OkStatus();
  });
}

Changes Reservations::TakeNotices() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (notices_.size() > kNotices) notices_.erase(notices_.begin(), notices_.end() - kNotices);
  return std::exchange(notices_, {});
}

std::vector<Lease> Reservations::List() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Lease> leases;
  ledger_.ForEach([&](const Lease& lease) { leases.push_back(lease); });
  std::sort(leases.begin(), leases.end(),
            [](const Lease& a, const Lease& b) { return a.id < b.id; });
  return leases;
}

Reservations::Counters Reservations::counters() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return counters_;
}
Amounts Reservations::capacity() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return ledger_.capacity();
}
Amounts Reservations::firm() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return ledger_.firm();
}
Amounts Reservations::soft() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return ledger_.soft();
}
Amounts Reservations::loans() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return ledger_.loans();
}
Amounts Reservations::free() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return ledger_.Free();
}
std::string Reservations::Check(TimePoint now) const {
  std::lock_guard<std::mutex> lock(mutex_);
  return ledger_.Check(now);
}

}  // namespace starling::reservations
