#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "runtime/proto/starling.pb.h"

// The agent's durable memory: which components are here, which migrations are under way, and the
// word that was given on each of them. One SQLite file (WAL, synchronous=FULL): when a call returns
// OK, its effect survives kill -9 and a power cut; when it fails, nothing changed. Events are the
// one exception: they survive kill -9, the newest of them may be lost with the power.

namespace starling {

using v1::ComponentSpec;
using v1::ComponentState;

struct ComponentRow {
  ComponentSpec spec;  // spec.name() is the key
  uint64_t epoch = 1;  // of the copy that the row speaks of
  ComponentState state = v1::COMPONENT_STATE_UNSPECIFIED;
  std::string where;         // LEFT: the host it went to; ARRIVING: the host it comes from
  std::string boot_id;       // of the boot in which the row was written; set by the journal
  int exit_status = 0;       // EXITED
  double since = 0;          // seconds since 1970: started or arrived here
  std::string migration_id;  // of the migration under way, empty otherwise
};

enum class MigrationRole { kSource, kTarget };

// Source: reserving -> precopy -> frozen -> captured -> prepared -> asked -> left, and from any of
// them but left -> called_off. Target: pending -> prepared -> committed, and from pending or
// prepared -> aborted. left, called_off, committed and aborted are final.
enum class MigrationState {
  kReserving,
  kPreCopy,
  kFrozen,
  kCaptured,
  kPrepared,  // source: the target said that it is prepared. Target: it is
  kAsked,     // the target may have been asked to commit: only it knows how this ends
  kLeft,
  kCalledOff,
  kPending,
  kCommitted,
  kAborted,
};

// "reserving", "called_off", ...: as stored and shown.
absl::string_view Name(MigrationState state);
// "source" or "target".
absl::string_view Name(MigrationRole role);

struct MigrationRow {
  std::string id;  // [0-9a-f-]{1,64}, the same at source and target
  MigrationRole role = MigrationRole::kSource;
  std::string component;     // a component name
  std::string peer;          // the other host
  std::string peer_address;  // its control address
  MigrationState state = MigrationState::kReserving;
  uint64_t epoch = 0;   // of the copy that runs at the source
  ComponentSpec spec;   // target: what it will become on commit
  std::string boot_id;  // of the boot in which the row was last written; set by the journal
  std::string reason;   // why it was called off or aborted
  double updated = 0;   // seconds since 1970; set by the journal
  // Final, and everything that follows from it has been done (the copy killed or let go on, fence
  // and arena gone). A restarted agent looks at what is not settled.
  bool settled = false;
};

// The target's durable word.
struct VerdictRow {
  MigrationState state = MigrationState::kPending;  // pending, prepared, committed or aborted
  std::string component;                            // empty for an id never begun here
  uint64_t epoch = 0;                               // committed: of the copy that runs here
  std::string reason;                               // aborted
};

struct EventRow {
  uint64_t number = 0;  // grows by one, survives restarts
  double time = 0;      // seconds since 1970
  std::string component;
  std::string kind;
  std::string text;
};

// The kernel's boot id: what it says of running things is true only within one boot.
absl::StatusOr<std::string> ReadBootId();

// Thread-safe. Every call may take as long as an fsync. Errors of all calls beside those named:
// kDataLoss when the file is found damaged, kResourceExhausted when the disk is full, kInternal for
// other failures of the file; the message names the file.
class Journal {
 public:
  // Events kept.
  static constexpr uint64_t kMaxEvents = 10000;
  // Longest reason, event kind and event text kept, in bytes; longer ones are cut.
  static constexpr size_t kMaxText = 4096;

  // Opens the file, or makes it (and its folder, mode 0700) when there is none, and checks all of
  // it. Errors, each with what to do, the file untouched:
  //   kFailedPrecondition  another process has it open; written by another version of Starling
  //   kDataLoss            truncated, altered, not a journal
  //   kPermissionDenied    it or its folder cannot be written
  static absl::StatusOr<std::unique_ptr<Journal>> Open(const std::string& path,
                                                       const std::string& boot_id);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // The boot id given to Open.
  const std::string& boot_id() const;
  const std::string& path() const;

  // --- Components ---

