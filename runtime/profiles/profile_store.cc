#include "runtime/profiles/profile_store.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "nlohmann/json.hpp"

namespace starling {
namespace {

constexpr char kUser[] = "user:";
constexpr char kComponent[] = "component:";
constexpr size_t kMostName = 256;

constexpr char kSchema[] = R"(
PRAGMA journal_mode = WAL;
PRAGMA foreign_keys = ON;
CREATE TABLE IF NOT EXISTS consent (user TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS slot (
  subject TEXT NOT NULL, slot INTEGER NOT NULL, seen REAL NOT NULL, active REAL NOT NULL,
  touched_s INTEGER NOT NULL, PRIMARY KEY (subject, slot)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS visit (
  subject TEXT NOT NULL, component TEXT NOT NULL, connected_s INTEGER NOT NULL,
  disconnected_s INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS visit_subject ON visit (subject, connected_s);
CREATE TABLE IF NOT EXISTS calendar (
  subject TEXT NOT NULL, begin_s INTEGER NOT NULL, end_s INTEGER NOT NULL,
  whole_day INTEGER NOT NULL, busy INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS calendar_subject ON calendar (subject, begin_s);
)";

absl::Status CheckSubject(absl::string_view subject) {
  const bool known = absl::StartsWith(subject, kUser) || absl::StartsWith(subject, kComponent);
  if (!known || subject.size() > kMostName || subject.back() == ':') {
    return absl::InvalidArgumentError(
        absl::StrCat("'", subject, "' is no subject of a profile: user:NAME or component:NAME"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ProfileStore>> ProfileStore::Open(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<Sqlite> db,
                   Sqlite::Open(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE));
  RETURN_IF_ERROR(db->Execute(kSchema));
  return std::unique_ptr<ProfileStore>(new ProfileStore(std::move(db)));
}

absl::Status ProfileStore::SetConsent(absl::string_view user, bool consent) {
  const std::string subject = absl::StrCat(kUser, user);
  RETURN_IF_ERROR(CheckSubject(subject));
  if (consent) return db_->Run("INSERT OR IGNORE INTO consent VALUES (?1)", user);
  RETURN_IF_ERROR(db_->Run("DELETE FROM consent WHERE user = ?1", user));
  return Delete(subject);
}

absl::StatusOr<bool> ProfileStore::Consents(absl::string_view user) {
  ASSIGN_OR_RETURN(SqliteRows rows, db_->Query("SELECT 1 FROM consent WHERE user = ?1", user));
  return rows.Next();
}

absl::Status ProfileStore::MayKeep(absl::string_view subject) {
  RETURN_IF_ERROR(CheckSubject(subject));
  if (!absl::StartsWith(subject, kUser)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const bool consents, Consents(subject.substr(sizeof(kUser) - 1)));
  if (consents) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(subject, " has not consented to a profile: nothing is kept"));
}

absl::Status ProfileStore::Learn(absl::string_view subject, int64_t local_s, bool active) {
  RETURN_IF_ERROR(MayKeep(subject));
  ASSIGN_OR_RETURN(const bool exceptional, IsExceptionalDay(subject, local_s));
  if (exceptional) return absl::OkStatus();
  const int slot = predictor::WeekProfile::SlotOf(local_s);
  return db_->Run(
      "INSERT INTO slot VALUES (?1, ?2, 1, ?3, ?4) ON CONFLICT (subject, slot) DO UPDATE SET "
      "seen = seen * ?5 + 1, active = active * ?5 + ?3, touched_s = ?4",
      subject, slot, active ? 1.0 : 0.0, local_s, predictor::WeekProfile::kKeep);
}

absl::StatusOr<predictor::WeekProfile> ProfileStore::Load(absl::string_view subject) {
  RETURN_IF_ERROR(CheckSubject(subject));
  predictor::WeekProfile profile;
  ASSIGN_OR_RETURN(SqliteRows rows,
                   db_->Query("SELECT slot, seen, active FROM slot WHERE subject = ?1", subject));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, rows.Next());
    if (!more) return profile;
    profile.Restore(static_cast<int>(rows.Int(0)), rows.Real(1), rows.Real(2));
  }
}

absl::Status ProfileStore::Connected(absl::string_view subject, absl::string_view component,
                                     int64_t local_s) {
  RETURN_IF_ERROR(MayKeep(subject));
  return db_->Run("INSERT INTO visit (subject, component, connected_s) VALUES (?1, ?2, ?3)",
                  subject, component, local_s);
}

absl::Status ProfileStore::Disconnected(absl::string_view subject, absl::string_view component,
                                        int64_t local_s) {
  RETURN_IF_ERROR(MayKeep(subject));
  return db_->Run(
      "UPDATE visit SET disconnected_s = ?3 WHERE rowid = (SELECT rowid FROM visit WHERE subject = "
      "?1 AND component = ?2 AND disconnected_s = 0 AND connected_s <= ?3 ORDER BY connected_s "
      "DESC LIMIT 1)",
      subject, component, local_s);
}

absl::StatusOr<std::vector<ProfileVisit>> ProfileStore::Visits(absl::string_view subject) {
  RETURN_IF_ERROR(CheckSubject(subject));
  std::vector<ProfileVisit> visits;
  ASSIGN_OR_RETURN(SqliteRows rows,
                   db_->Query("SELECT connected_s, disconnected_s, component FROM visit WHERE "
                              "subject = ?1 ORDER BY connected_s",
                              subject));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, rows.Next());
    if (!more) return visits;
    visits.push_back({rows.Int(0), rows.Int(1), rows.Bytes(2)});
  }
}

absl::Status ProfileStore::SetCalendar(absl::string_view subject, absl::string_view icalendar,
                                       int64_t utc_offset_s) {
  RETURN_IF_ERROR(MayKeep(subject));
  ASSIGN_OR_RETURN(const std::vector<CalendarEntry> entries,
                   ParseCalendar(icalendar, utc_offset_s));
  RETURN_IF_ERROR(db_->Execute("BEGIN IMMEDIATE"));
  absl::Status done = db_->Run("DELETE FROM calendar WHERE subject = ?1", subject);
  for (const CalendarEntry& entry : entries) {
    if (!done.ok()) break;
    // What the events are called is nobody's business here.
    done = db_->Run("INSERT INTO calendar VALUES (?1, ?2, ?3, ?4, ?5)", subject, entry.begin_s,
                    entry.end_s, entry.whole_day ? 1 : 0, entry.busy ? 1 : 0);
  }
  if (!done.ok()) {
    db_->Execute("ROLLBACK").IgnoreError();
    return done;
  }
  return db_->Execute("COMMIT");
}

absl::StatusOr<bool> ProfileStore::IsExceptionalDay(absl::string_view subject, int64_t local_s) {
  ASSIGN_OR_RETURN(SqliteRows rows,
                   db_->Query("SELECT 1 FROM calendar WHERE subject = ?1 AND whole_day = 1 AND "
                              "begin_s <= ?2 AND end_s > ?2 LIMIT 1",
                              subject, local_s));
  return rows.Next();
}

absl::StatusOr<std::string> ProfileStore::Export(absl::string_view subject) {
  nlohmann::json out;
  out["schema"] = 1;
  out["subject"] = std::string(subject);
  ASSIGN_OR_RETURN(const predictor::WeekProfile profile, Load(subject));
  for (int slot = 0; slot < predictor::WeekProfile::kSlots; ++slot) {
    if (profile.seen(slot) <= 0) continue;
    out["hours"].push_back({{"weekday", slot / 24},
                            {"hour", slot % 24},
                            {"seen", profile.seen(slot)},
                            {"active", profile.active(slot)}});
  }
  ASSIGN_OR_RETURN(const std::vector<ProfileVisit> visits, Visits(subject));
  for (const ProfileVisit& visit : visits) {
    out["visits"].push_back({{"component", visit.component},
                             {"connected_local_s", visit.connected_s},
                             {"disconnected_local_s", visit.disconnected_s}});
  }
  ASSIGN_OR_RETURN(SqliteRows rows, db_->Query("SELECT begin_s, end_s, whole_day, busy FROM "
                                               "calendar WHERE subject = ?1 ORDER BY begin_s",
                                               subject));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, rows.Next());
    if (!more) break;
    out["calendar"].push_back({{"begin_local_s", rows.Int(0)},
                               {"end_local_s", rows.Int(1)},
                               {"whole_day", rows.Int(2) != 0},
                               {"busy", rows.Int(3) != 0}});
  }
  return out.dump(1) + "\n";
}

absl::Status ProfileStore::Delete(absl::string_view subject) {
  RETURN_IF_ERROR(CheckSubject(subject));
  for (const char* sql :
       {"DELETE FROM slot WHERE subject = ?1", "DELETE FROM visit WHERE subject = ?1",
        "DELETE FROM calendar WHERE subject = ?1"}) {
    RETURN_IF_ERROR(db_->Run(sql, subject));
  }
  return absl::OkStatus();
}

absl::Status ProfileStore::AgeOut(int64_t before_local_s) {
  for (const char* sql : {"DELETE FROM slot WHERE touched_s < ?1",
                          "DELETE FROM visit WHERE max(connected_s, disconnected_s) < ?1",
                          "DELETE FROM calendar WHERE end_s < ?1"}) {
    RETURN_IF_ERROR(db_->Run(sql, before_local_s));
  }
  return absl::OkStatus();
}

}  // namespace starling
