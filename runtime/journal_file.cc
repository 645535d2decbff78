#include "runtime/journal_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <tuple>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/names.h"

namespace starling {
namespace {

// "STRL": says that the file is a journal of ours.
constexpr int64_t kApplicationId = 0x5354524c;
// Grows when the tables change; an agent opens only its own.
constexpr int64_t kSchemaVersion = 1;

// STRICT, so that the check at open also finds a value of the wrong type. The partial index is the
// last guard of "one unsettled migration a component".
constexpr char kSchema[] = R"(
CREATE TABLE components (
  name TEXT PRIMARY KEY NOT NULL,
  spec BLOB NOT NULL,
  epoch INTEGER NOT NULL CHECK (epoch >= 0),
  state TEXT NOT NULL,
  host TEXT NOT NULL,
  boot_id TEXT NOT NULL,
  exit_status INTEGER NOT NULL,
  since REAL NOT NULL,
  migration_id TEXT NOT NULL
) STRICT;
CREATE TABLE migrations (
  number INTEGER PRIMARY KEY NOT NULL,
  id TEXT UNIQUE NOT NULL,
  role TEXT NOT NULL,
  component TEXT NOT NULL,
  peer TEXT NOT NULL,
  peer_address TEXT NOT NULL,
  state TEXT NOT NULL,
  epoch INTEGER NOT NULL CHECK (epoch >= 0),
  spec BLOB NOT NULL,
  boot_id TEXT NOT NULL,
  reason TEXT NOT NULL,
  updated REAL NOT NULL,
  settled INTEGER NOT NULL CHECK (settled IN (0, 1))
) STRICT;
CREATE UNIQUE INDEX unsettled ON migrations (component) WHERE settled = 0;
CREATE TABLE events (
  number INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
  time REAL NOT NULL,
  component TEXT NOT NULL,
  kind TEXT NOT NULL,
  text TEXT NOT NULL
) STRICT;
)";

struct StateName {
  MigrationState state;
  absl::string_view name;
};
constexpr std::array kStateNames = {
    StateName{MigrationState::kReserving, "reserving"},
    StateName{MigrationState::kPreCopy, "precopy"},
    StateName{MigrationState::kFrozen, "frozen"},
    StateName{MigrationState::kCaptured, "captured"},
    StateName{MigrationState::kPrepared, "prepared"},
    StateName{MigrationState::kAsked, "asked"},
    StateName{MigrationState::kLeft, "left"},
    StateName{MigrationState::kCalledOff, "called-off"},
    StateName{MigrationState::kPending, "pending"},
    StateName{MigrationState::kCommitted, "committed"},
    StateName{MigrationState::kAborted, "aborted"},
};

// What a person can do about a file that cannot be trusted.
std::string MoveAside(const std::string& path) {
  return absl::StrCat(
      "nothing was changed. Restore the file from a backup, or move it and ", path,
      "-wal aside: the agent then starts with an empty journal, knows none of this host's "
      "components and leaves them as they are; a component that was in doubt stays frozen, and "
      "peers that ask about a migration to this host are told that it was aborted. So first make "
      "sure that no component of this host is in doubt or was moved here lately");
}

absl::Status Damaged(const std::string& path, absl::string_view what) {
  // SQLite says in several lines what it finds.
  return absl::DataLossError(
      absl::StrCat(path, " is not a sound journal: ", absl::StrReplaceAll(what, {{"\n", " "}}),
                   "; ", MoveAside(path)));
}

// The words of an error met while a file is opened and checked.
absl::Status Explain(const absl::Status& status, const std::string& path) {
  switch (status.code()) {
    case absl::StatusCode::kDataLoss:
      if (absl::StrContains(status.message(), "is not a sound journal")) return status;
      return Damaged(path, status.message());
    case absl::StatusCode::kFailedPrecondition:
      return absl::FailedPreconditionError(
          absl::StrCat(status.message(),
                       "; another process has the journal open: stop the other "
                       "agent, or give this one a state_dir of its own"));
    case absl::StatusCode::kPermissionDenied:
      return absl::PermissionDeniedError(
          absl::StrCat(status.message(),
                       "; the agent must be able to write the journal and its "
                       "folder: run it as root, on a writable state_dir"));
    default:
      return status;
  }
}

absl::StatusOr<int64_t> PragmaInt(Sqlite& db, absl::string_view pragma) {
  ASSIGN_OR_RETURN(SqliteRows rows, db.Query(absl::StrCat("PRAGMA ", pragma)));
  ASSIGN_OR_RETURN(const bool any, rows.Next());
  return any ? rows.Int(0) : 0;
}

// Every table, index, trigger and view, with the words it was made by.
using Schema = std::vector<std::tuple<std::string, std::string, std::string>>;
absl::StatusOr<Schema> ReadSchema(Sqlite& db) {
  Schema schema;
  ASSIGN_OR_RETURN(SqliteRows rows,
                   db.Query("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name"));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, rows.Next());
    if (!more) return schema;
    schema.emplace_back(rows.Bytes(0), rows.Bytes(1), rows.Bytes(2));
  }
}

