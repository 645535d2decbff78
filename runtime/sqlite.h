#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// Private to the runtime room: the little of SQLite that the journal uses, with owners and
// statuses. Not thread-safe: the journal's mutex guards it.

namespace starling {

// One prepared statement, being stepped through.
class SqliteRows {
 public:
  // True: a row is there to be read. False: no more.
  absl::StatusOr<bool> Next();

  int64_t Int(int column) const { return sqlite3_column_int64(statement_.get(), column); }
  double Real(int column) const { return sqlite3_column_double(statement_.get(), column); }
  // Text or blob, byte for byte.
  std::string Bytes(int column) const;

 private:
  friend class Sqlite;
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
  };
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
  const class Sqlite* db_ = nullptr;
};

// An open database. Errors name its path: kDataLoss (damaged), kFailedPrecondition (locked by
// another process), kPermissionDenied (cannot be written), kResourceExhausted (disk full),
// kInternal.
class Sqlite {
 public:
  // `flags` as for sqlite3_open_v2. Nothing of the file is read yet.
  static absl::StatusOr<std::unique_ptr<Sqlite>> Open(const std::string& path, int flags);
  ~Sqlite();
  Sqlite(const Sqlite&) = delete;
  Sqlite& operator=(const Sqlite&) = delete;

  // One or more statements without parameters, whose rows are passed over.
  absl::Status Execute(const char* sql);

  // One statement with its parameters ?1, ?2, ...: integers, double or anything that converts to
  // absl::string_view (bound as text). Blob() marks bytes.
  template <typename... Args>
  absl::StatusOr<SqliteRows> Query(absl::string_view sql, const Args&... args) {
    auto rows = Prepare(sql);
    if (!rows.ok()) return rows.status();
    int index = 0;
    (Bind(rows->statement_.get(), ++index, args), ...);
    return rows;
  }

  // The same for a statement without rows.
  template <typename... Args>
  absl::Status Run(absl::string_view sql, const Args&... args) {
    auto rows = Query(sql, args...);
    if (!rows.ok()) return rows.status();
    return rows->Next().status();
  }

  // Rows changed by the last Run.
  int Changes() const { return sqlite3_changes(handle_); }

  sqlite3* handle() const { return handle_; }
  const std::string& path() const { return path_; }

  struct Blob {
    absl::string_view bytes;
  };

 private:
  friend class SqliteRows;
  Sqlite(std::string path, sqlite3* handle) : path_(std::move(path)), handle_(handle) {}

  absl::Status Error(int code) const;
  absl::StatusOr<SqliteRows> Prepare(absl::string_view sql);
  static void Bind(sqlite3_stmt* statement, int index, int64_t value) {
    sqlite3_bind_int64(statement, index, value);
  }
  static void Bind(sqlite3_stmt* statement, int index, uint64_t value) {
    sqlite3_bind_int64(statement, index, static_cast<int64_t>(value));
  }
  static void Bind(sqlite3_stmt* statement, int index, int value) {
    sqlite3_bind_int64(statement, index, value);
  }
  static void Bind(sqlite3_stmt* statement, int index, double value) {
    sqlite3_bind_double(statement, index, value);
  }
  // Copied: the text need not outlive the call.
  static void Bind(sqlite3_stmt* statement, int index, absl::string_view text) {
    sqlite3_bind_text64(statement, index, text.data() ? text.data() : "", text.size(),
                        SQLITE_TRANSIENT, SQLITE_UTF8);
  }
  static void Bind(sqlite3_stmt* statement, int index, const Blob& blob) {
    sqlite3_bind_blob64(statement, index, blob.bytes.data() ? blob.bytes.data() : "",
                        blob.bytes.size(), SQLITE_TRANSIENT);
  }

  const std::string path_;
  sqlite3* const handle_;
};

}  // namespace starling
