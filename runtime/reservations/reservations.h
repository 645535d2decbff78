#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/reservations/ledger.h"

namespace starling::reservations {

class LeaseFile;

// The ledger of this host, kept over crashes of its agent. Each change is written down before it is
// answered, without waiting for a disk: what the kernel has outlives the agent, and with the kernel
// end all leases anyway, because nothing that they were for is there after a boot. So a crash can
// shorten a promise, and never forget one that somebody still relies on nor lengthen one: ends are
// times of the monotonic clock of that boot, and what is past its end when the file is read again
// is gone, whether or not anybody was there to write that down.
//
// Thread-safe. Errors as the ledger's; kDataLoss, kInternal and kResourceExhausted also from the
// file, and then nothing changed.
class Reservations {
 public:
  // The leases of `boot_id` in `folder`, which is made if need be; files of earlier boots go.
  // Errors as LeaseFile::Open.
  static absl::StatusOr<std::unique_ptr<Reservations>> Open(const std::string& folder,
                                                            const std::string& boot_id,
                                                            const Amounts& capacity, TimePoint now);

  ~Reservations();

  absl::StatusOr<Lease> Grant(TimePoint now, const Ask& ask);
  absl::StatusOr<Lease> Renew(TimePoint now, const std::string& id, const std::string& holder,
                              Duration length, const std::optional<Amounts>& amount);
  absl::StatusOr<Lease> Claim(TimePoint now, const std::string& id, const std::string& holder);
  absl::StatusOr<Lease> Pin(TimePoint now, const std::string& id, const std::string& holder,
                            const std::string& resident);
  absl::Status Release(TimePoint now, const std::string& id, const std::string& holder);
  absl::Status Expire(TimePoint now);
  // When this cannot be written down no lease has gone yet: to be tried again.
  absl::Status Resize(TimePoint now, const Amounts& capacity);
  // Lets pinned leases go whose component is not in `alive`: after a restart, when the keepers have
  // been found again.
  absl::Status KeepPinned(TimePoint now, const std::set<std::string>& alive);

  // Changes since the last call, oldest first, at most the last kNotices.
  static constexpr size_t kNotices = 1000;
  Changes TakeNotices();

  // By id.
  std::vector<Lease> List() const;
  // Counts of what happened since this object was made.
  struct Counters {
    uint64_t granted = 0, refused = 0, released = 0, expired = 0, withdrawn = 0, recalled = 0;
  };
  Counters counters() const;
  Amounts capacity() const;
  Amounts firm() const;
  Amounts soft() const;
  Amounts loans() const;
  Amounts free() const;
  // As Ledger::Check.
  std::string Check(TimePoint now) const;

 private:
  Reservations(std::unique_ptr<LeaseFile> file, const Amounts& capacity);

  // Runs `body` with the ledger, writes down what it changed, and takes it back when that fails.
  template <typename Body>
  auto Do(Body body) -> decltype(body(std::declval<Changes&>()));
  void Note(Changes changes);

  mutable std::mutex mutex_;
  std::unique_ptr<LeaseFile> file_;
  Ledger ledger_;
  Changes notices_;
  Counters counters_;
};

}  // namespace starling::reservations