absl::StatusOr<Schema> ExpectedSchema() {
  ASSIGN_OR_RETURN(auto db, Sqlite::Open(":memory:", SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE));
  RETURN_IF_ERROR(db->Execute(kSchema));
  return ReadSchema(*db);
}

absl::Status CheckVersion(Sqlite& db) {
  ASSIGN_OR_RETURN(const int64_t application, PragmaInt(db, "application_id"));
  if (application != kApplicationId) {
    return Damaged(db.path(), "it is a database of another program");
  }
  ASSIGN_OR_RETURN(const int64_t version, PragmaInt(db, "user_version"));
  if (version != kSchemaVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        db.path(), ": the journal has schema ", version, ", this starlingd knows schema ",
        kSchemaVersion, ": run the starlingd that wrote it; nothing was changed"));
  }
  return absl::OkStatus();
}

// Every page, every table's definition and every row that the agent acts on.
absl::Status CheckContent(Sqlite& db) {
  ASSIGN_OR_RETURN(SqliteRows check, db.Query("PRAGMA quick_check(1)"));
  ASSIGN_OR_RETURN(const bool any, check.Next());
  if (!any || check.Bytes(0) != "ok") return Damaged(db.path(), any ? check.Bytes(0) : "no check");
  ASSIGN_OR_RETURN(const Schema expected, ExpectedSchema());
  ASSIGN_OR_RETURN(const Schema actual, ReadSchema(db));
  if (actual != expected) return Damaged(db.path(), "its tables are not those of a journal");

  ASSIGN_OR_RETURN(SqliteRows components,
                   db.Query(absl::StrCat("SELECT ", kComponentColumns, " FROM components")));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, components.Next());
    if (!more) break;
    RETURN_IF_ERROR(ReadComponentRow(components, db.path()).status());
  }
  ASSIGN_OR_RETURN(SqliteRows migrations,
                   db.Query(absl::StrCat("SELECT ", kMigrationColumns, " FROM migrations")));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, migrations.Next());
    if (!more) break;
    RETURN_IF_ERROR(ReadMigrationRow(migrations, db.path()).status());
  }
  return absl::OkStatus();
}

