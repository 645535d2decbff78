#include "runtime/journal.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/journal_file.h"
#include "runtime/names.h"

namespace starling {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

absl::string_view Cut(absl::string_view text) { return text.substr(0, Journal::kMaxText); }

// A copy in this state has instructions to run, now or after a thaw.
bool IsLive(ComponentState state) {
  return state == v1::RUNNING || state == v1::MIGRATING || state == v1::HELD ||
         state == v1::IN_DOUBT;
}

// Whether Advance may go from one to the other.
bool Follows(MigrationRole role, MigrationState from, MigrationState to) {
  using S = MigrationState;
  if (role == MigrationRole::kTarget) return from == S::kPending && to == S::kPrepared;
  return (from == S::kReserving && to == S::kPreCopy) ||
         (from == S::kPreCopy && to == S::kFrozen) || (from == S::kFrozen && to == S::kCaptured) ||
         (from == S::kCaptured && to == S::kPrepared) || (from == S::kPrepared && to == S::kAsked);
}

absl::Status UnknownMigration(absl::string_view id) {
  return absl::NotFoundError(absl::StrCat("no migration ", id, " in the journal"));
}

absl::Status IsIn(const MigrationRow& row) {
  return absl::FailedPreconditionError(absl::StrCat("migration ", row.id, " of '", row.component,
                                                    "' is ", Name(row.state), " (", Name(row.role),
                                                    ")"));
}

VerdictRow VerdictOf(const MigrationRow& row) {
  VerdictRow verdict;
  verdict.state = row.state;
  verdict.component = row.component;
  verdict.epoch = row.state == MigrationState::kCommitted ? row.epoch + 1 : row.epoch;
  verdict.reason = row.reason;
  return verdict;
}

const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& value) {
  return value.status();
}

}  // namespace

absl::StatusOr<std::string> ReadBootId() {
  ASSIGN_OR_RETURN(const std::string text, ReadFile("/proc/sys/kernel/random/boot_id"));
  return std::string(absl::StripAsciiWhitespace(text));
}

class Journal::Impl {
 public:
  Impl(JournalFile file, std::string boot_id)
      : file_(std::move(file)), boot_id_(std::move(boot_id)) {}

  const std::string& boot_id() const { return boot_id_; }
  const std::string& path() const { return db().path(); }

