#include "checkpoint/file_tree.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/file.h"
#include "checkpoint/file_landing.h"

namespace starling::checkpoint {
namespace {

constexpr uint64_t kSeed = 77;

class FileTreeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // Not on a tmpfs, where nothing may be trusted to be unchanged.
    char name[] = "/var/tmp/starling-files-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    scratch_ = name;
    root_ = scratch_ + "/data";
    landing_ = scratch_ + "/landing";
    ASSERT_EQ(::mkdir(root_.c_str(), 0750), 0);
    tracker_.emplace(root_, kSeed, [this] { return mapped_; });
    land_.emplace(landing_, kSeed);
  }
  void TearDown() override { ASSERT_TRUE(RemoveTree(scratch_).ok()); }

  void Put(const std::string& path, const std::string& content) {
    std::ofstream(root_ + "/" + path, std::ios::binary) << content;
  }
  // Times that tell a write from what was there before it.
  static void Settle() { ::usleep(150'000); }

  FileTracker::Report Round(bool last = false) {
    FileTracker::Report report;
    const absl::Status listed = tracker_->List(
        last,
        [&](const std::string& path, FileBlock& block, std::span<const std::byte> bytes) {
          return land_->Write(path, block.offset, block.hash, bytes);
        },
        report);
    EXPECT_TRUE(listed.ok()) << listed;
    return report;
  }

  // What is at `root`, as this tracker sees trees.
  static FileTree Look(const std::string& root) {
    FileTracker tracker(root, kSeed, [] { return std::set<uint64_t>(); });
    FileTracker::Report report;
    const absl::Status listed = tracker.List(
        true,
        [](const std::string&, FileBlock&, std::span<const std::byte>) { return absl::OkStatus(); },
        report);
    EXPECT_TRUE(listed.ok()) << listed;
    return tracker.tree();
  }

  void ExpectLanded() {
    const absl::Status finished = land_->Finish(tracker_->tree());
    ASSERT_TRUE(finished.ok()) << finished;
    const FileTree there = Look(land_->root());
    const FileTree here = Look(root_);
    ASSERT_EQ(there.size(), here.size());
    for (size_t i = 0; i < here.size(); ++i) {
      EXPECT_EQ(there[i].path, here[i].path);
      EXPECT_TRUE(there[i] == here[i]) << here[i].path;
    }
  }

  std::string scratch_;
  std::string root_;
  std::string landing_;
  std::set<uint64_t> mapped_;
  std::optional<FileTracker> tracker_;
  std::optional<FileLanding> land_;
};

TEST_F(FileTreeTest, EverythingOfATreeLands) {
  Put("small", "content");
  Put("empty", "");
  Put("large", std::string(3 * kBlockBytes + 17, 'L'));
  ASSERT_EQ(::mkdir((root_ + "/folder").c_str(), 0711), 0);
  Put("folder/inner", "inner");
  // Sorts between a folder and what is in it, byte by byte.
  Put("folder.conf", "conf");
  ASSERT_EQ(::mkdir((root_ + "/hollow").c_str(), 0700), 0);
  ASSERT_EQ(::symlink("/nowhere/at all", (root_ + "/link").c_str()), 0);
  ASSERT_EQ(::link((root_ + "/folder/inner").c_str(), (root_ + "/folder.twin").c_str()), 0);
  ASSERT_EQ(::link((root_ + "/folder/inner").c_str(), (root_ + "/zwin").c_str()), 0);
  ASSERT_EQ(::mkfifo((root_ + "/fifo").c_str(), 0620), 0);
  ASSERT_EQ(::chmod((root_ + "/small").c_str(), 04751), 0);
  if (::getuid() == 0) {
    ASSERT_EQ(::lchown((root_ + "/link").c_str(), 11, 12), 0);
    ASSERT_EQ(::chown((root_ + "/large").c_str(), 1000, 1001), 0);
  }
  ASSERT_EQ(::setxattr((root_ + "/large").c_str(), "user.note", "kept", 4, 0), 0);
  timespec times[2] = {{1000, 5}, {-77, 123456789}};
  ASSERT_EQ(::utimensat(AT_FDCWD, (root_ + "/small").c_str(), times, 0), 0);
  times[1] = {1234567, 89};
  ASSERT_EQ(::utimensat(AT_FDCWD, (root_ + "/folder").c_str(), times, 0), 0);
  Round(true);
  ExpectLanded();
  struct stat info;
  ASSERT_EQ(::stat((land_->root() + "/zwin").c_str(), &info), 0);
  EXPECT_EQ(info.st_nlink, 3u);
  EXPECT_EQ(ReadFile(land_->root() + "/folder/inner").value(), "inner");
}

TEST_F(FileTreeTest, SparseFilesStaySparse) {
  const UniqueFd file(::open((root_ + "/sparse").c_str(), O_RDWR | O_CREAT, 0600));
  ASSERT_EQ(::ftruncate(file.get(), 64 << 20), 0);
  ASSERT_EQ(::pwrite(file.get(), "x", 1, 32 << 20), 1);
  Round();
  // What is written between two rounds and given back is a hole again.
  const std::string much(1 << 20, 'y');
  ASSERT_EQ(::pwrite(file.get(), much.data(), much.size(), 8 << 20), 1 << 20);
  Round();
  ASSERT_EQ(::fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8 << 20, 1 << 20),
            0);
  Round(true);
  ExpectLanded();
  struct stat info;
  ASSERT_EQ(::stat((land_->root() + "/sparse").c_str(), &info), 0);
  EXPECT_EQ(info.st_size, 64 << 20);
  EXPECT_LE(info.st_blocks * 512, 256 << 10);
}

TEST_F(FileTreeTest, RoundsSendWhatChanged) {
  std::string content(8 * kBlockBytes, 'a');
  Put("data", content);
  Put("other", std::string(kBlockBytes, 'o'));
  Settle();
  EXPECT_EQ(Round().blocks_changed, 9u);
  const FileTracker::Report quiet = Round();
  EXPECT_EQ(quiet.blocks_changed, 0u);
  EXPECT_EQ(quiet.bytes_read, 0u) << "the times of a file say that it was not written";
  const UniqueFd file(::open((root_ + "/data").c_str(), O_RDWR));
  ASSERT_EQ(::pwrite(file.get(), "B", 1, 3 * kBlockBytes + 5), 1);
  const FileTracker::Report one = Round();
  EXPECT_EQ(one.blocks_changed, 1u);
  EXPECT_EQ(one.bytes_read, 8 * kBlockBytes);
  // Cut and grown again: what was there reads as zeros.
  ASSERT_EQ(::ftruncate(file.get(), 100), 0);
  ASSERT_EQ(::ftruncate(file.get(), 2 * kBlockBytes), 0);
  Round(true);
  ExpectLanded();
}

TEST_F(FileTreeTest, WhatIsWrittenRightAfterALookIsSeen) {
  // Within one tick of the clock that dates files, times do not tell.
  for (int i = 0; i < 200; ++i) {
    Put("hot", absl::StrCat("content ", i % 10));
    Round();
    const UniqueFd file(::open((root_ + "/hot").c_str(), O_WRONLY));
    ASSERT_EQ(::pwrite(file.get(), "C", 1, 0), 1);
    EXPECT_EQ(Round().blocks_changed, 1u) << i;
  }
}

TEST_F(FileTreeTest, MappedFilesAreReadAgain) {
  Put("mapped", std::string(kBlockBytes, 'm'));
  const UniqueFd file(::open((root_ + "/mapped").c_str(), O_RDWR));
  auto* const memory = static_cast<char*>(
      ::mmap(nullptr, kBlockBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0));
  ASSERT_NE(memory, MAP_FAILED);
  memory[0] = 'x';
  struct stat info;
  ASSERT_EQ(::fstat(file.get(), &info), 0);
  mapped_ = {info.st_ino};
  Settle();
  Round();
  memory[1] = 'y';  // the page is dirty already: no time changes
  EXPECT_EQ(Round().blocks_changed, 1u);
  memory[2] = 'z';
  ASSERT_EQ(::munmap(memory, kBlockBytes), 0);
  mapped_.clear();
  EXPECT_EQ(Round(true).blocks_changed, 1u) << "it was mapped when it was read";
  ExpectLanded();
}

TEST_F(FileTreeTest, TreesThatChangeBetweenRounds) {
  Put("file", "was a file");
  ASSERT_EQ(::mkdir((root_ + "/folder").c_str(), 0755), 0);
  Put("folder/inner", "inner");
  Put("renamed", std::string(2 * kBlockBytes, 'r'));
  Put("gone", "gone");
  Put("first", "linked");
  ASSERT_EQ(::link((root_ + "/first").c_str(), (root_ + "/second").c_str()), 0);
  Round();
  ASSERT_EQ(::unlink((root_ + "/file").c_str()), 0);
  ASSERT_EQ(::mkdir((root_ + "/file").c_str(), 0755), 0);
  Put("file/now a folder", "yes");
  ASSERT_TRUE(RemoveTree(root_ + "/folder").ok());
  Put("folder", "now a file");
  ASSERT_EQ(::rename((root_ + "/renamed").c_str(), (root_ + "/elsewhere").c_str()), 0);
  ASSERT_EQ(::unlink((root_ + "/gone").c_str()), 0);
  ASSERT_EQ(::unlink((root_ + "/first").c_str()), 0);
  Round();
  ASSERT_EQ(::unlink((root_ + "/folder").c_str()), 0);
  ASSERT_EQ(::mkdir((root_ + "/folder").c_str(), 0755), 0);
  Put("folder/inner", "inner");
  Round(true);
  ExpectLanded();
}

TEST_F(FileTreeTest, OneFileMovesAsWell) {
  const std::string path = scratch_ + "/single.db";
  std::ofstream(path, std::ios::binary) << "database";
  root_ = path;
  tracker_.emplace(root_, kSeed, [this] { return mapped_; });
  Round(true);
  ExpectLanded();
  EXPECT_EQ(ReadFile(land_->root()).value(), "database");
}

TEST_F(FileTreeTest, SocketsStayAndDevicesAreRefused) {
  sockaddr_un address{.sun_family = AF_UNIX};
  std::snprintf(address.sun_path, sizeof(address.sun_path), "%s/socket", root_.c_str());
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM, 0));
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  Round();
  EXPECT_EQ(tracker_->tree().size(), 1u);
  if (::mknod((root_ + "/null").c_str(), S_IFCHR | 0666, (1 << 8) | 3) != 0) {
    GTEST_SKIP() << "devices cannot be made here: " << std::strerror(errno);
  }
  FileTracker::Report report;
  const absl::Status refused = tracker_->List(
      false,
      [](const std::string&, FileBlock&, std::span<const std::byte>) { return absl::OkStatus(); },
      report);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_TRUE(absl::StrContains(refused.message(), root_ + "/null"));
}