// Makes an empty journal under another name and then gives it its own: a file that is there but
// empty or half made is therefore never ours, and is refused like any damaged one.
absl::Status CreateJournal(const std::string& path, int folder) {
  const std::string fresh = path + ".new";
  for (const char* suffix : {"", "-wal", "-shm", "-journal"}) {
    if (unlink((fresh + suffix).c_str()) != 0 && errno != ENOENT) return ErrnoStatus(fresh);
  }
  {
    ASSIGN_OR_RETURN(auto db, Sqlite::Open(fresh, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE |
                                                      SQLITE_OPEN_NOMUTEX));
    RETURN_IF_ERROR(db->Execute("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = FULL;"));
    RETURN_IF_ERROR(db->Execute("PRAGMA journal_mode = WAL;"));
    RETURN_IF_ERROR(db->Execute("BEGIN IMMEDIATE;"));
    RETURN_IF_ERROR(db->Execute(kSchema));
    RETURN_IF_ERROR(db->Run(absl::StrCat("PRAGMA application_id = ", kApplicationId)));
    RETURN_IF_ERROR(db->Run(absl::StrCat("PRAGMA user_version = ", kSchemaVersion)));
    RETURN_IF_ERROR(db->Execute("COMMIT; PRAGMA wal_checkpoint(TRUNCATE);"));
  }
  if (chmod(fresh.c_str(), 0600) != 0) return ErrnoStatus(absl::StrCat("chmod ", fresh));
  if (rename(fresh.c_str(), path.c_str()) != 0) return ErrnoStatus(absl::StrCat("rename ", fresh));
  if (fsync(folder) != 0) return ErrnoStatus(absl::StrCat("fsync of the folder of ", path));
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> LockFolder(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "."
                             : slash == 0               ? "/"
                                                        : path.substr(0, slash);
  RETURN_IF_ERROR(MakeDirectories(folder, 0700));
  ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(folder, O_RDONLY | O_DIRECTORY));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(absl::StrCat("lock ", folder));
    return absl::FailedPreconditionError(absl::StrCat(folder, " is locked"));
  }
  return fd;
}

// A file that lacks the end of its last page would be read as if that were zero. With a WAL beside
// it SQLite may rightly be between the two, and the check of the content has to do.
absl::Status CheckSize(Sqlite& db, off_t size) {
  struct stat wal = {};
  if (stat((db.path() + "-wal").c_str(), &wal) == 0 && wal.st_size > 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int64_t pages, PragmaInt(db, "page_count"));
  ASSIGN_OR_RETURN(const int64_t page_size, PragmaInt(db, "page_size"));
  if (size == pages * page_size) return absl::OkStatus();
  return Damaged(db.path(), absl::StrCat("it has ", size, " bytes where ", pages, " pages of ",
                                         page_size, " should be"));
}

