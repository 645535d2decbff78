#include "runtime/reservations/ledger.h"

#include <algorithm>
#include <array>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace starling::reservations {
namespace {

constexpr std::array<absl::string_view, 3> kKindNames = {"soft", "firm", "loan"};
constexpr std::array<absl::string_view, 9> kWhatNames = {"granted", "renewed",   "claimed",
                                                         "pinned",  "promoted",  "released",
                                                         "expired", "withdrawn", "recalled"};

absl::Status CheckAmounts(const Amounts& amount) {
  bool any = false;
  for (const int64_t value : amount.of) {
    if (value < 0 || value > Amounts::kMost) {
      return absl::InvalidArgumentError(
          absl::StrCat("an amount of ", value, "; allowed is 0 to ", Amounts::kMost));
    }
    any = any || value > 0;
  }
  return any ? absl::OkStatus() : absl::InvalidArgumentError("an amount of nothing");
}

absl::Status CheckLength(Duration length) {
  if (length > Duration::zero() && length <= Ledger::kLongest) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("a lease of ", Seconds(length),
                                                 " s; allowed is more than 0 and at most ",
                                                 Seconds(Ledger::kLongest)));
}

absl::Status CheckText(absl::string_view what, absl::string_view text) {
  if (!text.empty() && text.size() <= Ledger::kMostText) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("a lease's ", what, " of ", text.size(),
                                                 " bytes; allowed is 1 to ", Ledger::kMostText));
}

absl::Status CheckAsk(const Ask& ask) {
  RETURN_IF_ERROR(CheckText("id", ask.id));
  RETURN_IF_ERROR(CheckText("holder", ask.holder));
  RETURN_IF_ERROR(CheckText("component", ask.component));
  if (ask.kind == Kind::kLoan) {
    return absl::InvalidArgumentError("a loan is not asked for; ask for a lease that may borrow");
  }
  RETURN_IF_ERROR(CheckLength(ask.length));
  return CheckAmounts(ask.amount);
}

}  // namespace

absl::string_view Name(Kind kind) { return kKindNames[static_cast<size_t>(kind)]; }
absl::string_view Name(What what) { return kWhatNames[static_cast<size_t>(what)]; }

// --- The leases and their sums ---

void Ledger::Count(const Lease& lease, int sign) {
  Amounts& sum = lease.kind == Kind::kFirm ? firm_ : lease.kind == Kind::kSoft ? soft_ : loans_;
  if (sign > 0) {
    sum += lease.amount;
    if (lease.pinned) pinned_ += lease.amount;
  } else {
    sum -= lease.amount;
    if (lease.pinned) pinned_ -= lease.amount;
  }
}

void Ledger::Set(const std::optional<Lease>& from, const std::optional<Lease>& to) {
  if (from) {
    Count(*from, -1);
    ends_.erase({from->end, from->id});
    if (from->kind == Kind::kLoan) loan_ids_.erase(from->id);
    const auto held = of_holder_.find(from->holder);
    if (--held->second == 0) of_holder_.erase(held);
    if (!to) leases_.erase(from->id);
  }
  if (to) {
    Count(*to, 1);
    ends_.insert({to->end, to->id});
    if (to->kind == Kind::kLoan) loan_ids_.insert(to->id);
    ++of_holder_[to->holder];
    leases_.insert_or_assign(to->id, *to);
  }
}

void Ledger::Put(What what, Lease lease, Changes& changes) {
  Change change{what, std::nullopt, std::move(lease)};
  if (const Lease* old = Find(change.after->id)) change.before = *old;
  Set(change.before, change.after);
  changes.push_back(std::move(change));
}

void Ledger::Remove(What what, const std::string& id, Changes& changes) {
  Change change{what, *Find(id), std::nullopt};
  Set(change.before, change.after);
  changes.push_back(std::move(change));
}

void Ledger::Undo(const Changes& changes) {
  for (auto change = changes.rbegin(); change != changes.rend(); ++change) {
    Set(change->after, change->before);
  }
}

void Ledger::Restore(const Lease& lease) {
  number_ = std::max(number_, lease.number);
  Set(std::nullopt, lease);
}

const Lease* Ledger::Find(const std::string& id) const {
  const auto found = leases_.find(id);
  return found == leases_.end() ? nullptr : &found->second;
}

void Ledger::ForEach(const std::function<void(const Lease&)>& visit) const {
  for (const auto& [id, lease] : leases_) visit(lease);
}