TEST_F(FileTreeTest, DamagedAndMissingBlocksAreFound) {
  const std::string content(2 * kBlockBytes, 'c');
  const auto bytes = std::as_bytes(std::span(content.data(), kBlockBytes));
  BlockHash hash = HashBlock(bytes, kSeed);
  ASSERT_TRUE(land_->Write("file", 0, hash, bytes).ok());
  const FileTree tree = {{.path = "", .mode = S_IFDIR | 0755},
                         {.path = "file",
                          .mode = S_IFREG | 0644,
                          .size = content.size(),
                          .blocks = {{0, hash}, {kBlockBytes, hash}}}};
  const absl::Status missing = land_->Finish(tree);
  EXPECT_TRUE(absl::IsDataLoss(missing));
  EXPECT_TRUE(absl::StrContains(missing.message(), "file 'file': its block at 65536")) << missing;
  hash.high ^= 1;
  EXPECT_TRUE(absl::IsDataLoss(land_->Write("file", kBlockBytes, hash, bytes)));
}

TEST_F(FileTreeTest, NothingLandsOutsideOfItsFolder) {
  const std::string content = "x";
  const auto bytes = std::as_bytes(std::span(content.data(), 1));
  const BlockHash hash = HashBlock(bytes, kSeed);
  for (const std::string path : {"../x", "/etc/x", "a/../../x", "a//b", "a/.", "a/", "/"}) {
    EXPECT_TRUE(absl::IsDataLoss(land_->Write(path, 0, hash, bytes))) << path;
  }
  EXPECT_TRUE(absl::IsDataLoss(land_->Write(std::string("a\0b", 3), 0, hash, bytes)));
  EXPECT_TRUE(absl::IsDataLoss(land_->Write("a", 5, hash, bytes))) << "not at a block";
  EXPECT_TRUE(
      absl::IsDataLoss(land_->Write("a", ~uint64_t{0} / kBlockBytes * kBlockBytes, hash, bytes)));
  const auto finish = [&](FileTree tree) {
    tree.insert(tree.begin(), {.path = "", .mode = S_IFDIR | 0755});
    return land_->Finish(tree);
  };
  const FileEntry link = {.path = "a", .mode = S_IFLNK | 0777, .link = "/tmp"};
  EXPECT_TRUE(absl::IsDataLoss(finish({link, {.path = "a/b", .mode = S_IFREG | 0644}})));
  EXPECT_TRUE(absl::IsDataLoss(finish({{.path = "../b", .mode = S_IFREG | 0644}})));
  EXPECT_TRUE(absl::IsDataLoss(finish({{.path = "b", .mode = S_IFCHR | 0644}})));
  EXPECT_TRUE(
      absl::IsDataLoss(finish({{.path = "b", .mode = S_IFREG}, {.path = "a", .mode = S_IFREG}})));
  EXPECT_TRUE(
      absl::IsDataLoss(finish({{.path = "a", .mode = S_IFREG}, {.path = "a", .mode = S_IFREG}})));
  EXPECT_TRUE(absl::IsDataLoss(finish({{.path = "a", .mode = S_IFREG, .same_as = "/etc/passwd"}})));
  EXPECT_TRUE(absl::IsDataLoss(finish({{.path = "a", .mode = S_IFLNK}})));
  EXPECT_TRUE(absl::IsDataLoss(land_->Finish({})));
}

