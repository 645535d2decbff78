#include "runtime/profiles/profile_store.h"

#include <sys/stat.h>

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

constexpr char kSettings[] = R"(
PRAGMA secure_delete = ON;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
)";

// `part` is what the newest hour added to `active`: hours are told in parts.
constexpr int kVersion = 1;
constexpr char kSchema[] = R"(
CREATE TABLE consent (user TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE slot (
  subject TEXT NOT NULL, component TEXT NOT NULL, slot INTEGER NOT NULL, seen REAL NOT NULL,
  active REAL NOT NULL, part REAL NOT NULL, touched_s INTEGER NOT NULL,
  PRIMARY KEY (subject, component, slot)) WITHOUT ROWID;
CREATE TABLE visit (
  subject TEXT NOT NULL, component TEXT NOT NULL, connected_s INTEGER NOT NULL,
  disconnected_s INTEGER NOT NULL DEFAULT 0);
CREATE INDEX visit_subject ON visit (subject, connected_s);
CREATE TABLE calendar (
  subject TEXT NOT NULL, begin_s INTEGER NOT NULL, end_s INTEGER NOT NULL,
  whole_day INTEGER NOT NULL, busy INTEGER NOT NULL);
CREATE INDEX calendar_subject ON calendar (subject, begin_s);
PRAGMA user_version = 1;
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
  // Whose times these are is nobody's business but the administrator's.
  if (::chmod(path.c_str(), 0600) != 0) return ErrnoStatus(absl::StrCat("chmod ", path));
  RETURN_IF_ERROR(db->Execute(kSettings));
  int64_t version = 0, tables = 0;
  {
    ASSIGN_OR_RETURN(SqliteRows rows, db->Query("PRAGMA user_version"));
    RETURN_IF_ERROR(rows.Next().status());
    version = rows.Int(0);
    ASSIGN_OR_RETURN(rows, db->Query("SELECT count(*) FROM sqlite_schema"));
    RETURN_IF_ERROR(rows.Next().status());
    tables = rows.Int(0);
  }
  if (tables == 0) {
    RETURN_IF_ERROR(db->Execute(absl::StrCat("BEGIN IMMEDIATE;", kSchema, "COMMIT;").c_str()));
  } else if (version != kVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": profiles of version ", version, "; this is version ", kVersion));
  }
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

absl::Status ProfileStore::Learn(absl::string_view subject, int64_t local_s, bool active,
                                 absl::string_view component) {
  RETURN_IF_ERROR(MayKeep(subject));
  ASSIGN_OR_RETURN(const bool exceptional, IsExceptionalDay(subject, local_s));
  if (exceptional) return absl::OkStatus();
  const int slot = predictor::WeekProfile::SlotOf(local_s);
  return db_->Run(
      "INSERT INTO slot VALUES (?1, ?2, ?3, 1, ?4, ?4, ?5) "
      "ON CONFLICT (subject, component, slot) DO UPDATE SET "
      // Another part of the same hour, or the same hour of another week.
      "seen = CASE WHEN touched_s / 3600 = ?5 / 3600 THEN seen ELSE seen * ?6 + 1 END, "
      "active = CASE WHEN touched_s / 3600 = ?5 / 3600 THEN active + max(part, ?4) - part "
      "         ELSE active * ?6 + ?4 END, "
      "part = CASE WHEN touched_s / 3600 = ?5 / 3600 THEN max(part, ?4) ELSE ?4 END, "
      "touched_s = max(touched_s, ?5)",
      subject, component, slot, active ? 1.0 : 0.0, local_s, predictor::WeekProfile::kKeep);
}

absl::StatusOr<predictor::WeekProfile> ProfileStore::Load(absl::string_view subject,
                                                          absl::string_view component) {
  RETURN_IF_ERROR(CheckSubject(subject));
  predictor::WeekProfile profile;
  ASSIGN_OR_RETURN(
      SqliteRows rows,
      db_->Query("SELECT slot, seen, active FROM slot WHERE subject = ?1 AND component = ?2",
                 subject, component));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, rows.Next());
    if (!more) return profile;
    profile.Restore(static_cast<int>(rows.Int(0)), rows.Real(1), rows.Real(2));
  }
}

absl::StatusOr<std::vector<std::string>> ProfileStore::Texts(absl::string_view sql,
                                                             absl::string_view parameter) {
  std::vector<std::string> texts;
  ASSIGN_OR_RETURN(SqliteRows rows, db_->Query(sql, parameter));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, rows.Next());
    if (!more) return texts;
    texts.push_back(rows.Bytes(0));
  }
}

absl::StatusOr<std::vector<std::string>> ProfileStore::Users() {
  return Texts("SELECT user FROM consent WHERE ?1 = '' ORDER BY 1", "");
}