  // Inserts or replaces the row of spec.name(). kInvalidArgument for a name or state that cannot
  // be; kFailedPrecondition when the row here has a higher epoch and is not EXITED or LOST: an
  // older copy never overwrites what is known of a newer one.
  absl::Status PutComponent(const ComponentRow& row);
  // kNotFound.
  absl::StatusOr<ComponentRow> GetComponent(absl::string_view name);
  // By name.
  absl::StatusOr<std::vector<ComponentRow>> ListComponents();
  // Removes the row. kNotFound; kFailedPrecondition while a migration of it is not settled.
  absl::Status ForgetComponent(absl::string_view name);

  // --- Migrations ---

  // Inserts a migration in its first state (source: reserving; target: pending). Errors:
  //   kInvalidArgument     id, name, role or state that cannot begin
  //   kAlreadyExists       a migration of this id is known, in whatever state (an id once aborted
  //                        stays so)
  //   kFailedPrecondition  another migration of the component is not settled; source: the component
  //                        is not RUNNING here with that epoch; target: a copy of it lives here, or
  //                        a newer one left from here
  absl::Status Begin(const MigrationRow& row);

  // Compare-and-set to the next state. kNotFound; kFailedPrecondition when the migration is not in
  // `from` (the message says in which), or when `to` does not follow `from`. Final states are not
  // reached this way. What a source says between frozen and asked may be lost with the host, but not
  // with the agent.
  absl::Status Advance(absl::string_view id, MigrationState from, MigrationState to);

  absl::StatusOr<MigrationRow> GetMigration(absl::string_view id);  // kNotFound
  // All, or only those not settled; oldest first.
  absl::StatusOr<std::vector<MigrationRow>> ListMigrations(bool unsettled_only);

  // Marks a final migration as settled. kNotFound; kFailedPrecondition when it is not final.
  // Settling twice is fine.
  absl::Status Settle(absl::string_view id);

  // The target's verdict. Each answers with the durable word after the call, whatever it is; once
  // committed or aborted it never changes. kFailedPrecondition for an id of which this host is the
  // source.
  //
  // pending -> prepared. kNotFound for an unknown id.
  absl::StatusOr<VerdictRow> Prepare(absl::string_view id);
  // In one transaction: prepared -> committed, and the component's row becomes RUNNING with the
  // spec of the migration and its epoch + 1. A copy prepared in an earlier boot is gone, so that
  // migration becomes aborted instead. Pending is answered as it is. kNotFound for an unknown id.
  absl::StatusOr<VerdictRow> Commit(absl::string_view id);
  // pending or prepared -> aborted; an unknown id is written as aborted (and settled), so that it
  // can never be begun. The component's row, if it is ARRIVING by this migration, goes.
  absl::StatusOr<VerdictRow> Abort(absl::string_view id, absl::string_view reason);
  // The word as it stands; an unknown id becomes aborted.
  absl::StatusOr<VerdictRow> Verdict(absl::string_view id);

  // The source's end of it. Both leave the migration unsettled: the copy is still to be killed, or
  // thawed; Settle() afterwards.
  //
  // In one transaction: asked -> left, the component's row LEFT to `where` with `epoch`. kNotFound;
  // kFailedPrecondition from another state (left already, with the same epoch, is fine).
  absl::Status SettleLeft(absl::string_view id, absl::string_view where, uint64_t epoch);
  // In one transaction: any state but left -> called_off, the component's row RUNNING here with its
  // old epoch (a row that is EXITED or LOST stays so). From asked only with the target's word
  // aborted, or a person's: the caller answers for that. kNotFound; kFailedPrecondition from left
  // (called off already is fine).
  absl::Status SettleCalledOff(absl::string_view id, absl::string_view reason);

  // --- Events ---

  // Returns its number. The oldest beyond kMaxEvents go.
  absl::StatusOr<uint64_t> AppendEvent(absl::string_view component, absl::string_view kind,
                                       absl::string_view text);
  // At most `limit`, with a number above `after`, oldest first; of one component, or of all when
  // `component` is empty.
  absl::StatusOr<std::vector<EventRow>> ReadEvents(uint64_t after, absl::string_view component,
                                                   int limit);
  // Waits until there is an event above `after` (true) or the deadline has passed (false).
  bool WaitForEvent(uint64_t after, Deadline deadline);

 private:
  class Impl;
  explicit Journal(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace starling