absl::StatusOr<Lease*> Ledger::FindOwn(const std::string& id, const std::string& holder) {
  const auto found = leases_.find(id);
  if (found == leases_.end()) {
    return absl::NotFoundError(
        absl::StrCat("there is no lease '", id, "' (any more): ask for another"));
  }
  if (found->second.holder != holder) {
    return absl::PermissionDeniedError(absl::StrCat("lease '", id, "' is not held by ", holder));
  }
  return &found->second;
}

// --- Room ---

Amounts Ledger::Missing(const Amounts& taken, const Amounts& more) const {
  Amounts missing = (taken + more - capacity_).AboveZero();
  for (size_t i = 0; i < kResources; ++i) {
    if (more.of[i] <= 0) missing.of[i] = 0;
  }
  return missing;
}

bool Ledger::Cover(Amounts missing, const std::function<bool(const Lease&)>& may,
                   std::vector<const Lease*>& victims) const {
  if (!missing.AnyAboveZero()) return true;
  std::vector<const Lease*> candidates;
  std::unordered_map<std::string, Amounts> held;
  for (const auto& [id, lease] : leases_) {
    held[lease.holder] += lease.amount;
    if (may(lease)) candidates.push_back(&lease);
  }
  std::vector<const Lease*> picked;
  while (missing.AnyAboveZero()) {
    const Lease* next = nullptr;
    std::tuple<int, bool, double, int64_t> best;
    for (const Lease* lease : candidates) {
      if (lease == nullptr) continue;
      bool helps = false;
      for (size_t i = 0; i < kResources; ++i) {
        helps = helps || (missing.of[i] > 0 && lease->amount.of[i] > 0);
      }
      if (!helps) continue;
      // The least of these goes.
      const std::tuple order(lease->priority, lease->kind == Kind::kFirm,
                             -DominantShare(held[lease->holder], capacity_),
                             -static_cast<int64_t>(lease->number));
      if (next == nullptr || order < best) {
        next = lease;
        best = order;
      }
    }
    if (next == nullptr) return false;
    missing -= next->amount;
    held[next->holder] -= next->amount;
    *std::find(candidates.begin(), candidates.end(), next) = nullptr;
    picked.push_back(next);
  }
  // Nobody yields in vain: who was picked last, and so had the best claim, is spared first.
  for (size_t i = picked.size(); i-- > 0;) {
    if ((missing + picked[i]->amount).AnyAboveZero()) continue;
    missing += picked[i]->amount;
    picked.erase(picked.begin() + static_cast<ptrdiff_t>(i));
  }
  victims.insert(victims.end(), picked.begin(), picked.end());
  return true;
}

bool Ledger::Fits(const Amounts& amount, Kind kind, const std::vector<const Lease*>& gone) const {
  Amounts promised = firm_ + soft_, in_hand = firm_ + loans_;
  for (const Lease* lease : gone) {
    if (InPromised(lease->kind)) promised -= lease->amount;
    if (InHand(lease->kind)) in_hand -= lease->amount;
  }
  return !(InPromised(kind) && Missing(promised, amount).AnyAboveZero()) &&
         !(InHand(kind) && Missing(in_hand, amount).AnyAboveZero());
}

std::optional<std::vector<const Lease*>> Ledger::MakeRoom(
    const Amounts& amount, Kind kind, const std::function<bool(const Lease&)>& may) const {
  std::vector<const Lease*> victims;
  if (Fits(amount, kind, victims)) return victims;
  // A firm lease that goes gives room in both books.
  if (InHand(kind)) {
    const auto in_hand = [&](const Lease& lease) { return InHand(lease.kind) && may(lease); };
    if (!Cover(Missing(firm_ + loans_, amount), in_hand, victims)) return std::nullopt;
  }
  if (InPromised(kind)) {
    Amounts promised = firm_ + soft_;
    for (const Lease* victim : victims) {
      if (InPromised(victim->kind)) promised -= victim->amount;
    }
    const size_t before = victims.size();
    const auto more = [&](const Lease& lease) {
      const auto end = victims.begin() + static_cast<ptrdiff_t>(before);
      return InPromised(lease.kind) && may(lease) && std::find(victims.begin(), end, &lease) == end;
    };
    if (!Cover(Missing(promised, amount), more, victims)) return std::nullopt;
  }
  // Those of one book may not be needed for the sake of those of the other.
  std::stable_sort(victims.begin(), victims.end(),
                   [](const Lease* a, const Lease* b) { return a->priority > b->priority; });
  for (size_t i = 0; i < victims.size();) {
    std::vector<const Lease*> others = victims;
    others.erase(others.begin() + static_cast<ptrdiff_t>(i));
    if (Fits(amount, kind, others)) {
      victims = std::move(others);
    } else {
      ++i;
    }
  }
  return victims;
}

