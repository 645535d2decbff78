#include "runtime/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/runtime/scratch.h"

namespace starling {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using S = MigrationState;
using absl::StatusCode;

constexpr char kBoot[] = "11111111-1111-1111-1111-111111111111";
constexpr char kOtherBoot[] = "22222222-2222-2222-2222-222222222222";

ComponentSpec Spec(const std::string& name) {
  ComponentSpec spec;
  spec.set_name(name);
  spec.add_command("/usr/bin/redis-server");
  return spec;
}

ComponentRow Running(const std::string& name, uint64_t epoch = 1) {
  ComponentRow row;
  row.spec = Spec(name);
  row.epoch = epoch;
  row.state = v1::RUNNING;
  row.since = 12.5;
  return row;
}

MigrationRow Leaving(const std::string& id, const std::string& name, uint64_t epoch = 1) {
  MigrationRow row;
  row.id = id;
  row.component = name;
  row.peer = "node2";
  row.peer_address = "10.77.0.2:7400";
  row.epoch = epoch;
  return row;
}

MigrationRow Arriving(const std::string& id, const std::string& name, uint64_t epoch = 1) {
  MigrationRow row = Leaving(id, name, epoch);
  row.role = MigrationRole::kTarget;
  row.state = S::kPending;
  row.spec = Spec(name);
  return row;
}

class JournalTest : public testing::Test {
 protected:
  void SetUp() override { Reopen(); }

  void Reopen(const char* boot = kBoot) {
    journal_.reset();
    auto journal = Journal::Open(scratch_ / "journal.db", boot);
    ASSERT_TRUE(journal.ok()) << journal.status();
    journal_ = *std::move(journal);
  }

  // A source's migration "a1" of "web", in `state`.
  void LeaveUpTo(S state) {
    ASSERT_TRUE(journal_->PutComponent(Running("web")).ok());
    ASSERT_TRUE(journal_->Begin(Leaving("a1", "web")).ok());
    const S steps[] = {S::kReserving, S::kPreCopy,  S::kFrozen,
                       S::kCaptured,  S::kPrepared, S::kAsked};
    for (int i = 0; steps[i] != state; ++i) {
      ASSERT_TRUE(journal_->Advance("a1", steps[i], steps[i + 1]).ok());
    }
  }

  StatusCode CodeOf(const absl::Status& status) { return status.code(); }