absl::StatusOr<std::vector<std::string>> ProfileStore::ComponentsOf(absl::string_view subject) {
  return Texts(
      "SELECT DISTINCT component FROM slot WHERE subject = ?1 AND component != '' ORDER BY 1",
      subject);
}

absl::StatusOr<std::vector<ProfileKept>> ProfileStore::List() {
  ASSIGN_OR_RETURN(
      const std::vector<std::string> subjects,
      Texts("SELECT 'user:' || user FROM consent WHERE ?1 = '' UNION SELECT subject FROM slot "
            "UNION SELECT subject FROM visit UNION SELECT subject FROM calendar ORDER BY 1",
            ""));
  std::vector<ProfileKept> all;
  for (const std::string& subject : subjects) {
    ASSIGN_OR_RETURN(all.emplace_back(), Describe(subject));
  }
  return all;
}

absl::StatusOr<ProfileKept> ProfileStore::Describe(absl::string_view subject) {
  RETURN_IF_ERROR(CheckSubject(subject));
  ProfileKept kept;
  kept.subject = std::string(subject);
  if (absl::StartsWith(subject, kUser)) {
    ASSIGN_OR_RETURN(kept.consent, Consents(subject.substr(sizeof(kUser) - 1)));
  }
  const std::pair<const char*, int64_t*> counts[] = {
      {"SELECT count(*) FROM slot WHERE subject = ?1 AND component = ''", &kept.hours},
      {"SELECT count(*) FROM visit WHERE subject = ?1", &kept.visits},
      {"SELECT count(*) FROM calendar WHERE subject = ?1", &kept.calendar_entries},
      {"SELECT max(0, (SELECT coalesce(max(touched_s), 0) FROM slot WHERE subject = ?1), "
       "(SELECT coalesce(max(max(connected_s, disconnected_s)), 0) FROM visit WHERE subject = "
       "?1))",
       &kept.last_local_s}};
  for (const auto& [sql, count] : counts) {
    ASSIGN_OR_RETURN(SqliteRows rows, db_->Query(sql, subject));
    RETURN_IF_ERROR(rows.Next().status());
    *count = rows.Int(0);
  }
  return kept;
}

absl::Status ProfileStore::Together(const std::function<absl::Status()>& writes) {
  RETURN_IF_ERROR(db_->Execute("BEGIN IMMEDIATE"));
  const absl::Status done = writes();
  if (done.ok()) return db_->Execute("COMMIT");
  db_->Execute("ROLLBACK").IgnoreError();
  return done;
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
  return Together([&]() -> absl::Status {
    RETURN_IF_ERROR(db_->Run("DELETE FROM calendar WHERE subject = ?1", subject));
    for (const CalendarEntry& entry : entries) {
      // What the events are called is nobody's business here.
      RETURN_IF_ERROR(db_->Run("INSERT INTO calendar VALUES (?1, ?2, ?3, ?4, ?5)", subject,
                               entry.begin_s, entry.end_s, entry.whole_day ? 1 : 0,
                               entry.busy ? 1 : 0));
    }
    return absl::OkStatus();
  });
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
  const auto hours = [](const predictor::WeekProfile& profile) {
    nlohmann::json all = nlohmann::json::array();
    for (int slot = 0; slot < predictor::WeekProfile::kSlots; ++slot) {
      if (profile.seen(slot) <= 0) continue;
      all.push_back({{"weekday", slot / 24},
                     {"hour", slot % 24},
                     {"seen", profile.seen(slot)},
                     {"active", profile.active(slot)}});
    }
    return all;
  };
  ASSIGN_OR_RETURN(const ProfileKept kept, Describe(subject));
  if (absl::StartsWith(subject, kUser)) out["consent"] = kept.consent;
  ASSIGN_OR_RETURN(const predictor::WeekProfile profile, Load(subject));
  out["hours"] = hours(profile);
  out["components"] = nlohmann::json::object();
  ASSIGN_OR_RETURN(const std::vector<std::string> components, ComponentsOf(subject));
  for (const std::string& component : components) {
    ASSIGN_OR_RETURN(const predictor::WeekProfile of_component, Load(subject, component));
    out["components"][component] = hours(of_component);
  }
  out["visits"] = out["calendar"] = nlohmann::json::array();
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
  return out.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

absl::Status ProfileStore::Delete(absl::string_view subject) {
  RETURN_IF_ERROR(CheckSubject(subject));
  for (const char* sql :
       {"DELETE FROM slot WHERE subject = ?1", "DELETE FROM visit WHERE subject = ?1",
        "DELETE FROM calendar WHERE subject = ?1"}) {
    RETURN_IF_ERROR(db_->Run(sql, subject));
  }
  // Nor in what was written down before.
  return db_->Execute("PRAGMA wal_checkpoint(TRUNCATE)");
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
