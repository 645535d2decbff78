#include "runtime/sqlite.h"

#include "absl/strings/str_cat.h"

namespace starling {
namespace {

absl::StatusCode StatusCodeOf(int code) {
  switch (code & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_FORMAT:
    case SQLITE_SCHEMA:
    case SQLITE_TOOBIG:
      return absl::StatusCode::kDataLoss;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::StatusCode::kFailedPrecondition;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_CANTOPEN:
      return absl::StatusCode::kPermissionDenied;
    case SQLITE_FULL:
      return absl::StatusCode::kResourceExhausted;
    case SQLITE_IOERR:
      return code == SQLITE_IOERR_SHORT_READ ? absl::StatusCode::kDataLoss
                                             : absl::StatusCode::kInternal;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

absl::StatusOr<bool> SqliteRows::Next() {
  const int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return db_->Error(code);
}

std::string SqliteRows::Bytes(int column) const {
  // The pointer first: asking for it may convert the value and with it change the length.
  const void* data = sqlite3_column_blob(statement_.get(), column);
  const int size = sqlite3_column_bytes(statement_.get(), column);
  return data ? std::string(static_cast<const char*>(data), size) : std::string();
}

absl::StatusOr<std::unique_ptr<Sqlite>> Sqlite::Open(const std::string& path, int flags) {
  sqlite3* handle = nullptr;
  const int code = sqlite3_open_v2(path.c_str(), &handle, flags, nullptr);
  if (handle == nullptr) return absl::ResourceExhaustedError("sqlite: out of memory");
  // Owned from here on: SQLite wants even a handle that did not open to be closed.
  std::unique_ptr<Sqlite> db(new Sqlite(path, handle));
  sqlite3_extended_result_codes(handle, 1);
  if (code != SQLITE_OK) return db->Error(sqlite3_extended_errcode(handle));
  return db;
}

Sqlite::~Sqlite() { sqlite3_close_v2(handle_); }

absl::Status Sqlite::Execute(const char* sql) {
  const int code = sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : Error(code);
}

absl::Status Sqlite::Error(int code) const {
  return absl::Status(StatusCodeOf(code), absl::StrCat(path_, ": ", sqlite3_errmsg(handle_)));
}

absl::StatusOr<SqliteRows> Sqlite::Prepare(absl::string_view sql) {
  sqlite3_stmt* statement = nullptr;
  const int code =
      sqlite3_prepare_v2(handle_, sql.data(), static_cast<int>(sql.size()), &statement, nullptr);
  SqliteRows rows;
  rows.statement_.reset(statement);
  rows.db_ = this;
  if (code != SQLITE_OK) return Error(code);
  return rows;
}

}  // namespace starling
