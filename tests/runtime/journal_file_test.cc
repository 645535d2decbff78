#include "runtime/journal_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/journal.h"
#include "tests/runtime/scratch.h"

namespace starling {
namespace {

using absl::StatusCode;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr char kBoot[] = "11111111-1111-1111-1111-111111111111";

class JournalFileTest : public testing::Test {
 protected:
  JournalFileTest() : path_(scratch_ / "state/journal.db") {}

  absl::Status Open() { return Journal::Open(path_, kBoot).status(); }

  // A journal with something of everything in it, closed again.
  void Fill() {
    auto journal = Journal::Open(path_, kBoot);
    ASSERT_TRUE(journal.ok()) << journal.status();
    for (int i = 0; i < 50; ++i) {
      ComponentRow row;
      row.spec.set_name(absl::StrCat("web", i));
      row.spec.add_command(std::string(200, 'x'));
      row.state = v1::RUNNING;
      ASSERT_TRUE((*journal)->PutComponent(row).ok());
      MigrationRow migration;
      migration.id = absl::StrCat("a", i);
      migration.component = row.spec.name();
      migration.epoch = 1;
      ASSERT_TRUE((*journal)->Begin(migration).ok());
      ASSERT_TRUE((*journal)->AppendEvent(row.spec.name(), "started", "").ok());
    }
  }

  // What any program with access to the file could do to it.
  void Tamper(const std::string& sql) {
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(path_.c_str(), &db), SQLITE_OK);
    char* error = nullptr;
    ASSERT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, &error), SQLITE_OK) << error;
    sqlite3_close(db);
  }

  // The error is clear, and neither file nor folder was touched.
  void ExpectRefused(StatusCode code, const std::string& words) {
    const std::string before = *ReadFile(path_);
    const absl::Status status = Open();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(path_), HasSubstr(words), Not(HasSubstr("\n"))));
    EXPECT_EQ(*ReadFile(path_), before);
  }

  Scratch scratch_{InMemory()};
  const std::string path_;
};

