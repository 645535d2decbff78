#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "runtime/reservations/resources.h"

// Who may use how much of this host, and until when. The rules alone: no I/O, no clock of its own;
// reservations.h keeps a ledger over crashes.
//
// Two books are kept of each resource, and neither may exceed what the host has:
//   promised   firm + soft     what everybody may come to need
//   in hand    firm + loans    what may be in use at this moment
// So the room of a soft lease is lent until it is claimed, and a claim never finds its room taken.

namespace starling::reservations {

enum class Kind : uint8_t {
  kSoft,  // counted, not needed yet: its room is lent to others meanwhile
  kFirm,  // room that its holder may use
  kLoan,  // room of others' soft leases, in use until they are claimed
};
absl::string_view Name(Kind kind);  // "soft", "firm", "loan"

struct Lease {
  std::string id;      // chosen by its holder, so that asking twice is asking once
  std::string holder;  // the host that asked for it
  std::string component;
  int priority = 0;  // larger goes first
  Kind kind = Kind::kSoft;
  Kind wanted = Kind::kSoft;  // what a loan becomes when there is room
  // Firm, and its component runs here: it has no end and yields to nobody. It goes with the
  // component.
  bool pinned = false;
  Amounts amount;
  TimePoint end;
  uint64_t number = 0;  // grows with each grant: who came first
};

// What a holder asks for.
struct Ask {
  std::string id;
  std::string holder;
  std::string component;
  int priority = 0;
  Kind kind = Kind::kSoft;  // soft or firm
  bool may_borrow = false;  // take a loan when there is no room for a lease
  Amounts amount;
  Duration length{};
};

enum class What : uint8_t {
  kGranted,
  kRenewed,   // its end or amount changed
  kClaimed,   // from soft to firm
  kPinned,    // its component runs here now
  kPromoted,  // a loan became a lease of its own
  kReleased,  // given back by its holder
  kExpired,
  kWithdrawn,  // it yielded to a higher priority, or the host shrank
  kRecalled,   // a loan whose lender claimed its own
};
absl::string_view Name(What what);

// One lease that changed. `before` is empty when it is new, `after` when it is gone.
struct Change {
  What what = What::kGranted;
  std::optional<Lease> before, after;
  const Lease& lease() const { return after ? *after : *before; }
};
using Changes = std::vector<Change>;

// Not thread-safe. Every call first ends what is past its end at `now`, which never goes back. Each
// appends to `changes` what it changed, whether it succeeds or not; Undo takes changes back.
//
// Errors: kInvalidArgument for what makes no sense; kNotFound for a lease that is not there (any
// more); kPermissionDenied for another's; kResourceExhausted when there is no room, saying what is
// missing.
class Ledger {
 public:
  // Longest lease, by which an asker that is gone is forgotten.
  static constexpr Duration kLongest = std::chrono::hours(1);
  // Most leases of one holder, so that a peer that asks without end harms nobody else.
  static constexpr size_t kMostOfHolder = 10000;
  // Longest id, holder or component name.
  static constexpr size_t kMostText = 128;

  explicit Ledger(const Amounts& capacity) : capacity_(capacity) {}

  // A lease, after leases of lower priority yielded where that gives it room: a soft one takes the
  // room of soft ones, a firm one also that of firm ones in which nothing runs. They yield lowest
  // priority first, then of the holder that has most, newest first, and none that need not.
  // Asking with the id of a lease that one has renews it.
  absl::StatusOr<Lease> Grant(TimePoint now, const Ask& ask, Changes& changes);
  // A new end, never an earlier one, and (`amount`) more or less than before: a staged reservation.
  // When there is no room to grow it keeps its old amount; the answer tells. Who asks for less has
  // to rely on less from the moment it asks, because the answer may be lost; and on the new end as
  // counted from then.
  absl::StatusOr<Lease> Renew(TimePoint now, const std::string& id, const std::string& holder,
                              Duration length, const std::optional<Amounts>& amount,
                              Changes& changes);
  // Soft becomes firm; loans end as far as they are in its way. A firm one stays as it is; of a
  // loan kFailedPrecondition.
  absl::StatusOr<Lease> Claim(TimePoint now, const std::string& id, const std::string& holder,
                              Changes& changes);
  // The component of a firm lease runs here now: `resident` (this host) holds it from here on.
  absl::StatusOr<Lease> Pin(TimePoint now, const std::string& id, const std::string& holder,
                            const std::string& resident, Changes& changes);
  absl::Status Release(TimePoint now, const std::string& id, const std::string& holder,
                       Changes& changes);
  void Expire(TimePoint now, Changes& changes);
  // The host has more or less. What does not fit any more goes, loans and soft leases first, lowest
  // priority first; what runs here stays, and Deficit tells.
  void Resize(TimePoint now, const Amounts& capacity, Changes& changes);