  Scratch scratch_{InMemory()};
  std::unique_ptr<Journal> journal_;
};

TEST_F(JournalTest, KeepsComponentsOverAReopening) {
  ComponentRow row = Running("web", 7);
  row.where = "node3";
  row.exit_status = 143;
  row.migration_id = "a1";
  row.state = v1::EXITED;
  ASSERT_TRUE(journal_->PutComponent(row).ok());
  ASSERT_TRUE(journal_->PutComponent(Running("api")).ok());
  Reopen(kOtherBoot);
  auto got = journal_->GetComponent("web");
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(got->spec.SerializeAsString(), row.spec.SerializeAsString());
  EXPECT_EQ(got->epoch, 7u);
  EXPECT_EQ(got->state, v1::EXITED);
  EXPECT_EQ(got->where, "node3");
  EXPECT_EQ(got->exit_status, 143);
  EXPECT_EQ(got->since, 12.5);
  EXPECT_EQ(got->migration_id, "a1");
  EXPECT_EQ(got->boot_id, kBoot);
  auto all = journal_->ListComponents();
  ASSERT_TRUE(all.ok());
  ASSERT_EQ(all->size(), 2u);
  EXPECT_EQ((*all)[0].spec.name(), "api");

  EXPECT_TRUE(journal_->ForgetComponent("web").ok());
  EXPECT_EQ(CodeOf(journal_->GetComponent("web").status()), StatusCode::kNotFound);
  EXPECT_EQ(CodeOf(journal_->ForgetComponent("web")), StatusCode::kNotFound);
}

TEST_F(JournalTest, RefusesAComponentThatCannotBe) {
  EXPECT_EQ(CodeOf(journal_->PutComponent(Running("../etc"))), StatusCode::kInvalidArgument);
  ComponentRow stateless = Running("web");
  stateless.state = v1::COMPONENT_STATE_UNSPECIFIED;
  EXPECT_EQ(CodeOf(journal_->PutComponent(stateless)), StatusCode::kInvalidArgument);
  EXPECT_EQ(CodeOf(journal_->PutComponent(Running("web", ~uint64_t{0}))),
            StatusCode::kInvalidArgument);
}

TEST_F(JournalTest, AnOlderCopyNeverOverwritesANewerOne) {
  ASSERT_TRUE(journal_->PutComponent(Running("web", 3)).ok());
  const absl::Status older = journal_->PutComponent(Running("web", 2));
  EXPECT_EQ(older.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(older.message()), HasSubstr("epoch 3"));
  // Once it has ended its name can be given again.
  ComponentRow ended = Running("web", 3);
  ended.state = v1::EXITED;
  ASSERT_TRUE(journal_->PutComponent(ended).ok());
  EXPECT_TRUE(journal_->PutComponent(Running("web", 1)).ok());
}

TEST_F(JournalTest, BeginsOneMigrationOfAComponentAtATime) {
  ASSERT_TRUE(journal_->PutComponent(Running("web")).ok());
  ASSERT_TRUE(journal_->PutComponent(Running("api")).ok());
  ASSERT_TRUE(journal_->Begin(Leaving("a1", "web")).ok());
  const absl::Status second = journal_->Begin(Leaving("a2", "web"));
  EXPECT_EQ(second.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.message()), HasSubstr("a1"));
  EXPECT_TRUE(journal_->Begin(Leaving("a3", "api")).ok());
  // Called off is not enough: the copy may still be frozen. Settled is.
  ASSERT_TRUE(journal_->SettleCalledOff("a1", "cancelled").ok());
  EXPECT_EQ(CodeOf(journal_->Begin(Leaving("a2", "web"))), StatusCode::kFailedPrecondition);
  ASSERT_TRUE(journal_->Settle("a1").ok());
  EXPECT_TRUE(journal_->Begin(Leaving("a2", "web")).ok());
}

