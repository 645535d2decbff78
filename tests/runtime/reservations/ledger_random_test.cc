// Leases, yields, expiry, crashes and restarts, interleaved at random for a million steps. Beside
// the ledger stand holders who remember only what they were told, as holders on other hosts do;
// after every step what they may rely on is held against what the host has.

#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <map>
#include <random>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "runtime/reservations/audit.h"
#include "runtime/reservations/ledger.h"
#include "runtime/reservations/reservations.h"
#include "tests/runtime/scratch.h"

namespace starling::reservations {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int kHolders = 6;
constexpr Resource kUsed[] = {Resource::kCpu, Resource::kMemory, Resource::kGpuMemory};

// What one holder was told, and when it asked: it trusts a lease no longer than from then on.
struct Belief {
  Kind kind = Kind::kSoft;
  bool pinned = false;
  int priority = 0;
  Amounts amount;
  TimePoint end;
};

class World {
 public:
  World(uint64_t seed, const std::string& folder) : random_(seed), folder_(folder) { Start(); }

  void Step() {
    const int dice = Below(1000);
    if (dice < 330) {
      Grant();
    } else if (dice < 530) {
      Renew();
    } else if (dice < 650) {
      Claim();
    } else if (dice < 720) {
      Pin();
    } else if (dice < 830) {
      Release();
    } else if (dice < 990) {
      now_ += milliseconds(Below(400));
      return;  // nobody has called: the ledger does not know yet how late it is
    } else if (dice < 992) {
      Resize();
    } else if (dice < 994) {
      now_ += seconds(Below(120));  // long enough for most leases to end
    } else {
      Restart(dice == 999);
    }
    ASSERT_TRUE(book_->Expire(now_).ok());
    Hear();
    Check();
  }

  uint64_t grants = 0, refusals = 0, yields = 0, recalls = 0, promotions = 0, expiries = 0,
           restarts = 0, lost_answers = 0;

 private:
  int Below(int bound) { return static_cast<int>(random_() % static_cast<uint64_t>(bound)); }

  Amounts Some(int most) {
    Amounts amount;
    for (const Resource resource : kUsed) {
      if (Below(2) != 0) amount[resource] = Below(most) + 1;
    }
    if (!amount.AnyAboveZero()) amount[Resource::kCpu] = 1;
    return amount;
  }

  void Start() {
    auto book = Reservations::Open(folder_, boot_, capacity_, now_);
    ASSERT_TRUE(book.ok()) << book.status();
    book_ = std::move(*book);
  }

  // The agent dies and comes back; with `reboot` its host does. Time passes meanwhile, and
  // components may have ended unseen.
  void Restart(bool reboot) {
    ++restarts;
    book_.reset();
    now_ += milliseconds(Below(20000));
    std::set<std::string> alive;
    for (const auto& [id, belief] : told_) {
      if (belief.pinned && !reboot && Below(8) != 0) alive.insert(id);
    }
    if (reboot) boot_ = absl::StrCat("boot", ++boots_);
    Start();
    ASSERT_TRUE(book_->KeepPinned(now_, alive).ok());
    if (reboot) {
      EXPECT_TRUE(book_->List().empty());
      told_.clear();  // who asks after a boot hears that there is nothing
    } else {
      std::erase_if(told_, [&](const auto& entry) {
        return entry.second.pinned && alive.count(entry.first) == 0;
      });
    }
  }

  std::string Holder(const std::string& id) const { return absl::StrCat("host", id.substr(0, 1)); }
  std::string AnId() { return absl::StrCat(Below(kHolders), "-", Below(12)); }
  // Of what holders believe to have, mostly.
  std::string AKnownId() {
    if (told_.empty() || Below(20) == 0) return AnId();
    auto entry = told_.begin();
    std::advance(entry, Below(static_cast<int>(told_.size())));
    return entry->first;
  }
  std::string HolderNow(const std::string& id) const {
    const auto told = told_.find(id);
    return told != told_.end() && told->second.pinned ? "here" : Holder(id);
  }

  // Who asks for less relies on less from the moment it asks, whether or not it is answered.
  void RelyOnNoMoreThan(const std::string& id, const Amounts& amount) {
    const auto told = told_.find(id);
    if (told == told_.end()) return;
    for (size_t i = 0; i < kResources; ++i) {
      told->second.amount.of[i] = std::min(told->second.amount.of[i], amount.of[i]);
    }
  }

  // An answer arrives, or is lost on the way: then its holder goes on with what it knew.
  void Learn(const Lease& lease, TimePoint asked, Duration length, bool renewed) {
    if (Below(30) == 0) {
      ++lost_answers;
      return;
    }
    Belief& belief = told_[lease.id];
    belief.kind = lease.kind;
    belief.pinned = lease.pinned;
    belief.priority = lease.priority;
    belief.amount = lease.amount;
    if (lease.pinned) {
      belief.end = TimePoint::max();
    } else if (renewed) {
      belief.end = asked + length;
    }
    EXPECT_LE(belief.end, lease.end) << "a holder trusts its lease for longer than it lasts";
  }

