#include "runtime/reservations/reservations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "runtime/sqlite.h"
#include "tests/runtime/scratch.h"

namespace starling::reservations {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;

Amounts Cpu(int64_t processors) {
  Amounts amounts;
  amounts[Resource::kCpu] = processors;
  return amounts;
}

Ask AskFor(const std::string& id, int64_t cpu, Kind kind = Kind::kFirm) {
  return {id, "node1", "redis", 0, kind, false, Cpu(cpu), seconds(30)};
}

class ReservationsTest : public testing::Test {
 protected:
  std::unique_ptr<Reservations> Open(const std::string& boot = "b") {
    auto all = Reservations::Open(scratch_.path(), boot, Cpu(10), now_);
    EXPECT_TRUE(all.ok()) << all.status();
    return all.ok() ? std::move(*all) : nullptr;
  }
  Scratch scratch_{InMemory()};
  TimePoint now_{seconds(1000)};
};

TEST_F(ReservationsTest, OutliveTheirAgentUntilTheyEnd) {
  {
    auto all = Open();
    ASSERT_TRUE(all->Grant(now_, AskFor("1", 4)).ok());
    ASSERT_TRUE(all->Grant(now_, AskFor("2", 3, Kind::kSoft)).ok());
    ASSERT_TRUE(all->Pin(now_, "1", "node1", "here").ok());
  }
  now_ += seconds(29);
  {
    auto all = Open();
    EXPECT_EQ(all->firm(), Cpu(4));
    EXPECT_EQ(all->soft(), Cpu(3));
    EXPECT_EQ(all->free(), Cpu(3));
  }
  now_ += seconds(1);
  auto all = Open();
  EXPECT_EQ(all->firm(), Cpu(4));  // runs here
  EXPECT_EQ(all->soft(), Cpu(0));  // ended while nobody was there
  ASSERT_TRUE(all->KeepPinned(now_, {"other"}).ok());
  EXPECT_EQ(all->free(), Cpu(10));
}

TEST_F(ReservationsTest, EndWithTheBoot) {
  { ASSERT_TRUE(Open("one")->Grant(now_, AskFor("1", 4)).ok()); }
  EXPECT_TRUE(Open("two")->List().empty());
  EXPECT_TRUE(Open("one")->List().empty());  // its file is gone
}

TEST_F(ReservationsTest, AnswersAreWrittenDownBeforeTheyAreGiven) {
  int answers[2];
  ASSERT_EQ(pipe(answers), 0);
  const pid_t child = fork();
  if (child == 0) {
    auto all = Reservations::Open(scratch_.path(), "b", Cpu(1000000), now_);
    for (int i = 0;; ++i) {
      if (!(*all)->Grant(now_, AskFor(absl::StrCat(i), 1)).ok()) _exit(1);
      if (write(answers[1], "+", 1) != 1) _exit(1);
    }
  }
  close(answers[1]);
  size_t answered = 0;
  char byte;
  while (answered < 300 && read(answers[0], &byte, 1) == 1) ++answered;
  kill(child, SIGKILL);
  while (read(answers[0], &byte, 1) == 1) ++answered;
  close(answers[0]);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  auto all = Reservations::Open(scratch_.path(), "b", Cpu(1000000), now_);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_GE((*all)->List().size(), answered);
  EXPECT_LE((*all)->List().size(), answered + 1);  // the last may not have been answered yet
}

TEST_F(ReservationsTest, WhatCannotBeWrittenDownIsNotPromised) {
  auto all = Open();
  ASSERT_TRUE(all->Grant(now_, AskFor("soft", 10, Kind::kSoft)).ok());
  // From outside, so that writing fails in the middle of a change.
  const std::string path = scratch_ / "leases-b.db";
  all.reset();
  {
    auto db = Sqlite::Open(path, SQLITE_OPEN_READWRITE);
    ASSERT_TRUE(db.ok());
    ASSERT_TRUE((*db)
                    ->Execute("CREATE TRIGGER full BEFORE INSERT ON leases WHEN new.id = 'x' "
                              "BEGIN SELECT RAISE(ABORT, 'no room on the device'); END")
                    .ok());
  }
  all = Open();
  Ask ask = AskFor("x", 10);
  ask.priority = 5;
  EXPECT_THAT(std::string(all->Grant(now_, ask).status().message()),
              HasSubstr("could not be written down"));
  EXPECT_EQ(all->soft(), Cpu(10));  // nobody yielded for it
  EXPECT_EQ(all->Check(now_), "");
}

TEST_F(ReservationsTest, OneAgentAtATime) {
  auto all = Open();
  EXPECT_EQ(Reservations::Open(scratch_.path(), "b", Cpu(10), now_).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(all->Grant(now_, AskFor("1", 1)).ok());
}

TEST_F(ReservationsTest, RefusesADamagedFile) {
  { ASSERT_TRUE(Open()->Grant(now_, AskFor("1", 4)).ok()); }
  for (const char* suffix : {"-wal", "-shm"}) {
    std::filesystem::remove(scratch_ / absl::StrCat("leases-b.db", suffix));
  }
  { std::ofstream(scratch_ / "leases-b.db") << std::string(8192, 'x'); }
  const absl::Status status = Reservations::Open(scratch_.path(), "b", Cpu(10), now_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("remove the file"));
}

TEST_F(ReservationsTest, CountsAndTellsWhatHappened) {
  auto all = Open();
  ASSERT_TRUE(all->Grant(now_, AskFor("1", 10, Kind::kSoft)).ok());
  Ask high = AskFor("2", 5);
  high.priority = 1;
  ASSERT_TRUE(all->Grant(now_, high).ok());
  ASSERT_FALSE(all->Grant(now_, AskFor("3", 6)).ok());
  now_ += seconds(31);
  ASSERT_TRUE(all->Expire(now_).ok());
  const auto counters = all->counters();
  EXPECT_EQ(counters.granted, 2u);
  EXPECT_EQ(counters.refused, 1u);
  EXPECT_EQ(counters.withdrawn, 1u);
  EXPECT_EQ(counters.expired, 1u);
  std::vector<std::string> seen;
  for (const Change& change : all->TakeNotices()) {
    seen.push_back(absl::StrCat(Name(change.what), " ", change.lease().id));
  }
  EXPECT_THAT(seen, testing::ElementsAre("granted 1", "withdrawn 1", "granted 2", "expired 2"));
  EXPECT_TRUE(all->TakeNotices().empty());
}

}  // namespace
}  // namespace starling::reservations