  // Runs `body` in one transaction, which is committed when it answers OK and undone otherwise.
  // Without `sync` the commit waits for no disk: the next one that does takes it along.
  template <typename Body>
  auto Transact(Body body, bool sync = true) -> decltype(body()) {
    std::lock_guard<std::mutex> lock(mutex_);
    // SQLite changes this between transactions only.
    if (absl::Status set =
            db().Execute(sync ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL");
        !set.ok()) {
      return set;
    }
    if (absl::Status begun = db().Execute("BEGIN IMMEDIATE"); !begun.ok()) return begun;
    auto result = body();
    absl::Status status = StatusOf(result);
    if (status.ok()) status = db().Execute("COMMIT");
    if (status.ok()) return result;
    // SQLite may have rolled back already (a full disk): that this one fails then says nothing.
    db().Execute("ROLLBACK").IgnoreError();
    return status;
  }

  template <typename Body>
  auto Locked(Body body) -> decltype(body()) {
    std::lock_guard<std::mutex> lock(mutex_);
    return body();
  }

  // --- What follows is called with the mutex held. ---

  Sqlite& db() const { return *file_.db; }

  absl::StatusOr<std::vector<ComponentRow>> Components(absl::string_view where,
                                                       absl::string_view argument) {
    ASSIGN_OR_RETURN(SqliteRows rows, db().Query(absl::StrCat("SELECT ", kComponentColumns,
                                                              " FROM components ", where),
                                                 argument));
    std::vector<ComponentRow> all;
    while (true) {
      ASSIGN_OR_RETURN(const bool more, rows.Next());
      if (!more) return all;
      ASSIGN_OR_RETURN(ComponentRow row, ReadComponentRow(rows, path()));
      all.push_back(std::move(row));
    }
  }

  absl::StatusOr<std::optional<ComponentRow>> FindComponent(absl::string_view name) {
    ASSIGN_OR_RETURN(auto all, Components("WHERE name = ?1", name));
    if (all.empty()) return std::nullopt;
    return std::move(all.front());
  }

  absl::StatusOr<std::vector<MigrationRow>> Migrations(absl::string_view where,
                                                       absl::string_view argument) {
    ASSIGN_OR_RETURN(SqliteRows rows,
                     db().Query(absl::StrCat("SELECT ", kMigrationColumns, " FROM migrations ",
                                             where, " ORDER BY number"),
                                argument));
    std::vector<MigrationRow> all;
    while (true) {
      ASSIGN_OR_RETURN(const bool more, rows.Next());
      if (!more) return all;
      ASSIGN_OR_RETURN(MigrationRow row, ReadMigrationRow(rows, path()));
      all.push_back(std::move(row));
    }
  }

  absl::StatusOr<std::optional<MigrationRow>> FindMigration(absl::string_view id) {
    ASSIGN_OR_RETURN(auto all, Migrations("WHERE id = ?1", id));
    if (all.empty()) return std::nullopt;
    return std::move(all.front());
  }

  absl::StatusOr<std::optional<MigrationRow>> UnsettledOf(absl::string_view component) {
    ASSIGN_OR_RETURN(auto all, Migrations("WHERE settled = 0 AND component = ?1", component));
    if (all.empty()) return std::nullopt;
    return std::move(all.front());
  }

  absl::Status WriteComponent(const ComponentRow& row) {
    return db().Run(absl::StrCat("INSERT OR REPLACE INTO components (", kComponentColumns,
                                 ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"),
                    row.spec.name(), Sqlite::Blob{row.spec.SerializeAsString()}, row.epoch,
                    v1::ComponentState_Name(row.state), row.where, boot_id_, row.exit_status,
                    row.since, row.migration_id);
  }

  absl::Status InsertMigration(const MigrationRow& row) {
    return db().Run(absl::StrCat("INSERT INTO migrations (", kMigrationColumns,
                                 ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"),
                    row.id, Name(row.role), row.component, row.peer, row.peer_address,
                    Name(row.state), row.epoch, Sqlite::Blob{row.spec.SerializeAsString()},
                    boot_id_, Cut(row.reason), Now(), row.settled ? 1 : 0);
  }

  // The compare is in the statement itself: a row in another state than `row` says is left alone.
  absl::Status SetState(MigrationRow& row, MigrationState to, absl::string_view reason) {
    RETURN_IF_ERROR(
        db().Run("UPDATE migrations SET state = ?1, reason = ?2, boot_id = ?3, updated = ?4 "
                 "WHERE id = ?5 AND state = ?6",
                 Name(to), Cut(reason), boot_id_, Now(), row.id, Name(row.state)));
    if (db().Changes() != 1) return IsIn(row);
    row.state = to;
    row.reason = std::string(Cut(reason));
    return absl::OkStatus();
  }

  // The target's row of `id`; nullopt for an unknown one; an error for one that leaves from here.
  absl::StatusOr<std::optional<MigrationRow>> FindTarget(absl::string_view id) {
    RETURN_IF_ERROR(CheckMigrationId(id));
    ASSIGN_OR_RETURN(auto row, FindMigration(id));
    if (row && row->role != MigrationRole::kTarget) {
      return absl::FailedPreconditionError(absl::StrCat("this host is the source of migration ", id,
                                                        ", its verdict is the target's"));
    }
    return row;
  }

  absl::StatusOr<VerdictRow> AbortRow(MigrationRow row, absl::string_view reason) {
    if (!IsFinal(row.state)) {
      RETURN_IF_ERROR(SetState(row, MigrationState::kAborted, reason));
      RETURN_IF_ERROR(db().Run(
          "DELETE FROM components WHERE name = ?1 AND state = 'ARRIVING' AND migration_id = ?2",
          row.component, row.id));
    }
    return VerdictOf(row);
  }

  absl::StatusOr<VerdictRow> AbortUnknown(absl::string_view id, absl::string_view reason) {
    MigrationRow row;
    row.id = std::string(id);
    row.role = MigrationRole::kTarget;
    row.state = MigrationState::kAborted;
    row.reason = std::string(Cut(reason));
    row.settled = true;
    RETURN_IF_ERROR(InsertMigration(row));
    return VerdictOf(row);
  }

  std::mutex mutex_;
  std::condition_variable appended_;
  uint64_t last_event_ = 0;  // guarded by mutex_

 private:
  const JournalFile file_;
  const std::string boot_id_;
};

Journal::Journal(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Journal::~Journal() = default;

absl::StatusOr<std::unique_ptr<Journal>> Journal::Open(const std::string& path,
                                                       const std::string& boot_id) {
  ASSIGN_OR_RETURN(JournalFile file, OpenJournalFile(path));
  uint64_t last_event = 0;
  {
    ASSIGN_OR_RETURN(SqliteRows rows,
                     file.db->Query("SELECT coalesce(max(number), 0) FROM events"));
    ASSIGN_OR_RETURN(const bool any, rows.Next());
    if (any) last_event = rows.Int(0);
  }
  auto impl = std::make_unique<Impl>(std::move(file), boot_id);
  impl->last_event_ = last_event;
  return std::unique_ptr<Journal>(new Journal(std::move(impl)));
}

const std::string& Journal::boot_id() const { return impl_->boot_id(); }
const std::string& Journal::path() const { return impl_->path(); }

// --- Components ---

absl::Status Journal::PutComponent(const ComponentRow& row) {
  const std::string& name = row.spec.name();
  RETURN_IF_ERROR(CheckComponentName(name));
  if (row.state == v1::COMPONENT_STATE_UNSPECIFIED || !v1::ComponentState_IsValid(row.state)) {
    return absl::InvalidArgumentError(absl::StrCat("component '", name, "' in no state"));
  }
  if (row.epoch > INT64_MAX / 2) {
    return absl::InvalidArgumentError(absl::StrCat("component '", name, "': epoch ", row.epoch));
  }
  return impl_->Transact([&]() -> absl::Status {
    ASSIGN_OR_RETURN(const auto old, impl_->FindComponent(name));
    if (old && old->epoch > row.epoch && old->state != v1::EXITED && old->state != v1::LOST) {
      return absl::FailedPreconditionError(
          absl::StrCat("component '", name, "' is ", v1::ComponentState_Name(old->state),
                       " with epoch ", old->epoch, old->where.empty() ? "" : " at ", old->where,
                       ": a copy of epoch ", row.epoch, " is older"));
    }
    if (IsLive(row.state)) {
      ASSIGN_OR_RETURN(const auto migration, impl_->UnsettledOf(name));
      if (migration && migration->role == MigrationRole::kTarget &&
          migration->state != MigrationState::kCommitted) {
        return absl::FailedPreconditionError(absl::StrCat("component '", name,
                                                          "' is arriving from ", migration->peer,
                                                          " (migration ", migration->id, ")"));
      }
    }
    return impl_->WriteComponent(row);
  });
}

absl::StatusOr<ComponentRow> Journal::GetComponent(absl::string_view name) {
  return impl_->Locked([&]() -> absl::StatusOr<ComponentRow> {
    ASSIGN_OR_RETURN(auto row, impl_->FindComponent(name));
    if (!row) return absl::NotFoundError(absl::StrCat("no component '", name, "' on this host"));
    return *std::move(row);
  });
}

absl::StatusOr<std::vector<ComponentRow>> Journal::ListComponents() {
  return impl_->Locked([&] { return impl_->Components("WHERE ?1 = '' ORDER BY name", ""); });
}

absl::Status Journal::ForgetComponent(absl::string_view name) {
  return impl_->Transact([&]() -> absl::Status {
    ASSIGN_OR_RETURN(const auto row, impl_->FindComponent(name));
    if (!row) return absl::NotFoundError(absl::StrCat("no component '", name, "' on this host"));
    ASSIGN_OR_RETURN(const auto migration, impl_->UnsettledOf(name));
    if (migration) return IsIn(*migration);
    return impl_->db().Run("DELETE FROM components WHERE name = ?1", name);
  });
}

// --- Migrations ---

absl::Status Journal::Begin(const MigrationRow& row) {
  RETURN_IF_ERROR(CheckMigrationId(row.id));
  RETURN_IF_ERROR(CheckComponentName(row.component));
  const bool source = row.role == MigrationRole::kSource;
  const MigrationState first = source ? MigrationState::kReserving : MigrationState::kPending;
  if (row.state != first || row.settled || row.epoch > INT64_MAX / 2) {
    return absl::InvalidArgumentError(absl::StrCat("migration ", row.id, " cannot begin as ",
                                                   Name(row.state), " (", Name(row.role), ")"));
  }
  if (!source && row.spec.name() != row.component) {
    return absl::InvalidArgumentError(absl::StrCat("migration ", row.id, " of '", row.component,
                                                   "' brings the spec of '", row.spec.name(), "'"));
  }
  return impl_->Transact([&]() -> absl::Status {
    ASSIGN_OR_RETURN(const auto same, impl_->FindMigration(row.id));
    if (same) return absl::AlreadyExistsError(IsIn(*same).message());
    ASSIGN_OR_RETURN(const auto other, impl_->UnsettledOf(row.component));
    if (other) {
      return absl::FailedPreconditionError(absl::StrCat(
          "component '", row.component, "' is migrating already: ", IsIn(*other).message()));
    }
    ASSIGN_OR_RETURN(const auto component, impl_->FindComponent(row.component));
    const std::string here = component
                                 ? absl::StrCat("component '", row.component, "' is ",
                                                v1::ComponentState_Name(component->state),
                                                " with epoch ", component->epoch, " here")
                                 : absl::StrCat("component '", row.component, "' is not here");
    if (source) {
      const bool runs =
          component && (component->state == v1::RUNNING ||
                        (component->state == v1::MIGRATING && component->migration_id == row.id));
      if (!runs || component->epoch != row.epoch) return absl::FailedPreconditionError(here);
    } else if (component && (IsLive(component->state) ||
                             (component->state == v1::LEFT && component->epoch > row.epoch))) {
      return absl::FailedPreconditionError(
          absl::StrCat(here, ": a copy of epoch ", row.epoch, " may not arrive"));
    }
    return impl_->InsertMigration(row);
  });
}

absl::Status Journal::Advance(absl::string_view id, MigrationState from, MigrationState to) {
  // Between frozen and asked a source's states mean the same to whoever takes the migration up, and
  // the component is held meanwhile: they are not worth the wait for the disk. What a killed agent
  // wrote is there all the same.
  const bool sync = from != MigrationState::kFrozen && from != MigrationState::kCaptured;
  return impl_->Transact(
      [&]() -> absl::Status {
        ASSIGN_OR_RETURN(auto row, impl_->FindMigration(id));
        if (!row) return UnknownMigration(id);
        if (row->state != from || !Follows(row->role, from, to)) {
          return Annotate(IsIn(*row),
                          absl::StrCat("cannot go from ", Name(from), " to ", Name(to)));
        }
        return impl_->SetState(*row, to, row->reason);
      },
      sync);
}

absl::StatusOr<MigrationRow> Journal::GetMigration(absl::string_view id) {
  return impl_->Locked([&]() -> absl::StatusOr<MigrationRow> {
    ASSIGN_OR_RETURN(auto row, impl_->FindMigration(id));
    if (!row) return UnknownMigration(id);
    return *std::move(row);
  });
}

absl::StatusOr<std::vector<MigrationRow>> Journal::ListMigrations(bool unsettled_only) {
  return impl_->Locked([&] {
    return impl_->Migrations(unsettled_only ? "WHERE settled = 0 AND ?1 = ''" : "WHERE ?1 = ''",
                             "");
  });
}

absl::Status Journal::Settle(absl::string_view id) {
  return impl_->Transact([&]() -> absl::Status {
    ASSIGN_OR_RETURN(const auto row, impl_->FindMigration(id));
    if (!row) return UnknownMigration(id);
    if (!IsFinal(row->state)) return Annotate(IsIn(*row), "cannot be settled");
    return impl_->db().Run("UPDATE migrations SET settled = 1 WHERE id = ?1", id);
  });
}

absl::StatusOr<VerdictRow> Journal::Prepare(absl::string_view id) {
  return impl_->Transact([&]() -> absl::StatusOr<VerdictRow> {
    ASSIGN_OR_RETURN(auto row, impl_->FindTarget(id));
    if (!row) return UnknownMigration(id);
    if (row->state == MigrationState::kPending) {
      RETURN_IF_ERROR(impl_->SetState(*row, MigrationState::kPrepared, row->reason));
    }
    return VerdictOf(*row);
  });
}

absl::StatusOr<VerdictRow> Journal::Commit(absl::string_view id) {
  return impl_->Transact([&]() -> absl::StatusOr<VerdictRow> {
    ASSIGN_OR_RETURN(auto row, impl_->FindTarget(id));
    if (!row) return UnknownMigration(id);
    if (row->state != MigrationState::kPrepared) return VerdictOf(*row);
    if (row->boot_id != impl_->boot_id()) {
      return impl_->AbortRow(*std::move(row), "the target was rebooted after it had prepared");
    }
    RETURN_IF_ERROR(impl_->SetState(*row, MigrationState::kCommitted, ""));
    ComponentRow component;
    component.spec = row->spec;
    component.epoch = row->epoch + 1;
    component.state = v1::RUNNING;
    component.since = Now();
    RETURN_IF_ERROR(impl_->WriteComponent(component));
    return VerdictOf(*row);
  });
}

absl::StatusOr<VerdictRow> Journal::Abort(absl::string_view id, absl::string_view reason) {
  return impl_->Transact([&]() -> absl::StatusOr<VerdictRow> {
    ASSIGN_OR_RETURN(auto row, impl_->FindTarget(id));
    if (!row) return impl_->AbortUnknown(id, reason);
    return impl_->AbortRow(*std::move(row), reason);
  });
}

absl::StatusOr<VerdictRow> Journal::Verdict(absl::string_view id) {
  return impl_->Transact([&]() -> absl::StatusOr<VerdictRow> {
    ASSIGN_OR_RETURN(auto row, impl_->FindTarget(id));
    if (!row) return impl_->AbortUnknown(id, "the target knows no such migration");
    return VerdictOf(*row);
  });
}

absl::Status Journal::SettleLeft(absl::string_view id, absl::string_view where, uint64_t epoch) {
  return impl_->Transact([&]() -> absl::Status {
    ASSIGN_OR_RETURN(auto row, impl_->FindMigration(id));
    if (!row) return UnknownMigration(id);
    ASSIGN_OR_RETURN(auto component, impl_->FindComponent(row->component));
    if (row->state == MigrationState::kLeft && (!component || component->epoch == epoch)) {
      return absl::OkStatus();
    }
    if (row->role != MigrationRole::kSource || row->state != MigrationState::kAsked) {
      return Annotate(IsIn(*row), "cannot be left");
    }
    if (epoch <= row->epoch || epoch > INT64_MAX / 2) {
      return absl::InvalidArgumentError(
          absl::StrCat("migration ", id, ": epoch ", epoch, " does not follow ", row->epoch));
    }
    RETURN_IF_ERROR(impl_->SetState(*row, MigrationState::kLeft, ""));
    if (!component) {
      return absl::FailedPreconditionError(
          absl::StrCat("component '", row->component, "' is not here"));
    }
    component->state = v1::LEFT;
    component->where = std::string(where);
    component->epoch = epoch;
    component->migration_id.clear();
    return impl_->WriteComponent(*component);
  });
}

absl::Status Journal::SettleCalledOff(absl::string_view id, absl::string_view reason) {
  return impl_->Transact([&]() -> absl::Status {
    ASSIGN_OR_RETURN(auto row, impl_->FindMigration(id));
    if (!row) return UnknownMigration(id);
    if (row->state == MigrationState::kCalledOff) return absl::OkStatus();
    if (row->role != MigrationRole::kSource || row->state == MigrationState::kLeft) {
      return Annotate(IsIn(*row), "cannot be called off");
    }
    RETURN_IF_ERROR(impl_->SetState(*row, MigrationState::kCalledOff, reason));
    ASSIGN_OR_RETURN(auto component, impl_->FindComponent(row->component));
    if (!component) return absl::OkStatus();
    if (IsLive(component->state)) component->state = v1::RUNNING;
    component->where.clear();
    component->migration_id.clear();
    return impl_->WriteComponent(*component);
  });
}

// --- Events ---

absl::StatusOr<uint64_t> Journal::AppendEvent(absl::string_view component, absl::string_view kind,
                                              absl::string_view text) {
  auto number = impl_->Transact(
      [&]() -> absl::StatusOr<uint64_t> {
        RETURN_IF_ERROR(impl_->db().Run(
            "INSERT INTO events (time, component, kind, text) VALUES (?1, ?2, ?3, ?4)", Now(),
            component, Cut(kind), Cut(text)));
        const uint64_t number = sqlite3_last_insert_rowid(impl_->db().handle());
        if (number > kMaxEvents) {
          RETURN_IF_ERROR(
              impl_->db().Run("DELETE FROM events WHERE number <= ?1", number - kMaxEvents));
        }
        return number;
      },
      /*sync=*/false);
  if (!number.ok()) return number;
  {
    std::lock_guard<std::mutex> lock(impl_->mutex_);
    impl_->last_event_ = std::max(impl_->last_event_, *number);
  }
  impl_->appended_.notify_all();
  return number;
}

absl::StatusOr<std::vector<EventRow>> Journal::ReadEvents(uint64_t after,
                                                          absl::string_view component, int limit) {
  return impl_->Locked([&]() -> absl::StatusOr<std::vector<EventRow>> {
    ASSIGN_OR_RETURN(
        SqliteRows rows,
        impl_->db().Query("SELECT number, time, component, kind, text FROM events "
                          "WHERE number > ?1 AND (?2 = '' OR component = ?2) "
                          "ORDER BY number LIMIT ?3",
                          std::min<uint64_t>(after, INT64_MAX), component, std::max(limit, 0)));
    std::vector<EventRow> events;
    while (true) {
      ASSIGN_OR_RETURN(const bool more, rows.Next());
      if (!more) return events;
      EventRow& event = events.emplace_back();
      event.number = rows.Int(0);
      event.time = rows.Real(1);
      event.component = rows.Bytes(2);
      event.kind = rows.Bytes(3);
      event.text = rows.Bytes(4);
    }
  });
}

bool Journal::WaitForEvent(uint64_t after, Deadline deadline) {
  std::unique_lock<std::mutex> lock(impl_->mutex_);
  while (impl_->last_event_ <= after) {
    if (deadline.Passed()) return false;
    impl_->appended_.wait_for(lock, deadline.Left());
  }
  return true;
}

}  // namespace starling