  void Grant() {
    const std::string id = AnId();
    if (told_.count(id) != 0 && told_[id].pinned) return;
    Ask ask{id,
            Holder(id),
            id,
            Below(4),
            Below(2) != 0 ? Kind::kSoft : Kind::kFirm,
            Below(3) == 0,
            Some(40),
            milliseconds(1 + Below(30000))};
    const TimePoint asked = now_;
    now_ += milliseconds(Below(3));  // on the way
    RelyOnNoMoreThan(id, ask.amount);
    const auto lease = book_->Grant(now_, ask);
    if (lease.ok()) {
      ++grants;
      Learn(*lease, asked, ask.length, true);
    } else if (lease.status().code() == absl::StatusCode::kResourceExhausted) {
      ++refusals;
      // Nothing but what is past its end has changed.
      EXPECT_FALSE(PriorityInversion(book_->List(), capacity_, ask, now_)) << id;
    } else {
      // Pinned meanwhile, and its holder did not hear of it.
      EXPECT_EQ(lease.status().code(), absl::StatusCode::kPermissionDenied) << lease.status();
    }
  }

  void Renew() {
    const std::string id = AKnownId();
    const auto length = milliseconds(1 + Below(30000));
    std::optional<Amounts> amount;
    if (Below(2) != 0) {
      amount = Some(40);
      RelyOnNoMoreThan(id, *amount);
    }
    const TimePoint asked = now_;
    now_ += milliseconds(Below(3));
    const auto lease = book_->Renew(now_, id, HolderNow(id), length, amount);
    if (lease.ok()) Learn(*lease, asked, length, true);
    Forget(id, lease.status());
  }

  void Claim() {
    const std::string id = AKnownId();
    const auto lease = book_->Claim(now_, id, HolderNow(id));
    if (lease.ok()) Learn(*lease, now_, {}, false);
    Forget(id, lease.status());
  }

  void Pin() {
    const std::string id = AKnownId();
    const auto lease = book_->Pin(now_, id, HolderNow(id), "here");
    if (lease.ok()) told_[id] = {Kind::kFirm, true, lease->priority, lease->amount, lease->end};
    Forget(id, lease.status());
  }

  void Release() {
    const std::string id = AKnownId();
    const absl::Status status = book_->Release(now_, id, HolderNow(id));
    if (status.ok()) told_.erase(id);
    Forget(id, status);
  }

  void Forget(const std::string& id, const absl::Status& status) {
    if (status.code() == absl::StatusCode::kNotFound) told_.erase(id);
  }

  void Resize() {
    for (const Resource resource : kUsed) capacity_[resource] = 60 + Below(80);
    ASSERT_TRUE(book_->Resize(now_, capacity_).ok());
  }

  // What the host tells holders of by itself.
  void Hear() {
    for (const Change& change : book_->TakeNotices()) {
      expiries += change.what == What::kExpired;
      promotions += change.what == What::kPromoted;
      recalls += change.what == What::kRecalled;
      if (change.what == What::kPromoted) {
        if (const auto told = told_.find(change.lease().id); told != told_.end()) {
          told->second.kind = change.lease().kind;
        }
      }
      if (change.what == What::kWithdrawn || change.what == What::kRecalled) {
        EXPECT_FALSE(change.lease().pinned);
        told_.erase(change.lease().id);
      }
      yields += change.what == What::kWithdrawn;
    }
  }

  void Check() {
    ASSERT_EQ(book_->Check(now_), "");
    Amounts promised, in_hand, pinned;
    for (const auto& [id, belief] : told_) {
      if (belief.end <= now_) continue;
      if (belief.kind != Kind::kLoan) promised += belief.amount;
      if (belief.kind != Kind::kSoft) in_hand += belief.amount;
      if (belief.pinned) pinned += belief.amount;
    }
    for (size_t i = 0; i < kResources; ++i) {
      const int64_t most = std::max(capacity_.of[i], pinned.of[i]);
      ASSERT_LE(promised.of[i], most) << "promised twice";
      ASSERT_LE(in_hand.of[i], most) << "in hand twice";
    }
    // No lease without a holder: each ends unless it is renewed, and what is pinned runs here.
    if (Below(64) != 0) return;
    for (const Lease& lease : book_->List()) {
      ASSERT_LE(lease.pinned ? now_ : lease.end, now_ + Ledger::kLongest);
      if (lease.pinned) {
        ASSERT_TRUE(told_.count(lease.id)) << lease.id;
      }
    }
  }

  std::mt19937_64 random_;
  const std::string folder_;
  std::string boot_ = "boot0";
  int boots_ = 0;
  TimePoint now_{seconds(1000)};
  Amounts capacity_ = [] {
    Amounts amounts;
    for (const Resource resource : kUsed) amounts[resource] = 100;
    return amounts;
  }();
  std::unique_ptr<Reservations> book_;
  std::map<std::string, Belief> told_;
};

TEST(LedgerRandomTest, AMillionSteps) {
  constexpr int kSteps = 1000000;
  Scratch scratch(InMemory());
  World world(20250301, scratch.path());
  for (int i = 0; i < kSteps; ++i) {
    world.Step();
    ASSERT_FALSE(HasFailure()) << "at step " << i;
  }
  // All of it was met often enough to say something.
  EXPECT_GT(world.grants, 50000u);
  EXPECT_GT(world.refusals, 10000u);
  EXPECT_GT(world.yields, 1000u);
  EXPECT_GT(world.recalls, 1000u);
  EXPECT_GT(world.promotions, 1000u);
  EXPECT_GT(world.expiries, 10000u);
  EXPECT_GT(world.restarts, 3000u);
  EXPECT_GT(world.lost_answers, 5000u);
  std::cout << world.grants << " grants, " << world.refusals << " refusals, " << world.yields
            << " yields, " << world.recalls << " recalls, " << world.promotions << " promotions, "
            << world.expiries << " expiries, " << world.restarts << " restarts, "
            << world.lost_answers << " lost answers\n";
}

}  // namespace
}  // namespace starling::reservations
