#include "runtime/reservations/lease_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"

namespace starling::reservations {
namespace {

constexpr int64_t kSchemaVersion = 1;
constexpr char kSchema[] = R"(
CREATE TABLE leases (
  id TEXT PRIMARY KEY NOT NULL,
  number INTEGER NOT NULL,
  holder TEXT NOT NULL,
  component TEXT NOT NULL,
  priority INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  wanted INTEGER NOT NULL,
  pinned INTEGER NOT NULL,
  end_ns INTEGER NOT NULL,
  cpu INTEGER NOT NULL, memory INTEGER NOT NULL, disk INTEGER NOT NULL, network INTEGER NOT NULL,
  storage INTEGER NOT NULL, gpu INTEGER NOT NULL, gpu_memory INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
)";
constexpr absl::string_view kColumns =
    "id, number, holder, component, priority, kind, wanted, pinned, end_ns, cpu, memory, disk, "
    "network, storage, gpu, gpu_memory";
constexpr int kFirstAmount = 9;
static_assert(kResources == 7, "a column each");

absl::Status Damaged(const std::string& path, absl::string_view what) {
  return absl::DataLossError(absl::StrCat(
      path, " is not a sound file of leases: ", what,
      "; stop the agent, wait until the leases it gave have ended (an hour at most), remove the "
      "file with its -wal and -shm, and start the agent again"));
}

absl::Status Explain(const absl::Status& status, const std::string& path) {
  if (status.code() == absl::StatusCode::kDataLoss) return Damaged(path, status.message());
  if (status.code() != absl::StatusCode::kFailedPrecondition) return status;
  return absl::FailedPreconditionError(
      absl::StrCat(status.message(), "; another process keeps this host's leases"));
}

void RemoveOtherBoots(const std::string& folder, const std::string& name) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string file = entry.path().filename().string();
    if (absl::StartsWith(file, "leases-") && !absl::StartsWith(file, name)) {
      std::filesystem::remove(entry.path(), error);
    }
  }
}

absl::Status MakeTables(Sqlite& db) {
  ASSIGN_OR_RETURN(SqliteRows rows, db.Query("PRAGMA user_version"));
  ASSIGN_OR_RETURN(const bool any, rows.Next());
  const int64_t version = any ? rows.Int(0) : 0;
  if (version == kSchemaVersion) return absl::OkStatus();
  if (version != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(db.path(), ": has schema ", version, ", this agent knows ", kSchemaVersion));
  }
  rows = SqliteRows();
  RETURN_IF_ERROR(db.Execute("BEGIN IMMEDIATE"));
  RETURN_IF_ERROR(db.Execute(kSchema));
  RETURN_IF_ERROR(db.Run(absl::StrCat("PRAGMA user_version = ", kSchemaVersion)));
  return db.Execute("COMMIT");
}

}  // namespace

absl::StatusOr<LeaseFile> LeaseFile::Open(const std::string& folder, const std::string& boot_id) {
  RETURN_IF_ERROR(MakeDirectories(folder, 0700));
  const std::string name = absl::StrCat("leases-", boot_id, ".db");
  const std::string path = absl::StrCat(folder, "/", name);
  // The lock is a file of its own: SQLite's go when any descriptor of the database is closed.
  ASSIGN_OR_RETURN(UniqueFd lock, OpenFile(folder + "/leases.lock", O_RDWR | O_CREAT, 0600));
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(absl::StrCat("lock ", path));
    return Explain(absl::FailedPreconditionError(absl::StrCat(path, " is locked")), path);
  }
  RemoveOtherBoots(folder, name);
  ASSIGN_OR_RETURN(auto db, Sqlite::Open(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE |
                                                   SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW));
  const auto prepare = [&]() -> absl::Status {
    RETURN_IF_ERROR(db->Execute("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = OFF;"));
    RETURN_IF_ERROR(db->Execute("PRAGMA journal_mode = WAL;"));
    RETURN_IF_ERROR(MakeTables(*db));
    ASSIGN_OR_RETURN(SqliteRows check, db->Query("PRAGMA quick_check(1)"));
    ASSIGN_OR_RETURN(const bool any, check.Next());
    if (any && check.Bytes(0) == "ok") return absl::OkStatus();
    return absl::DataLossError(any ? check.Bytes(0) : "no check");
  };
  RETURN_IF_ERROR(Explain(prepare(), path));
  LeaseFile file(std::move(lock), std::move(db));
  RETURN_IF_ERROR(Explain(file.Read().status(), path));
  return file;
}

absl::StatusOr<std::vector<Lease>> LeaseFile::Read() const {
  std::vector<Lease> leases;
  ASSIGN_OR_RETURN(SqliteRows rows,
                   db_->Query(absl::StrCat("SELECT ", kColumns, " FROM leases ORDER BY number")));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, rows.Next());
    if (!more) return leases;
    Lease lease;
    lease.id = rows.Bytes(0);
    lease.number = static_cast<uint64_t>(rows.Int(1));
    lease.holder = rows.Bytes(2);
    lease.component = rows.Bytes(3);
    lease.priority = static_cast<int>(rows.Int(4));
    const int64_t kind = rows.Int(5), wanted = rows.Int(6);
    lease.pinned = rows.Int(7) != 0;
    lease.end = TimePoint(Duration(rows.Int(8)));
    bool sound = kind >= 0 && kind <= 2 && wanted >= 0 && wanted <= 1 && !lease.id.empty();
    for (size_t i = 0; i < kResources; ++i) {
      lease.amount.of[i] = rows.Int(kFirstAmount + static_cast<int>(i));
      sound = sound && lease.amount.of[i] >= 0 && lease.amount.of[i] <= Amounts::kMost;
    }
    lease.kind = static_cast<Kind>(kind);
    lease.wanted = static_cast<Kind>(wanted);
    sound = sound && (!lease.pinned || lease.kind == Kind::kFirm) &&
            lease.pinned == (lease.end == TimePoint::max());
    if (!sound) return absl::DataLossError(absl::StrCat("lease '", lease.id, "' makes no sense"));
    leases.push_back(std::move(lease));
  }
}

absl::Status LeaseFile::WriteOne(const Change& change) {
  if (!change.after) return db_->Run("DELETE FROM leases WHERE id = ?1", change.before->id);
  const Lease& lease = *change.after;
  const auto& of = lease.amount.of;
  return db_->Run(
      "INSERT OR REPLACE INTO leases VALUES "
      "(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
      lease.id, lease.number, lease.holder, lease.component, lease.priority,
      static_cast<int>(lease.kind), static_cast<int>(lease.wanted), lease.pinned ? 1 : 0,
      static_cast<int64_t>(lease.end.time_since_epoch().count()), of[0], of[1], of[2], of[3], of[4],
      of[5], of[6]);
}

absl::Status LeaseFile::Write(const Changes& changes) {
  if (changes.empty()) return absl::OkStatus();
  if (changes.size() == 1) return WriteOne(changes[0]);
  RETURN_IF_ERROR(db_->Execute("BEGIN IMMEDIATE"));
  absl::Status status = absl::OkStatus();
  for (const Change& change : changes) {
    if (status.ok()) status = WriteOne(change);
  }
  if (status.ok()) status = db_->Execute("COMMIT");
  // SQLite may have rolled back already: that this one fails then says nothing.
  if (!status.ok()) db_->Execute("ROLLBACK").IgnoreError();
  return status;
}

}  // namespace starling::reservations