TEST_F(JournalFileTest, IsMadeForItsOwnerOnly) {
  ASSERT_TRUE(Open().ok());
  struct stat st = {};
  ASSERT_EQ(stat(path_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  ASSERT_EQ(stat((scratch_ / "state").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0700u);
}

TEST_F(JournalFileTest, ASecondAgentIsKeptOut) {
  auto first = Journal::Open(path_, kBoot);
  ASSERT_TRUE(first.ok());
  const absl::Status second = Open();
  EXPECT_EQ(second.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.message()), HasSubstr("another process has the journal open"));
  const pid_t child = fork();
  if (child == 0) _exit(Open().code() == StatusCode::kFailedPrecondition ? 0 : 1);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  first->reset();
  EXPECT_TRUE(Open().ok());
}

TEST_F(JournalFileTest, AShellOnTheFileKeepsTheAgentOutToo) {
  Fill();
  sqlite3* other = nullptr;
  ASSERT_EQ(sqlite3_open(path_.c_str(), &other), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(other, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr), SQLITE_OK);
  EXPECT_EQ(Open().code(), StatusCode::kFailedPrecondition);
  sqlite3_close(other);
  EXPECT_TRUE(Open().ok());
}

TEST_F(JournalFileTest, RefusesATruncatedFile) {
  Fill();
  const off_t size = ReadFile(path_)->size();
  ASSERT_GT(size, 3 * 4096);
  for (const off_t left :
       {off_t{0}, off_t{7}, off_t{100}, off_t{4096}, size / 2, size - 4096, size - 1}) {
    SCOPED_TRACE(left);
    const std::string whole = *ReadFile(path_);
    ASSERT_EQ(truncate(path_.c_str(), left), 0);
    ExpectRefused(StatusCode::kDataLoss, "move it and");
    ASSERT_TRUE(WriteFileAtomic(path_, whole).ok());
  }
  EXPECT_TRUE(Open().ok());
}

TEST_F(JournalFileTest, RefusesRandomBytes) {
  std::mt19937 random(7);
  ASSERT_TRUE(MakeDirectories(scratch_ / "state").ok());
  for (const size_t size : {1, 15, 16, 100, 4096, 70000}) {
    std::string bytes(size, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    ASSERT_TRUE(WriteFileAtomic(path_, bytes).ok());
    ExpectRefused(StatusCode::kDataLoss, "is not a sound journal");
    // A database's beginning, and nothing behind it that makes sense.
    if (size > 16) {
      bytes.replace(0, 16, std::string("SQLite format 3\0", 16));
      ASSERT_TRUE(WriteFileAtomic(path_, bytes).ok());
      ExpectRefused(StatusCode::kDataLoss, "is not a sound journal");
    }
  }
}

// Any byte may be wrong: either it is noticed, or it lies where nothing of meaning is. Never a
// crash.
TEST_F(JournalFileTest, SurvivesAlteredBytes) {
  Fill();
  const std::string whole = *ReadFile(path_);
  std::mt19937 random(11);
  int refused = 0;
  for (int round = 0; round < 200; ++round) {
    std::string bytes = whole;
    const int changes = 1 + random() % 20;
    for (int i = 0; i < changes; ++i) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    ASSERT_TRUE(WriteFileAtomic(path_, bytes).ok());
    auto journal = Journal::Open(path_, kBoot);
    if (!journal.ok()) {
      ++refused;
      EXPECT_NE(journal.status().code(), StatusCode::kInternal) << journal.status();
      EXPECT_EQ(*ReadFile(path_), bytes);
      continue;
    }
    (*journal)->ListComponents().status().IgnoreError();
    (*journal)->Advance("a7", MigrationState::kReserving, MigrationState::kPreCopy).IgnoreError();
  }
  EXPECT_GT(refused, 50);
}

// SQLite's own words for it have a line break in them, and an error is one line.
TEST_F(JournalFileTest, RefusesAnOverwrittenPageInOneLine) {
  Fill();
  std::string bytes = *ReadFile(path_);
  bytes.replace(4096, 3000, 3000, '\xff');
  ASSERT_TRUE(WriteFileAtomic(path_, bytes).ok());
  ExpectRefused(StatusCode::kDataLoss, "Page 2");
}

TEST_F(JournalFileTest, RefusesADatabaseOfAnotherProgram) {
  ASSERT_TRUE(MakeDirectories(scratch_ / "state").ok());
  Tamper("CREATE TABLE mail (subject TEXT)");
  ExpectRefused(StatusCode::kDataLoss, "database of another program");
}

TEST_F(JournalFileTest, RefusesAnotherSchemaVersion) {
  Fill();
  Tamper("PRAGMA user_version = 2");
  ExpectRefused(StatusCode::kFailedPrecondition, "schema 2");
}

TEST_F(JournalFileTest, RefusesTablesThatAreNotOurs) {
  const char* const changes[] = {
      "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM components; END",
      "CREATE VIEW v AS SELECT * FROM events",
      "ALTER TABLE components ADD COLUMN more TEXT",
      "DROP INDEX unsettled",
      "DROP TABLE events",
  };
  for (const char* change : changes) {
    SCOPED_TRACE(change);
    Fill();
    Tamper(change);
    ExpectRefused(StatusCode::kDataLoss, "tables are not those of a journal");
    ASSERT_TRUE(RemoveTree(scratch_ / "state").ok());
  }
}

TEST_F(JournalFileTest, RefusesRowsThatNoJournalWrites) {
  const char* const changes[] = {
      "UPDATE components SET state = 'FLYING' WHERE name = 'web3'",
      "UPDATE components SET name = '../web3' WHERE name = 'web3'",
      "UPDATE components SET spec = x'ff' WHERE name = 'web3'",
      "UPDATE components SET spec = (SELECT spec FROM components WHERE name = 'web4') "
      "WHERE name = 'web3'",
      "UPDATE migrations SET state = 'committed' WHERE id = 'a3'",
      "UPDATE migrations SET state = 'gone' WHERE id = 'a3'",
      "UPDATE migrations SET role = 'thief' WHERE id = 'a3'",
      "UPDATE migrations SET settled = 1 WHERE id = 'a3'",
      "UPDATE migrations SET component = '' WHERE id = 'a3'",
  };
  for (const char* change : changes) {
    SCOPED_TRACE(change);
    Fill();
    Tamper(change);
    ExpectRefused(StatusCode::kDataLoss, "makes no sense");
    ASSERT_TRUE(RemoveTree(scratch_ / "state").ok());
  }
}

TEST_F(JournalFileTest, RefusesWhatIsNotAPlainFile) {
  ASSERT_TRUE(MakeDirectories(path_).ok());
  EXPECT_EQ(Open().code(), StatusCode::kDataLoss);
  ASSERT_TRUE(RemoveTree(path_).ok());
  ASSERT_EQ(symlink("/etc/passwd", path_.c_str()), 0);
  EXPECT_EQ(Open().code(), StatusCode::kDataLoss);
}

// Whether Open fails with kPermissionDenied for a user whom the file mode binds.
bool DeniedToNobody(const std::string& path) {
  const pid_t child = fork();
  if (child == 0) {
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(3);
    const absl::Status status = Journal::Open(path, kBoot).status();
    const bool words = absl::StrContains(status.message(), "writable state_dir");
    if (!words || status.code() != StatusCode::kPermissionDenied) {
      fprintf(stderr, "%s\n", status.ToString().c_str());
      _exit(1);
    }
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status == 0;
}

TEST_F(JournalFileTest, SaysWhenItCannotWrite) {
  ASSERT_EQ(chmod(scratch_.path().c_str(), 0755), 0);
  ASSERT_TRUE(MakeDirectories(scratch_ / "state").ok());
  ASSERT_EQ(chmod((scratch_ / "state").c_str(), 0555), 0);
  EXPECT_TRUE(DeniedToNobody(path_)) << "a folder that cannot be written";
  ASSERT_EQ(chmod((scratch_ / "state").c_str(), 0755), 0);
  Fill();
  ASSERT_EQ(chmod(path_.c_str(), 0444), 0);
  ASSERT_EQ(chmod((scratch_ / "state").c_str(), 0555), 0);
  EXPECT_TRUE(DeniedToNobody(path_)) << "a file that cannot be written";
  ASSERT_EQ(chmod((scratch_ / "state").c_str(), 0755), 0);
}

TEST_F(JournalFileTest, AHalfMadeOneIsMadeAnew) {
  ASSERT_TRUE(MakeDirectories(scratch_ / "state").ok());
  ASSERT_TRUE(WriteFileAtomic(path_ + ".new", "half a journal").ok());
  EXPECT_TRUE(Open().ok());
}

}  // namespace
}  // namespace starling
