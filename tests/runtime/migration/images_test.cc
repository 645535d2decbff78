#include "runtime/migration/images.h"

#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/file.h"

namespace starling::migration {
namespace {

class ImagesTest : public testing::Test {
 protected:
  ImagesTest() : folder_(absl::StrCat(testing::TempDir(), "/starling_images_", getpid())) {
    EXPECT_TRUE(MakeDirectories(folder_).ok());
  }
  ~ImagesTest() override { (void)RemoveTree(folder_); }

  static v1::ImagePiece Piece(const std::string& file, const std::string& data, bool last,
                              const std::string& whole) {
    v1::ImagePiece piece;
    piece.set_file(file);
    piece.set_data(data);
    piece.set_last(last);
    if (last) piece.set_hash(XXH3_64bits(whole.data(), whole.size()));
    return piece;
  }

  std::string folder_;
};

TEST_F(ImagesTest, PutsPiecesTogether) {
  ImageReceiver receiver(folder_);
  ASSERT_TRUE(receiver.Take(Piece("core-1.img", "abc", false, "")).ok());
  EXPECT_FALSE(receiver.Finish().ok());
  ASSERT_TRUE(receiver.Take(Piece("core-1.img", "def", true, "abcdef")).ok());
  EXPECT_TRUE(receiver.Finish().ok());
  EXPECT_EQ(receiver.bytes(), 6u);
  EXPECT_EQ(*ReadFile(folder_ + "/core-1.img"), "abcdef");
}

TEST_F(ImagesTest, RefusesDamage) {
  ImageReceiver receiver(folder_);
  EXPECT_EQ(receiver.Take(Piece("core-1.img", "abc", true, "abd")).code(),
            absl::StatusCode::kDataLoss);
  EXPECT_FALSE(ReadFile(folder_ + "/core-1.img").ok());
}

TEST_F(ImagesTest, RefusesNamesThatLeaveTheFolder) {
  ImageReceiver receiver(folder_);
  for (const char* name :
       {"", "../x.img", "/etc/passwd.img", ".x.img", "a/b.img", "noimage", "pages-1.img"}) {
    EXPECT_EQ(receiver.Take(Piece(name, "x", true, "x")).code(), absl::StatusCode::kInvalidArgument)
        << name;
  }
}

TEST(SkeletonImage, LeavesOutMemoryAndLogs) {
  EXPECT_TRUE(IsSkeletonImage("core-1001.img"));
  EXPECT_TRUE(IsSkeletonImage("mm-1001.img"));
  EXPECT_FALSE(IsSkeletonImage("pages-1.img"));
  EXPECT_FALSE(IsSkeletonImage("pagemap-1001.img"));
  EXPECT_FALSE(IsSkeletonImage("pagemap-shmem-3.img"));
  EXPECT_FALSE(IsSkeletonImage("criu.log"));
  EXPECT_FALSE(IsSkeletonImage("stats-dump"));
}

TEST_F(ImagesTest, MountsItsOwnTmpfsOnceAndHidesNothing) {
  if (::geteuid() != 0) GTEST_SKIP() << "a mount namespace needs root";
  // What is mounted goes with the thread.
  std::thread([this] {
    ASSERT_EQ(::unshare(CLONE_NEWNS), 0);
    ASSERT_EQ(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    const auto mounts = [] {
      const std::string all = ReadFile("/proc/thread-self/mounts").value();
      return std::count(all.begin(), all.end(), '\n');
    };
    const auto before = mounts();
    ASSERT_TRUE(MakeDirectories(folder_ + "/used/images/m1.in").ok());
    EXPECT_TRUE(MountImages(folder_ + "/used").ok());
    EXPECT_EQ(mounts(), before);
    EXPECT_EQ(::access((folder_ + "/used/images/m1.in").c_str(), F_OK), 0);

    for (int i = 0; i < 2; ++i) {
      const absl::Status status = MountImages(folder_ + "/fresh");
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_EQ(mounts(), before + 1);
    }
    struct statfs of;
    ASSERT_EQ(::statfs((folder_ + "/fresh/images").c_str(), &of), 0);
    EXPECT_EQ(of.f_type, TMPFS_MAGIC);
    EXPECT_EQ(::umount((folder_ + "/fresh/images").c_str()), 0);
  }).join();
}

TEST_F(ImagesTest, ReadsTheEndOfALog) {
  const std::string path = folder_ + "/log";
  EXPECT_EQ(ReadLogTail(path), "");
  ASSERT_TRUE(WriteFileAtomic(path, "hello").ok());
  EXPECT_EQ(ReadLogTail(path), "hello");
  ASSERT_TRUE(WriteFileAtomic(path, std::string(kLogTailBytes, 'a') + "end").ok());
  const std::string tail = ReadLogTail(path);
  EXPECT_EQ(tail.size(), kLogTailBytes);
  EXPECT_EQ(tail.substr(tail.size() - 4), "aend");
}

}  // namespace
}  // namespace starling::migration
