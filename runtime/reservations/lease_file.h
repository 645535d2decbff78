#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/fd.h"
#include "runtime/reservations/ledger.h"
#include "runtime/sqlite.h"

// Private to reservations: where leases are written down. One SQLite file a boot, WAL, never
// synced: it has to outlive the agent, and not the kernel.

namespace starling::reservations {

class LeaseFile {
 public:
  // FOLDER/leases-BOOT.db, made if need be; those of other boots are removed. Errors, the file
  // untouched:
  //   kFailedPrecondition  another process has it open; another version of Starling wrote it
  //   kDataLoss            it is damaged, or makes no sense
  //   kPermissionDenied    it cannot be written
  static absl::StatusOr<LeaseFile> Open(const std::string& folder, const std::string& boot_id);

  // What is written down, oldest grant first.
  absl::StatusOr<std::vector<Lease>> Read() const;
  // All of it or nothing.
  absl::Status Write(const Changes& changes);

 private:
  LeaseFile(UniqueFd lock, std::unique_ptr<Sqlite> db)
      : lock_(std::move(lock)), db_(std::move(db)) {}
  absl::Status WriteOne(const Change& change);

  UniqueFd lock_;
  std::unique_ptr<Sqlite> db_;
};

}  // namespace starling::reservations