TEST_F(FileTreeTest, EntriesAsBytes) {
  const FileEntry entry = {.path = "a/b",
                           .mode = S_IFREG | 0644,
                           .uid = 7,
                           .gid = 8,
                           .modified_ns = -5,
                           .size = 3 * kBlockBytes,
                           .blocks = {{0, {1, 2}, 9}, {2 * kBlockBytes, {3, 4}, 10}},
                           .attributes = {{"user.x", std::string("\0y", 2)}}};
  const std::string bytes = EncodeEntry(entry);
  EXPECT_TRUE(DecodeEntry(bytes).value() == entry);
  // Whatever is made of it, it is refused or an entry.
  for (size_t at = 0; at < bytes.size(); ++at) {
    (void)DecodeEntry(absl::string_view(bytes).substr(0, at));
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = bytes;
      bad[at] = static_cast<char>(bad[at] ^ (1 << bit));
      const auto decoded = DecodeEntry(bad);
      if (decoded.ok()) (void)CheckTree({{.path = "", .mode = S_IFDIR}, *decoded});
    }
  }
  EXPECT_FALSE(DecodeEntry("\xff\xff").ok());
}

class FilePlaceTest : public FileTreeTest {
 protected:
  FilePlace Place() const { return FilePlace("db", scratch_ + "/data"); }
  // Something has landed for it.
  void Land() {
    const std::string content = "new";
    const auto bytes = std::as_bytes(std::span(content.data(), content.size()));
    const BlockHash hash = HashBlock(bytes, kSeed);
    FileLanding landing(Place().landing(), kSeed);
    ASSERT_TRUE(landing.Write("file", 0, hash, bytes).ok());
    ASSERT_TRUE(
        landing
            .Finish({{.path = "", .mode = S_IFDIR | 0755},
                     {.path = "file", .mode = S_IFREG | 0644, .size = 3, .blocks = {{0, hash}}}})
            .ok());
  }
  std::string Content() const { return ReadFile(scratch_ + "/data/file").value_or("none"); }
  // Names beside the shipped path.
  std::vector<std::string> Beside() const {
    std::vector<std::string> names;
    for (const auto& item : std::filesystem::directory_iterator(scratch_)) {
      const std::string name = item.path().filename().string();
      if (name != "data") names.push_back(name);
    }
    return names;
  }
};