std::optional<std::vector<const Lease*>> Ledger::RoomFor(const Amounts& amount, Kind kind,
                                                         int priority,
                                                         const std::string& except) const {
  return MakeRoom(amount, kind, [&](const Lease& lease) {
    if (lease.priority >= priority || lease.pinned || lease.id == except) return false;
    return lease.kind != Kind::kFirm || kind == Kind::kFirm;
  });
}

void Ledger::Withdraw(const std::vector<const Lease*>& victims, Changes& changes) {
  for (const Lease* victim : victims) {
    const std::string id = victim->id;
    Remove(victim->kind == Kind::kLoan ? What::kRecalled : What::kWithdrawn, id, changes);
  }
}

absl::Status Ledger::Short(const Amounts& amount, Kind kind) const {
  Amounts missing = InPromised(kind) ? Missing(firm_ + soft_, amount) : Amounts();
  const Amounts in_hand = InHand(kind) ? Missing(firm_ + loans_, amount) : Amounts();
  for (size_t i = 0; i < kResources; ++i) {
    missing.of[i] = std::max(missing.of[i], in_hand.of[i]);
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("no room for ", Show(amount), ": ", Show(missing), " too little"));
}

void Ledger::Promote(Changes& changes) {
  if (loan_ids_.empty()) return;
  std::vector<const Lease*> loans;
  for (const std::string& id : loan_ids_) loans.push_back(Find(id));
  std::sort(loans.begin(), loans.end(), [](const Lease* a, const Lease* b) {
    return std::tuple(-a->priority, a->number) < std::tuple(-b->priority, b->number);
  });
  for (const Lease* loan : loans) {
    if (Missing(firm_ + soft_, loan->amount).AnyAboveZero()) continue;
    Lease lease = *loan;
    lease.kind = lease.wanted;
    Put(What::kPromoted, std::move(lease), changes);
  }
}

// --- What may be asked ---

absl::StatusOr<Lease> Ledger::Grant(TimePoint now, const Ask& ask, Changes& changes) {
  RETURN_IF_ERROR(CheckAsk(ask));
  Expire(now, changes);
  if (Find(ask.id) != nullptr) {
    return Renew(now, ask.id, ask.holder, ask.length, ask.amount, changes);
  }
  const auto held = of_holder_.find(ask.holder);
  if (held != of_holder_.end() && held->second >= kMostOfHolder) {
    return absl::ResourceExhaustedError(
        absl::StrCat(ask.holder, " holds ", kMostOfHolder, " leases; give some back first"));
  }
  Lease lease{ask.id,   ask.holder, ask.component, ask.priority,     ask.kind,
              ask.kind, false,      ask.amount,    now + ask.length, 0};
  auto victims = RoomFor(ask.amount, ask.kind, ask.priority, ask.id);
  if (!victims && ask.may_borrow) {
    lease.kind = Kind::kLoan;
    victims = RoomFor(ask.amount, Kind::kLoan, ask.priority, ask.id);
  }
  if (!victims) return Short(ask.amount, ask.kind);
  Withdraw(*victims, changes);
  lease.number = ++number_;
  Put(What::kGranted, lease, changes);
  Promote(changes);
  return *Find(ask.id);
}

absl::StatusOr<Lease> Ledger::Renew(TimePoint now, const std::string& id, const std::string& holder,
                                    Duration length, const std::optional<Amounts>& amount,
                                    Changes& changes) {
  RETURN_IF_ERROR(CheckLength(length));
  if (amount) RETURN_IF_ERROR(CheckAmounts(*amount));
  Expire(now, changes);
  ASSIGN_OR_RETURN(const Lease* found, FindOwn(id, holder));
  Lease lease = *found;
  lease.end = std::max(lease.end, now + length);
  if (amount && *amount != lease.amount) {
    const Amounts more = (*amount - lease.amount).AboveZero();
    const auto victims = RoomFor(more, lease.kind, lease.priority, id);
    if (victims) {
      Withdraw(*victims, changes);
      lease.amount = *amount;
    } else {
      // What it gives back it gives back all the same.
      for (size_t i = 0; i < kResources; ++i) {
        lease.amount.of[i] = std::min(lease.amount.of[i], amount->of[i]);
      }
      if (!lease.amount.AnyAboveZero()) lease.amount = found->amount;
    }
  }
  Put(What::kRenewed, std::move(lease), changes);
  Promote(changes);
  return *Find(id);
}