TEST_F(JournalTest, ConcurrentBeginsLetOneThrough) {
  ASSERT_TRUE(journal_->PutComponent(Running("web")).ok());
  std::atomic<int> begun = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back(
        [&, i] { begun += journal_->Begin(Leaving(absl::StrCat("a", i), "web")).ok() ? 1 : 0; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(begun, 1);
}

TEST_F(JournalTest, BeginsOnlyWhatRunsHere) {
  EXPECT_EQ(CodeOf(journal_->Begin(Leaving("a1", "web"))), StatusCode::kFailedPrecondition);
  ASSERT_TRUE(journal_->PutComponent(Running("web", 4)).ok());
  EXPECT_EQ(CodeOf(journal_->Begin(Leaving("a1", "web", 3))), StatusCode::kFailedPrecondition);
  ComponentRow ended = Running("web", 4);
  ended.state = v1::EXITED;
  ASSERT_TRUE(journal_->PutComponent(ended).ok());
  EXPECT_EQ(CodeOf(journal_->Begin(Leaving("a1", "web", 4))), StatusCode::kFailedPrecondition);
}

TEST_F(JournalTest, BeginsNoArrivalBesideALivingOrNewerCopy) {
  ASSERT_TRUE(journal_->PutComponent(Running("web", 4)).ok());
  for (const auto state : {v1::RUNNING, v1::MIGRATING, v1::HELD, v1::IN_DOUBT}) {
    ComponentRow row = Running("web", 4);
    row.state = state;
    ASSERT_TRUE(journal_->PutComponent(row).ok());
    EXPECT_EQ(CodeOf(journal_->Begin(Arriving("b1", "web", 9))), StatusCode::kFailedPrecondition);
  }
  ComponentRow left = Running("web", 4);
  left.state = v1::LEFT;
  ASSERT_TRUE(journal_->PutComponent(left).ok());
  EXPECT_EQ(CodeOf(journal_->Begin(Arriving("b1", "web", 3))), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(journal_->Begin(Arriving("b1", "web", 4)).ok());
  // And while one arrives, none is started under its name.
  EXPECT_EQ(CodeOf(journal_->PutComponent(Running("web", 9))), StatusCode::kFailedPrecondition);
}

TEST_F(JournalTest, BeginsNothingUnderAKnownOrImpossibleId) {
  ASSERT_TRUE(journal_->Begin(Arriving("b1", "web")).ok());
  EXPECT_EQ(CodeOf(journal_->Begin(Arriving("b1", "api"))), StatusCode::kAlreadyExists);
  for (const char* id : {"", "../x", "A1", "id with spaces"}) {
    EXPECT_EQ(CodeOf(journal_->Begin(Arriving(id, "api"))), StatusCode::kInvalidArgument) << id;
  }
  MigrationRow late = Arriving("b2", "api");
  late.state = S::kPrepared;
  EXPECT_EQ(CodeOf(journal_->Begin(late)), StatusCode::kInvalidArgument);
  MigrationRow other = Arriving("b2", "api");
  other.spec = Spec("web");
  EXPECT_EQ(CodeOf(journal_->Begin(other)), StatusCode::kInvalidArgument);
}

TEST_F(JournalTest, AdvancesByCompareAndSet) {
  LeaveUpTo(S::kPreCopy);
  const absl::Status stale = journal_->Advance("a1", S::kReserving, S::kPreCopy);
  EXPECT_EQ(stale.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(stale.message()), HasSubstr("is precopy"));
  EXPECT_EQ(CodeOf(journal_->Advance("zz", S::kReserving, S::kPreCopy)), StatusCode::kNotFound);
  EXPECT_TRUE(journal_->Advance("a1", S::kPreCopy, S::kFrozen).ok());
  Reopen();
  EXPECT_EQ(journal_->GetMigration("a1")->state, S::kFrozen);
}

TEST_F(JournalTest, AdvancesOnlyToTheNextState) {
  const S all[] = {S::kReserving, S::kPreCopy,   S::kFrozen, S::kCaptured,
                   S::kPrepared,  S::kAsked,     S::kLeft,   S::kCalledOff,
                   S::kPending,   S::kCommitted, S::kAborted};
  const std::map<S, S> next = {{S::kReserving, S::kPreCopy},
                               {S::kPreCopy, S::kFrozen},
                               {S::kFrozen, S::kCaptured},
                               {S::kCaptured, S::kPrepared},
                               {S::kPrepared, S::kAsked}};
  LeaveUpTo(S::kReserving);
  for (S at = S::kReserving;;) {
    const auto follower = next.find(at);
    for (const S to : all) {
      if (follower != next.end() && to == follower->second) continue;
      EXPECT_EQ(CodeOf(journal_->Advance("a1", at, to)), StatusCode::kFailedPrecondition)
          << Name(at) << " to " << Name(to);
    }
    if (follower == next.end()) break;
    ASSERT_TRUE(journal_->Advance("a1", at, follower->second).ok());
    at = follower->second;
  }
  // A target's verdict is not reached by Advance either.
  ASSERT_TRUE(journal_->Begin(Arriving("b1", "api")).ok());
  ASSERT_TRUE(journal_->Advance("b1", S::kPending, S::kPrepared).ok());
  EXPECT_FALSE(journal_->Advance("b1", S::kPrepared, S::kCommitted).ok());
  EXPECT_FALSE(journal_->Advance("b1", S::kPrepared, S::kAborted).ok());
  EXPECT_FALSE(journal_->Advance("b1", S::kPrepared, S::kAsked).ok());
}

TEST_F(JournalTest, SettlesOnlyWhatIsFinal) {
  LeaveUpTo(S::kPreCopy);
  EXPECT_EQ(CodeOf(journal_->Settle("a1")), StatusCode::kFailedPrecondition);
  EXPECT_EQ(CodeOf(journal_->Settle("zz")), StatusCode::kNotFound);
  EXPECT_EQ(CodeOf(journal_->ForgetComponent("web")), StatusCode::kFailedPrecondition);
  ASSERT_TRUE(journal_->SettleCalledOff("a1", "cancelled").ok());
  EXPECT_EQ(journal_->ListMigrations(true)->size(), 1u);
  EXPECT_TRUE(journal_->Settle("a1").ok());
  EXPECT_TRUE(journal_->Settle("a1").ok());
  EXPECT_THAT(*journal_->ListMigrations(true), IsEmpty());
  EXPECT_EQ(journal_->ListMigrations(false)->size(), 1u);
}

TEST_F(JournalTest, CommitMakesTheComponentRunHereInTheSameBreath) {
  ASSERT_TRUE(journal_->Begin(Arriving("b1", "web", 4)).ok());
  EXPECT_EQ(journal_->Commit("b1")->state, S::kPending);
  EXPECT_EQ(CodeOf(journal_->GetComponent("web").status()), StatusCode::kNotFound);
  EXPECT_EQ(journal_->Prepare("b1")->state, S::kPrepared);
  EXPECT_EQ(journal_->Prepare("b1")->state, S::kPrepared);
  auto verdict = journal_->Commit("b1");
  ASSERT_TRUE(verdict.ok()) << verdict.status();
  EXPECT_EQ(verdict->state, S::kCommitted);
  EXPECT_EQ(verdict->epoch, 5u);
  EXPECT_EQ(verdict->component, "web");
  Reopen();
  auto row = journal_->GetComponent("web");
  ASSERT_TRUE(row.ok());
  EXPECT_EQ(row->state, v1::RUNNING);
  EXPECT_EQ(row->epoch, 5u);
  EXPECT_EQ(row->spec.command(0), "/usr/bin/redis-server");
  // Asked again, it says the same; aborted after that, it stays.
  EXPECT_EQ(journal_->Commit("b1")->epoch, 5u);
  EXPECT_EQ(journal_->Abort("b1", "too late")->state, S::kCommitted);
  EXPECT_EQ(journal_->Verdict("b1")->state, S::kCommitted);
  EXPECT_EQ(journal_->GetComponent("web")->state, v1::RUNNING);
}

TEST_F(JournalTest, WhatWasPreparedInAnEarlierBootIsAborted) {
  ASSERT_TRUE(journal_->Begin(Arriving("b1", "web")).ok());
  ASSERT_TRUE(journal_->Prepare("b1").ok());
  Reopen(kOtherBoot);
  EXPECT_EQ(journal_->Verdict("b1")->state, S::kPrepared);
  auto verdict = journal_->Commit("b1");
  ASSERT_TRUE(verdict.ok());
  EXPECT_EQ(verdict->state, S::kAborted);
  EXPECT_THAT(verdict->reason, HasSubstr("rebooted"));
  EXPECT_EQ(CodeOf(journal_->GetComponent("web").status()), StatusCode::kNotFound);
}

TEST_F(JournalTest, AbortIsForEver) {
  ASSERT_TRUE(journal_->Begin(Arriving("b1", "web")).ok());
  ComponentRow arriving = Running("web");
  arriving.state = v1::ARRIVING;
  arriving.migration_id = "b1";
  ASSERT_TRUE(journal_->PutComponent(arriving).ok());
  ASSERT_TRUE(journal_->Prepare("b1").ok());
  auto verdict = journal_->Abort("b1", "the source called it off");
  ASSERT_TRUE(verdict.ok());
  EXPECT_EQ(verdict->state, S::kAborted);
  EXPECT_EQ(verdict->reason, "the source called it off");
  EXPECT_EQ(CodeOf(journal_->GetComponent("web").status()), StatusCode::kNotFound);
  Reopen();
  EXPECT_EQ(journal_->Prepare("b1")->state, S::kAborted);
  EXPECT_EQ(journal_->Commit("b1")->state, S::kAborted);
  EXPECT_EQ(journal_->Abort("b1", "again")->reason, "the source called it off");
  // The restored tree is still to be killed.
  EXPECT_FALSE(journal_->GetMigration("b1")->settled);
}

TEST_F(JournalTest, AnUnknownIdBecomesAborted) {
  EXPECT_EQ(CodeOf(journal_->Commit("c1").status()), StatusCode::kNotFound);
  EXPECT_EQ(CodeOf(journal_->Prepare("c1").status()), StatusCode::kNotFound);
  EXPECT_EQ(journal_->Abort("c1", "called off")->state, S::kAborted);
  EXPECT_EQ(journal_->Verdict("c2")->state, S::kAborted);
  EXPECT_EQ(CodeOf(journal_->Verdict("not an id").status()), StatusCode::kInvalidArgument);
  Reopen();
  for (const char* id : {"c1", "c2"}) {
    EXPECT_EQ(CodeOf(journal_->Begin(Arriving(id, "web"))), StatusCode::kAlreadyExists);
    EXPECT_EQ(journal_->Commit(id)->state, S::kAborted);
    EXPECT_TRUE(journal_->GetMigration(id)->settled);
  }
  EXPECT_TRUE(journal_->Begin(Arriving("c3", "web")).ok());
}

TEST_F(JournalTest, TheSourceGivesNoVerdict) {
  LeaveUpTo(S::kPrepared);
  EXPECT_EQ(CodeOf(journal_->Commit("a1").status()), StatusCode::kFailedPrecondition);
  EXPECT_EQ(CodeOf(journal_->Abort("a1", "").status()), StatusCode::kFailedPrecondition);
  EXPECT_EQ(CodeOf(journal_->Verdict("a1").status()), StatusCode::kFailedPrecondition);
}

TEST_F(JournalTest, LeftOnlyAfterAsking) {
  LeaveUpTo(S::kPrepared);
  EXPECT_EQ(CodeOf(journal_->SettleLeft("a1", "node2", 2)), StatusCode::kFailedPrecondition);
  ASSERT_TRUE(journal_->Advance("a1", S::kPrepared, S::kAsked).ok());
  EXPECT_EQ(CodeOf(journal_->SettleLeft("a1", "node2", 1)), StatusCode::kInvalidArgument);
  EXPECT_EQ(journal_->GetMigration("a1")->state, S::kAsked);
  ASSERT_TRUE(journal_->SettleLeft("a1", "node2", 2).ok());
  Reopen();
  EXPECT_EQ(journal_->GetMigration("a1")->state, S::kLeft);
  auto row = journal_->GetComponent("web");
  EXPECT_EQ(row->state, v1::LEFT);
  EXPECT_EQ(row->where, "node2");
  EXPECT_EQ(row->epoch, 2u);
  EXPECT_TRUE(journal_->SettleLeft("a1", "node2", 2).ok());
  EXPECT_EQ(CodeOf(journal_->SettleCalledOff("a1", "")), StatusCode::kFailedPrecondition);
  EXPECT_EQ(journal_->GetComponent("web")->state, v1::LEFT);
  // And it may come back.
  ASSERT_TRUE(journal_->Settle("a1").ok());
  EXPECT_TRUE(journal_->Begin(Arriving("b2", "web", 2)).ok());
}

TEST_F(JournalTest, CalledOffFromAnyStateButLeft) {
  for (const S state :
       {S::kReserving, S::kPreCopy, S::kFrozen, S::kCaptured, S::kPrepared, S::kAsked}) {
    SCOPED_TRACE(std::string(Name(state)));
    LeaveUpTo(state);
    ComponentRow held = Running("web");
    held.state = v1::HELD;
    held.migration_id = "a1";
    ASSERT_TRUE(journal_->PutComponent(held).ok());
    ASSERT_TRUE(journal_->SettleCalledOff("a1", "link cut").ok());
    EXPECT_TRUE(journal_->SettleCalledOff("a1", "another reason").ok());
    auto row = journal_->GetComponent("web");
    EXPECT_EQ(row->state, v1::RUNNING);
    EXPECT_EQ(row->epoch, 1u);
    EXPECT_EQ(row->migration_id, "");
    EXPECT_EQ(journal_->GetMigration("a1")->reason, "link cut");
    EXPECT_EQ(CodeOf(journal_->SettleLeft("a1", "node2", 2)), StatusCode::kFailedPrecondition);
    journal_.reset();
    ASSERT_TRUE(RemoveTree(scratch_.path()).ok());
    Reopen();
  }
}

TEST_F(JournalTest, CallingOffDoesNotRaiseTheDead) {
  LeaveUpTo(S::kPreCopy);
  ComponentRow ended = Running("web");
  ended.state = v1::EXITED;
  ended.exit_status = 3;
  ASSERT_TRUE(journal_->PutComponent(ended).ok());
  ASSERT_TRUE(journal_->SettleCalledOff("a1", "it exited").ok());
  EXPECT_EQ(journal_->GetComponent("web")->state, v1::EXITED);
  EXPECT_EQ(journal_->GetComponent("web")->exit_status, 3);
}

// Whatever order calls, crashes and reboots come in, a word once given never changes.
TEST(JournalProperty, CommittedAndAbortedNeverChange) {
  std::mt19937 random(20240607);
  const auto pick = [&](int n) { return static_cast<int>(random() % n); };
  int committed = 0, aborted = 0, reopened = 0;
  for (int round = 0; round < 40; ++round) {
    Scratch scratch(InMemory());
    std::unique_ptr<Journal> journal;
    const auto reopen = [&] {
      journal.reset();
      auto opened = Journal::Open(scratch / "journal.db", pick(4) == 0 ? kOtherBoot : kBoot);
      ASSERT_TRUE(opened.ok()) << opened.status();
      journal = *std::move(opened);
      ++reopened;
    };
    reopen();
    std::map<std::string, S> word;
    for (int step = 0; step < 60; ++step) {
      const std::string id = absl::StrCat("e", pick(4));
      const std::string name = pick(2) == 0 ? "web" : "api";
      absl::StatusOr<VerdictRow> verdict = absl::UnknownError("none");
      switch (pick(8)) {
        case 0:
        case 1:
          if (journal->Begin(Arriving(id, name)).ok()) {
            EXPECT_EQ(word.count(id), 0u) << id << " began again";
          }
          break;
        case 2:
        case 3:
          verdict = journal->Prepare(id);
          break;
        case 4:
          verdict = journal->Commit(id);
          break;
        case 5:
          verdict = journal->Abort(id, "for a reason");
          break;
        case 6:
          if (pick(3) == 0) verdict = journal->Verdict(id);
          journal->Settle(id).IgnoreError();
          if (pick(2) == 0) journal->ForgetComponent(name).IgnoreError();
          break;
        case 7:
          reopen();
          break;
      }
      if (verdict.ok() && (verdict->state == S::kCommitted || verdict->state == S::kAborted)) {
        word.emplace(id, verdict->state);
      }
      for (const auto& [known, state] : word) {
        auto row = journal->GetMigration(known);
        ASSERT_TRUE(row.ok()) << row.status();
        ASSERT_EQ(row->state, state) << known << " changed its word";
      }
    }
    for (const auto& [id, state] : word) ++(state == S::kCommitted ? committed : aborted);
  }
  // The walk did go where it matters.
  EXPECT_GT(committed, 10);
  EXPECT_GT(aborted, 10);
  EXPECT_GT(reopened, 100);
}

TEST(JournalCrash, WhatWasAnsweredSurvivesKill9) {
  Scratch scratch(InMemory());
  for (int round = 0; round < 5; ++round) {
    int fds[2];
    ASSERT_EQ(pipe(fds), 0);
    const pid_t child = fork();
    if (child == 0) {
      auto journal = Journal::Open(scratch / "journal.db", kBoot);
      if (!journal.ok()) _exit(1);
      for (int i = 0;; ++i) {
        const int number = round * 100000 + i;
        const std::string id = absl::StrCat(number);
        if (!(*journal)->Begin(Arriving(id, absl::StrCat("c", number))).ok()) _exit(2);
        if (!(*journal)->Prepare(id).ok() || !(*journal)->Commit(id).ok()) _exit(3);
        if (write(fds[1], &number, sizeof number) != sizeof number) _exit(4);
      }
    }
    close(fds[1]);
    int number = 0;
    for (int i = 0; i < 3 + round * 7; ++i) {
      ASSERT_EQ(read(fds[0], &number, sizeof number), static_cast<ssize_t>(sizeof number));
    }
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status));
    int last = number;
    while (read(fds[0], &number, sizeof number) == static_cast<ssize_t>(sizeof number)) {
      last = number;
    }
    close(fds[0]);
    auto journal = Journal::Open(scratch / "journal.db", kBoot);
    ASSERT_TRUE(journal.ok()) << journal.status();
    for (int i = round * 100000; i <= last; ++i) {
      EXPECT_EQ((*journal)->Verdict(absl::StrCat(i))->state, S::kCommitted);
      EXPECT_TRUE((*journal)->GetComponent(absl::StrCat("c", i)).ok());
    }
  }
}

TEST_F(JournalTest, EventsAreNumberedOnwards) {
  EXPECT_EQ(*journal_->AppendEvent("web", "started", "hello"), 1u);
  EXPECT_EQ(*journal_->AppendEvent("api", "started", "there"), 2u);
  Reopen();
  EXPECT_EQ(*journal_->AppendEvent("web", "exited", std::string(9000, 'x')), 3u);
  auto all = journal_->ReadEvents(0, "", 10);
  ASSERT_EQ(all->size(), 3u);
  EXPECT_EQ((*all)[0].kind, "started");
  EXPECT_EQ((*all)[0].text, "hello");
  EXPECT_GT((*all)[0].time, 1e9);
  EXPECT_EQ((*all)[2].text.size(), Journal::kMaxText);
  auto web = journal_->ReadEvents(1, "web", 10);
  ASSERT_EQ(web->size(), 1u);
  EXPECT_EQ((*web)[0].number, 3u);
  EXPECT_EQ(journal_->ReadEvents(0, "", 2)->back().number, 2u);
  EXPECT_THAT(*journal_->ReadEvents(~uint64_t{0}, "", 10), IsEmpty());
  EXPECT_THAT(*journal_->ReadEvents(0, "", -1), IsEmpty());
}

TEST_F(JournalTest, EventsAreBounded) {
  const uint64_t extra = 25;
  for (uint64_t i = 0; i < Journal::kMaxEvents + extra; ++i) {
    ASSERT_TRUE(journal_->AppendEvent("web", "tick", "").ok());
  }
  auto all = journal_->ReadEvents(0, "", 1 << 30);
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->size(), Journal::kMaxEvents);
  EXPECT_EQ(all->front().number, extra + 1);
  EXPECT_EQ(all->back().number, Journal::kMaxEvents + extra);
}

TEST_F(JournalTest, AWaiterIsWokenByTheEvent) {
  ASSERT_TRUE(journal_->AppendEvent("web", "started", "").ok());
  EXPECT_TRUE(journal_->WaitForEvent(0, Deadline::After(std::chrono::seconds(0))));
  EXPECT_FALSE(journal_->WaitForEvent(1, Deadline::After(std::chrono::milliseconds(2))));
  std::thread writer([&] { ASSERT_TRUE(journal_->AppendEvent("web", "exited", "").ok()); });
  EXPECT_TRUE(journal_->WaitForEvent(1, Deadline::After(std::chrono::seconds(60))));
  writer.join();
  Reopen();
  EXPECT_TRUE(journal_->WaitForEvent(1, Deadline::After(std::chrono::seconds(0))));
}

}  // namespace
}  // namespace starling