TEST_F(FilePlaceTest, PutAndKept) {
  Put("file", "old");
  Land();
  EXPECT_EQ(Content(), "old");
  EXPECT_TRUE(absl::IsFailedPrecondition(Place().Put()));
  EXPECT_EQ(Content(), "old") << "what came meanwhile is left alone";
  ASSERT_TRUE(Place().Put(/*replace=*/true).ok());
  EXPECT_EQ(Content(), "new");
  EXPECT_TRUE(Place().placing());
  ASSERT_TRUE(Place().Keep().ok());
  EXPECT_EQ(Content(), "new");
  EXPECT_TRUE(Beside().empty());
  ASSERT_TRUE(Place().Keep().ok()) << "again after a crash";
}

TEST_F(FilePlaceTest, PutAndTakenBack) {
  Put("file", "old");
  Land();
  ASSERT_TRUE(Place().Put(/*replace=*/true).ok());
  ASSERT_TRUE(Place().TakeBack().ok());
  EXPECT_EQ(Content(), "old");
  EXPECT_TRUE(Beside().empty());
  // Where nothing was before, nothing is afterwards.
  ASSERT_TRUE(RemoveTree(scratch_ + "/data").ok());
  Land();
  ASSERT_TRUE(Place().Put().ok());
  EXPECT_EQ(Content(), "new");
  ASSERT_TRUE(Place().TakeBack().ok());
  EXPECT_FALSE(std::filesystem::exists(scratch_ + "/data"));
  EXPECT_TRUE(Beside().empty());
}

