#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"
#include "runtime/journal.h"
#include "runtime/sqlite.h"

// Private to the runtime room: the journal's file, as opposed to the rules of what is in it.

namespace starling {

// An open, checked journal file.
struct JournalFile {
  UniqueFd folder;  // holds the lock that keeps a second agent out; let go last
  std::unique_ptr<Sqlite> db;
};

// As Journal::Open.
absl::StatusOr<JournalFile> OpenJournalFile(const std::string& path);

// Rows as they are stored. Each reader is for rows of exactly "SELECT <its columns> FROM ...", and
// answers kDataLoss for a row that no journal writes.
inline constexpr absl::string_view kComponentColumns =
    "name, spec, epoch, state, host, boot_id, exit_status, since, migration_id";
inline constexpr absl::string_view kMigrationColumns =
    "id, role, component, peer, peer_address, state, epoch, spec, boot_id, reason, updated, "
    "settled";
absl::StatusOr<ComponentRow> ReadComponentRow(const SqliteRows& rows, const std::string& path);
absl::StatusOr<MigrationRow> ReadMigrationRow(const SqliteRows& rows, const std::string& path);

// Whether a migration of this role can be in this state, and whether that is final.
bool StateFitsRole(MigrationRole role, MigrationState state);
bool IsFinal(MigrationState state);

}  // namespace starling
