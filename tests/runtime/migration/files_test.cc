#include "runtime/migration/files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "base/file.h"
#include "base/status.h"
#include "tests/runtime/scratch.h"

namespace starling::migration {
namespace {

// Two hosts of one machine: what the source ships from one folder lands in another.
class FilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* host : {"here", "there"}) {
      ASSERT_EQ(::mkdir((scratch_ / host).c_str(), 0755), 0);
    }
    ASSERT_EQ(::mkdir((scratch_ / "here/data").c_str(), 0750), 0);
    Put("here/data/file", "content");
    Put("here/single", "alone");
    for (v1::ComponentSpec* spec : {&here_, &there_}) {
      spec->set_name("db");
      const std::string host = spec == &here_ ? "here" : "there";
      spec->add_ship(scratch_ / (host + "/data"));
      spec->add_ship(scratch_ / (host + "/single"));
    }
    receiver_ = std::make_unique<FileReceiver>(there_);
    Begin();
  }

  void Begin() {
    sender_ = FileSender::Create(
                  "7f3a", here_, "/nonexistent",
                  [this](bool, const std::function<absl::Status(const FileSender::Write&)>& send)
                      -> absl::Status {
                    absl::Status taken;
                    RETURN_IF_ERROR(send([&](v1::FilePiece piece) {
                      EXPECT_EQ(piece.migration_id(), "7f3a");
                      if (spoil_) spoil_(piece);
                      taken = receiver_->Take(piece);
                      return taken.ok();
                    }));
                    return receiver_->Sync();
                  },
                  [this] { return wanted_; })
                  .value();
  }

  void Put(const std::string& path, const std::string& content) {
    std::ofstream(scratch_ / path, std::ios::binary) << content;
  }
  std::string Content(const std::string& path) {
    return ReadFile(scratch_ / path).value_or("none");
  }
  size_t FilesThere() {
    size_t files = 0;
    for (const auto& item : std::filesystem::directory_iterator(scratch_ / "there")) {
      files += !item.path().empty();
    }
    return files;
  }

  Scratch scratch_{"/var/tmp"};
  v1::ComponentSpec here_;
  v1::ComponentSpec there_;
  absl::Status wanted_;
  std::function<void(v1::FilePiece&)> spoil_;
  std::unique_ptr<FileReceiver> receiver_;
  std::unique_ptr<FileSender> sender_;
};

TEST_F(FilesTest, ArriveInRoundsAndArePutInPlace) {
  ASSERT_TRUE(sender_->Round(false).ok());
  const uint64_t first = sender_->bytes_sent();
  EXPECT_EQ(first, std::string("contentalone").size());
  EXPECT_EQ(Content("there/data/file"), "none") << "nothing is in place before it is whole";
  EXPECT_FALSE(receiver_->Put().ok());

  receiver_ = std::make_unique<FileReceiver>(there_);
  ASSERT_TRUE(TakeBack(there_).ok());
  Begin();
  ASSERT_TRUE(sender_->Round(false).ok());
  Put("here/data/new", "later");
  ASSERT_TRUE(sender_->Round(true).ok());
  ASSERT_TRUE(receiver_->Put().ok());
  EXPECT_EQ(Content("there/data/file"), "content");
  EXPECT_EQ(Content("there/data/new"), "later");
  EXPECT_EQ(Content("there/single"), "alone");
  struct stat info;
  ASSERT_EQ(::stat((scratch_ / "there/data").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0750u);
  ASSERT_TRUE(Keep(there_).ok());
  EXPECT_EQ(FilesThere(), 2u);
  ASSERT_TRUE(SetAside(here_).ok());
  EXPECT_EQ(Content("here/data/file"), "none");
  EXPECT_EQ(Content("here/.starling.db.data.left/file"), "content");
}

TEST_F(FilesTest, CalledOffLeaveNothing) {
  ASSERT_TRUE(sender_->Round(true).ok());
  ASSERT_TRUE(receiver_->Put().ok());
  EXPECT_EQ(Content("there/single"), "alone");
  receiver_->Close();
  ASSERT_TRUE(TakeBack(there_).ok());
  EXPECT_EQ(FilesThere(), 0u);
  EXPECT_TRUE(absl::IsFailedPrecondition(receiver_->Take({})));
}

TEST_F(FilesTest, DamageOnTheWayIsFound) {
  spoil_ = [](v1::FilePiece& piece) {
    if (piece.has_block()) piece.mutable_block()->set_data("c0ntent");
  };
  EXPECT_FALSE(sender_->Round(true).ok());
  EXPECT_FALSE(receiver_->Put().ok());
  // So is a block that is missing.
  ASSERT_TRUE(TakeBack(there_).ok());
  receiver_ = std::make_unique<FileReceiver>(there_);
  Begin();
  spoil_ = [](v1::FilePiece& piece) {
    if (piece.has_block()) piece.clear_block();
  };
  EXPECT_FALSE(sender_->Round(true).ok());
}

TEST_F(FilesTest, NobodyWritesElsewhere) {
  v1::FilePiece piece;
  piece.set_tree(2);
  EXPECT_TRUE(absl::IsInvalidArgument(receiver_->Take(piece)));
  piece.set_tree(0);
  piece.mutable_block()->set_path("../../x");
  piece.mutable_block()->set_data("x");
  EXPECT_TRUE(absl::IsDataLoss(receiver_->Take(piece)));
  piece.set_entry("no entry");
  EXPECT_TRUE(absl::IsDataLoss(receiver_->Take(piece)));
}

TEST_F(FilesTest, ARoundCanBeCancelled) {
  wanted_ = absl::CancelledError("by a person");
  const absl::Status round = sender_->Round(false);
  EXPECT_TRUE(absl::IsCancelled(round)) << round;
}

}  // namespace
}  // namespace starling::migration