TEST_F(FilePlaceTest, TakenBackAfterACrashAtAnyStep) {
  const std::string base = scratch_ + "/.starling.db.data.";
  for (int step = 0; step <= 4; ++step) {
    ASSERT_TRUE(RemoveTree(scratch_ + "/data").ok());
    ASSERT_EQ(::mkdir((scratch_ + "/data").c_str(), 0755), 0);
    Put("file", "old");
    Land();
    // What Put() and then TakeBack() do, up to the crash.
    if (step >= 1) {
      ASSERT_TRUE(WriteFileAtomic(base + "placing", "").ok());
    }
    if (step >= 2) {
      ASSERT_EQ(::rename((scratch_ + "/data").c_str(), (base + "old").c_str()), 0);
    }
    if (step >= 3) {
      ASSERT_EQ(::rename((base + "new/tree").c_str(), (scratch_ + "/data").c_str()), 0);
    }
    if (step >= 4) {
      ASSERT_EQ(::rename((scratch_ + "/data").c_str(), (base + "new/tree").c_str()), 0);
    }
    ASSERT_TRUE(Place().TakeBack().ok()) << step;
    EXPECT_EQ(Content(), "old") << step;
    EXPECT_TRUE(Beside().empty()) << step;
  }
}

TEST_F(FilePlaceTest, ACopyThatLeftIsKeptUntilTheComponentReturns) {
  Put("file", "first");
  ASSERT_TRUE(Place().SetAside().ok());
  EXPECT_EQ(Content(), "none");
  EXPECT_EQ(Beside(), std::vector<std::string>{".starling.db.data.left"});
  ASSERT_TRUE(Place().SetAside().ok()) << "again after a crash";
  EXPECT_EQ(Beside().size(), 1u);
  Land();
  ASSERT_TRUE(Place().Put().ok());
  ASSERT_TRUE(Place().Keep().ok());
  EXPECT_EQ(Content(), "new");
  EXPECT_TRUE(Beside().empty());
  // What a restore from a checkpoint replaces is kept.
  Put("file", "newer");
  Land();
  ASSERT_TRUE(Place().Put(/*replace=*/true).ok());
  ASSERT_TRUE(Place().Keep(/*keep_old=*/true).ok());
  EXPECT_EQ(Content(), "new");
  EXPECT_EQ(ReadFile(scratch_ + "/.starling.db.data.left/file").value(), "newer");
}

}  // namespace
}  // namespace starling::checkpoint
