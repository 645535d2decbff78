#include "runtime/preflight/storage_token.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "runtime/preflight/host_facts.h"
#include "runtime/preflight/target_check.h"

namespace starling::preflight {
namespace {

namespace fs = std::filesystem;

class StorageTokenTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/starling-token-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    fs::create_directory(folder_ + "/shared");
    request_.mutable_spec()->add_shared(folder_ + "/shared/");
  }
  void TearDown() override { fs::remove_all(folder_); }

  size_t FilesInShared() const {
    size_t count = 0;
    for (const auto& entry : fs::directory_iterator(folder_ + "/shared")) {
      (void)entry;
      ++count;
    }
    return count;
  }

  // Codes about shared paths that this host, as the target, answers.
  std::vector<std::string> Answer() const {
    std::vector<std::string> codes;
    for (const auto& o : CheckTarget(request_, GatherHost(request_, {}))) {
      if (o.code().rfind("shared", 0) == 0) codes.push_back(o.code());
    }
    return codes;
  }

  std::string folder_;
  v1::ExamineRequest request_;
  std::vector<v1::Obstacle> obstacles_;
};

TEST_F(StorageTokenTest, TheSameStorageIsRecognisedAndLeftClean) {
  {
    const StorageTokens tokens = StorageTokens::Write("", "a", &request_, &obstacles_);
    ASSERT_EQ(request_.files_size(), 1);
    EXPECT_TRUE(IsStorageToken(request_.files(0).path()));
    EXPECT_EQ(StorageTokenFolder(request_.files(0).path()), folder_ + "/shared");
    EXPECT_EQ(FilesInShared(), 1u);
    EXPECT_THAT(Answer(), testing::IsEmpty());
  }
  EXPECT_TRUE(obstacles_.empty());
  EXPECT_EQ(FilesInShared(), 0u);
}

TEST_F(StorageTokenTest, OtherStorageIsNot) {
  const StorageTokens tokens = StorageTokens::Write("", "a", &request_, &obstacles_);
  // What another host would see behind the same path.
  fs::rename(folder_ + "/shared", folder_ + "/elsewhere");
  fs::create_directory(folder_ + "/shared");
  EXPECT_THAT(Answer(), testing::ElementsAre("shared-path-other-storage"));
  // The same name with another content.
  std::ofstream(request_.files(0).path()) << "guessed";
  EXPECT_THAT(Answer(), testing::ElementsAre("shared-path-other-storage"));
  // Gone altogether.
  fs::remove_all(folder_ + "/shared");
  EXPECT_THAT(Answer(), testing::ElementsAre("shared-path-missing"));
  fs::rename(folder_ + "/elsewhere", folder_ + "/shared");
}

TEST_F(StorageTokenTest, AMissingPathIsNamed) {
  request_.mutable_spec()->add_shared(folder_ + "/nowhere");
  const StorageTokens tokens = StorageTokens::Write("", "a", &request_, &obstacles_);
  ASSERT_EQ(obstacles_.size(), 1u);
  EXPECT_EQ(obstacles_[0].code(), "shared-path-missing");
  EXPECT_EQ(obstacles_[0].thing(), folder_ + "/nowhere");
  EXPECT_EQ(request_.files_size(), 1);
}

TEST_F(StorageTokenTest, APlainFileGetsNoToken) {
  std::ofstream(folder_ + "/file") << "x";
  request_.mutable_spec()->set_shared(0, folder_ + "/file");
  const StorageTokens tokens = StorageTokens::Write("", "a", &request_, &obstacles_);
  EXPECT_EQ(request_.files_size(), 0);
  EXPECT_TRUE(obstacles_.empty());
}

TEST_F(StorageTokenTest, UnwritableStorageIsAnObstacle) {
  // procfs takes no new files, not even from root.
  request_.mutable_spec()->set_shared(0, "/proc/self");
  const StorageTokens tokens = StorageTokens::Write("", "a", &request_, &obstacles_);
  ASSERT_EQ(obstacles_.size(), 1u);
  EXPECT_EQ(obstacles_[0].code(), "shared-path-unwritable");
}

TEST_F(StorageTokenTest, MovingHandsTheFilesOver) {
  StorageTokens kept;
  {
    StorageTokens tokens = StorageTokens::Write("", "a", &request_, &obstacles_);
    kept = std::move(tokens);
  }
  EXPECT_EQ(FilesInShared(), 1u);
  kept = StorageTokens();
  EXPECT_EQ(FilesInShared(), 0u);
}

}  // namespace
}  // namespace starling::preflight
