#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/reservations/reservations.h"

namespace starling::reservations {

// The id of a host's lease for a component; at any host it has one at most.
std::string LeaseId(const std::string& holder, const std::string& component);

// What this host may promise, to whom it is promised, and what migrations to it take of that.
// Thread-safe.
class LeaseDesk {
 public:
  // Leases are kept in `folder`; see Reservations::Open. Nothing may be promised before Measure().
  static absl::StatusOr<std::unique_ptr<LeaseDesk>> Open(std::string host,
                                                         const std::string& folder,
                                                         const std::string& boot_id, TimePoint now);

  struct Measured {
    Amounts total;                           // what the host has
    Amounts used;                            // by whoever
    Amounts landing;                         // of it, by what is arriving
    std::map<std::string, Amounts> of_each;  // of it, by each component that runs here
  };
  // To be told now and then. What is in use without a lease cannot be promised; what a component
  // with a lease uses counts once. Leases go whose component ran here and does not any more. By one
  // thread at a time.
  absl::Status Measure(TimePoint now, const Measured& measured);

  // What others ask for. Errors as the ledger's; an id that is not LeaseId(holder, component) is
  // kInvalidArgument. A refusal names this host, what was asked for, and what is free.
  absl::StatusOr<Lease> Grant(TimePoint now, const Ask& ask);
  absl::StatusOr<Lease> Renew(TimePoint now, const std::string& id, const std::string& holder,
                              Duration length, const std::optional<Amounts>& amount);
  absl::StatusOr<Lease> Claim(TimePoint now, const std::string& id, const std::string& holder);
  absl::Status GiveBack(TimePoint now, const std::string& id, const std::string& holder);

  // A migration to this host begins and needs so much memory: firm from here on, by the lease that
  // its source has for the component or by a new one. kResourceExhausted when there is no room.
  absl::Status Arrive(TimePoint now, const std::string& source, const std::string& component,
                      int priority, int64_t memory);
  // It goes on.
  void Keep(TimePoint now, const std::string& source, const std::string& component);
  // It is over: the component runs here, or it never will.
  void Arrived(TimePoint now, const std::string& source, const std::string& component);
  void CalledOff(TimePoint now, const std::string& source, const std::string& component);

  std::vector<Lease> List() const { return all_->List(); }
  Amounts capacity() const { return all_->capacity(); }
  Amounts free() const { return all_->free(); }
  Reservations::Counters counters() const { return all_->counters(); }

 private:
  LeaseDesk(std::string host, std::unique_ptr<Reservations> all)
      : host_(std::move(host)), all_(std::move(all)) {}
  absl::Status CheckMeasured() const;
  absl::Status NoRoom(const absl::Status& why, const std::string& holder,
                      const std::string& component, const Amounts& asked) const;

  const std::string host_;
  const std::unique_ptr<Reservations> all_;
  std::atomic<bool> measured_{false};
  std::set<std::string> pinned_before_;  // ids of leases, at the last Measure()
  std::mutex mutex_;
  std::set<std::string> arriving_;  // ids of leases; guarded by mutex_
};

}  // namespace starling::reservations