  // Takes back the changes of the last call.
  void Undo(const Changes& changes);
  // Puts a lease back as it was written down, before the first call.
  void Restore(const Lease& lease);

  const Lease* Find(const std::string& id) const;
  void ForEach(const std::function<void(const Lease&)>& visit) const;
  size_t size() const { return leases_.size(); }
  const Amounts& capacity() const { return capacity_; }
  // Sums over leases of each kind; pinned ones are firm, too.
  const Amounts& firm() const { return firm_; }
  const Amounts& soft() const { return soft_; }
  const Amounts& loans() const { return loans_; }
  const Amounts& pinned() const { return pinned_; }
  // What may still be promised.
  Amounts Free() const { return (capacity_ - firm_ - soft_).AboveZero(); }
  // By how much what runs here exceeds what the host has.
  Amounts Deficit() const { return (pinned_ - capacity_).AboveZero(); }

  // Counts everything anew and compares. Empty: all is well; otherwise what is not.
  std::string Check(TimePoint now) const;

 private:
  // The books that an amount of this kind is in.
  bool InPromised(Kind kind) const { return kind != Kind::kLoan; }
  bool InHand(Kind kind) const { return kind != Kind::kSoft; }

  // What of `more` does not fit beside `taken`. Of what is not asked for nothing is missing, even
  // where what runs here has outgrown the host.
  Amounts Missing(const Amounts& taken, const Amounts& more) const;
  // Whether `amount` more of `kind` fits once these are gone.
  bool Fits(const Amounts& amount, Kind kind, const std::vector<const Lease*>& gone) const;
  // The leases that have to go so that `amount` more of `kind` fits, of those that `may`. Empty:
  // even then it would not.
  std::optional<std::vector<const Lease*>> MakeRoom(
      const Amounts& amount, Kind kind, const std::function<bool(const Lease&)>& may) const;
  // Adds to `victims` until what they have covers `missing`; false when it cannot.
  bool Cover(Amounts missing, const std::function<bool(const Lease&)>& may,
             std::vector<const Lease*>& victims) const;
  // Leases of `kind` go until those and the firm ones fit. `beside_firm`: the sum that counts,
  // which shrinks as they go.
  void Shed(Kind kind, const Amounts& beside_firm, Changes& changes);
  void Withdraw(const std::vector<const Lease*>& victims, Changes& changes);
  std::optional<std::vector<const Lease*>> RoomFor(const Amounts& amount, Kind kind, int priority,
                                                   const std::string& except) const;
  absl::Status Short(const Amounts& amount, Kind kind) const;
  absl::StatusOr<Lease*> FindOwn(const std::string& id, const std::string& holder);

  void Put(What what, Lease lease, Changes& changes);
  void Remove(What what, const std::string& id, Changes& changes);
  // Loans become leases where there is room now.
  void Promote(Changes& changes);
  void Count(const Lease& lease, int sign);
  void Set(const std::optional<Lease>& from, const std::optional<Lease>& to);

  Amounts capacity_, firm_, soft_, loans_, pinned_;
  std::unordered_map<std::string, Lease> leases_;
  std::set<std::pair<TimePoint, std::string>> ends_;
  std::set<std::string> loan_ids_;
  std::unordered_map<std::string, size_t> of_holder_;
  uint64_t number_ = 0;
};

}  // namespace starling::reservations