absl::StatusOr<Lease> Ledger::Claim(TimePoint now, const std::string& id, const std::string& holder,
                                    Changes& changes) {
  Expire(now, changes);
  ASSIGN_OR_RETURN(const Lease* found, FindOwn(id, holder));
  if (found->kind == Kind::kFirm) return *found;
  if (found->kind == Kind::kLoan) {
    return absl::FailedPreconditionError(
        absl::StrCat("lease '", id, "' is a loan: there is no room to make it firm"));
  }
  // Its room is promised, so nothing but loans can be in the way, and all of them may go.
  Lease lease = *found;
  lease.kind = lease.wanted = Kind::kFirm;
  std::vector<const Lease*> loans;
  Cover(
      Missing(firm_ + loans_, lease.amount),
      [](const Lease& other) { return other.kind == Kind::kLoan; }, loans);
  Withdraw(loans, changes);
  Put(What::kClaimed, std::move(lease), changes);
  return *Find(id);
}

absl::StatusOr<Lease> Ledger::Pin(TimePoint now, const std::string& id, const std::string& holder,
                                  const std::string& resident, Changes& changes) {
  RETURN_IF_ERROR(CheckText("holder", resident));
  Expire(now, changes);
  ASSIGN_OR_RETURN(const Lease* found, FindOwn(id, holder));
  if (found->kind != Kind::kFirm) {
    return absl::FailedPreconditionError(
        absl::StrCat("lease '", id, "' is ", Name(found->kind), ": nothing may run in it"));
  }
  Lease lease = *found;
  lease.pinned = true;
  lease.holder = resident;
  lease.end = TimePoint::max();
  Put(What::kPinned, std::move(lease), changes);
  return *Find(id);
}

absl::Status Ledger::Release(TimePoint now, const std::string& id, const std::string& holder,
                             Changes& changes) {
  Expire(now, changes);
  RETURN_IF_ERROR(FindOwn(id, holder).status());
  Remove(What::kReleased, id, changes);
  Promote(changes);
  return absl::OkStatus();
}

void Ledger::Expire(TimePoint now, Changes& changes) {
  bool any = false;
  while (!ends_.empty() && ends_.begin()->first <= now) {
    const std::string id = ends_.begin()->second;
    Remove(What::kExpired, id, changes);
    any = true;
  }
  if (any) Promote(changes);
}

void Ledger::Shed(Kind kind, const Amounts& beside_firm, Changes& changes) {
  const auto may = [kind](const Lease& lease) { return lease.kind == kind && !lease.pinned; };
  // One resource at a time: what may go need not be enough, and then all that helps goes.
  for (size_t i = 0; i < kResources; ++i) {
    int64_t there = 0;
    for (const auto& [id, lease] : leases_) there += may(lease) ? lease.amount.of[i] : 0;
    Amounts missing;
    missing.of[i] =
        std::clamp<int64_t>(firm_.of[i] + beside_firm.of[i] - capacity_.of[i], 0, there);
    std::vector<const Lease*> victims;
    Cover(missing, may, victims);
    Withdraw(victims, changes);
  }
}

void Ledger::Resize(TimePoint now, const Amounts& capacity, Changes& changes) {
  Expire(now, changes);
  capacity_ = capacity;
  Shed(Kind::kLoan, loans_, changes);
  Shed(Kind::kSoft, soft_, changes);
  Shed(Kind::kFirm, Amounts(), changes);
  Promote(changes);
}

std::string Ledger::Check(TimePoint now) const {
  Amounts firm, soft, loans, pinned;
  for (const auto& [id, lease] : leases_) {
    (lease.kind == Kind::kFirm ? firm : lease.kind == Kind::kSoft ? soft : loans) += lease.amount;
    if (lease.pinned) pinned += lease.amount;
    if (lease.pinned && lease.kind != Kind::kFirm) return absl::StrCat(id, " is pinned, not firm");
    if (lease.pinned != (lease.end == TimePoint::max())) return absl::StrCat(id, " has no end");
    if (lease.end <= now) return absl::StrCat(id, " is past its end");
    if (!CheckAmounts(lease.amount).ok()) return absl::StrCat(id, " has no sound amount");
  }
  if (firm != firm_ || soft != soft_ || loans != loans_ || pinned != pinned_) {
    return "the sums are not those of the leases";
  }
  if (ends_.size() != leases_.size()) return "the ends are not those of the leases";
  for (size_t i = 0; i < kResources; ++i) {
    // What runs here may have outgrown a host that shrank; then nothing else may be promised.
    const int64_t most = std::max(capacity_.of[i], pinned.of[i]);
    const absl::string_view name = Name(static_cast<Resource>(i));
    if (firm.of[i] + soft.of[i] > most) return absl::StrCat(name, " is promised twice");
    if (firm.of[i] + loans.of[i] > most) return absl::StrCat(name, " is in hand twice");
  }
  return "";
}

}  // namespace starling::reservations