// Settings under which a file of unknown content is looked at: its SQL must not run, and closing it
// must not write.
absl::Status Distrust(Sqlite& db) {
  sqlite3* handle = db.handle();
  sqlite3_db_config(handle, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_ENABLE_VIEW, 0, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  return db.Execute(
      "PRAGMA locking_mode = EXCLUSIVE; PRAGMA mmap_size = 0; PRAGMA cell_size_check = ON;");
}

absl::StatusOr<JournalFile> OpenUnexplained(const std::string& path) {
  JournalFile file;
  ASSIGN_OR_RETURN(file.folder, LockFolder(path));
  struct stat st = {};
  if (lstat(path.c_str(), &st) != 0) {
    if (errno != ENOENT) return ErrnoStatus(path);
    RETURN_IF_ERROR(CreateJournal(path, file.folder.get()));
  } else if (!S_ISREG(st.st_mode)) {
    return Damaged(path, "it is not a plain file");
  } else if (st.st_size == 0) {
    return Damaged(path, "it is empty");
  }
  ASSIGN_OR_RETURN(file.db, Sqlite::Open(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX |
                                                   SQLITE_OPEN_NOFOLLOW));
  Sqlite& db = *file.db;
  RETURN_IF_ERROR(Distrust(db));
  if (sqlite3_db_readonly(db.handle(), "main") != 0) {
    return absl::PermissionDeniedError(absl::StrCat(path, " cannot be written"));
  }
  RETURN_IF_ERROR(CheckVersion(db));
  if (st.st_size > 0) RETURN_IF_ERROR(CheckSize(db, st.st_size));
  RETURN_IF_ERROR(CheckContent(db));
  ASSIGN_OR_RETURN(SqliteRows mode, db.Query("PRAGMA journal_mode = WAL"));
  ASSIGN_OR_RETURN(const bool any, mode.Next());
  if (!any || mode.Bytes(0) != "wal") return Damaged(path, "it cannot be put into WAL mode");
  RETURN_IF_ERROR(db.Execute("PRAGMA synchronous = FULL;"));
  sqlite3_db_config(db.handle(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, nullptr);
  return file;
}

}  // namespace

absl::string_view Name(MigrationState state) {
  for (const StateName& entry : kStateNames) {
    if (entry.state == state) return entry.name;
  }
  return "?";
}

absl::string_view Name(MigrationRole role) {
  return role == MigrationRole::kSource ? "source" : "target";
}

bool StateFitsRole(MigrationRole role, MigrationState state) {
  switch (state) {
    case MigrationState::kPrepared:
      return true;
    case MigrationState::kPending:
    case MigrationState::kCommitted:
    case MigrationState::kAborted:
      return role == MigrationRole::kTarget;
    default:
      return role == MigrationRole::kSource;
  }
}

bool IsFinal(MigrationState state) {
  return state == MigrationState::kLeft || state == MigrationState::kCalledOff ||
         state == MigrationState::kCommitted || state == MigrationState::kAborted;
}

absl::StatusOr<ComponentRow> ReadComponentRow(const SqliteRows& rows, const std::string& path) {
  ComponentRow row;
  const std::string name = rows.Bytes(0);
  if (!CheckComponentName(name).ok() || !row.spec.ParseFromString(rows.Bytes(1)) ||
      row.spec.name() != name || !v1::ComponentState_Parse(rows.Bytes(3), &row.state) ||
      row.state == v1::COMPONENT_STATE_UNSPECIFIED) {
    return Damaged(path, absl::StrCat("its row of component '", name, "' makes no sense"));
  }
  row.epoch = rows.Int(2);
  row.where = rows.Bytes(4);
  row.boot_id = rows.Bytes(5);
  row.exit_status = static_cast<int>(rows.Int(6));
  row.since = rows.Real(7);
  row.migration_id = rows.Bytes(8);
  return row;
}

absl::StatusOr<MigrationRow> ReadMigrationRow(const SqliteRows& rows, const std::string& path) {
  MigrationRow row;
  row.id = rows.Bytes(0);
  const std::string role = rows.Bytes(1);
  row.role = role == "source" ? MigrationRole::kSource : MigrationRole::kTarget;
  row.component = rows.Bytes(2);
  row.peer = rows.Bytes(3);
  row.peer_address = rows.Bytes(4);
  bool known = role == Name(row.role) && CheckMigrationId(row.id).ok();
  const std::string state = rows.Bytes(5);
  bool state_known = false;
  for (const StateName& entry : kStateNames) {
    if (entry.name != state) continue;
    row.state = entry.state;
    state_known = StateFitsRole(row.role, row.state);
  }
  row.epoch = rows.Int(6);
  known = known && state_known && row.spec.ParseFromString(rows.Bytes(7));
  row.boot_id = rows.Bytes(8);
  row.reason = rows.Bytes(9);
  row.updated = rows.Real(10);
  row.settled = rows.Int(11) != 0;
  known = known && (!row.settled || IsFinal(row.state));
  // Only an id that was aborted without ever having begun has no component.
  known = known && (CheckComponentName(row.component).ok() ||
                    (row.component.empty() && row.state == MigrationState::kAborted));
  if (!known)
    return Damaged(path, absl::StrCat("its row of migration '", row.id, "' makes no sense"));
  return row;
}

absl::StatusOr<JournalFile> OpenJournalFile(const std::string& path) {
  auto file = OpenUnexplained(path);
  if (!file.ok()) return Explain(file.status(), path);
  return file;
}

}  // namespace starling
