#include "runtime/loop/warmth.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/file.h"
#include "runtime/loop/mapped_files.h"
#include "tests/runtime/scratch.h"

namespace starling::loop {
namespace {

constexpr size_t kPage = 4096;

template <typename Condition>
bool Soon(Condition condition) {
  for (int i = 0; i < 5000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

// Pages of a file that are in the cache.
size_t Cached(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const auto size = static_cast<size_t>(std::filesystem::file_size(path));
  void* start = mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
  std::vector<unsigned char> pages((size + kPage - 1) / kPage);
  size_t cached = 0;
  if (mincore(start, size, pages.data()) == 0) {
    for (const unsigned char page : pages) cached += page & 1;
  }
  munmap(start, size);
  return cached;
}

class WarmthTest : public testing::Test {
 protected:
  // A file on disk that is not in the cache. Empty where the file system does not let go of it.
  std::string Cold(const std::string& name, size_t pages) {
    const std::string path = In(name);
    EXPECT_TRUE(WriteFileAtomic(path, std::string(pages * kPage, 'x')).ok());
    const UniqueFd file(open(path.c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_EQ(fsync(file.get()), 0);
    EXPECT_EQ(posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED), 0);
    return path;
  }
  // Without the double slash that a temporary folder may have: such paths are refused.
  std::string In(const std::string& name) const {
    return absl::StrCat(std::filesystem::canonical(scratch_.path()).string(), "/", name);
  }
  Scratch scratch_;
};

TEST_F(WarmthTest, ReadsFilesAheadAndGivesThemBackWithTheLease) {
  const std::string one = Cold("one", 64), two = Cold("two", 32);
  const size_t before = Cached(one) + Cached(two);
  Warmth warmth;
  warmth.Warm("lease", {one, two});
  EXPECT_TRUE(Soon([&] { return warmth.Bytes("lease") == 96 * static_cast<int64_t>(kPage); }));
  EXPECT_TRUE(Soon([&] { return Cached(one) + Cached(two) == 96; }));
  warmth.KeepOnly([](const std::string& lease) { return lease == "lease"; });
  EXPECT_GT(warmth.Bytes("lease"), 0);
  warmth.Drop("lease");
  EXPECT_EQ(warmth.Bytes("lease"), 0);
  // Nothing holds them any more: the file system could be unmounted, the files taken away.
  const auto maps = ReadFile("/proc/self/maps");
  ASSERT_TRUE(maps.ok());
  EXPECT_EQ(maps->find(one), std::string::npos);
  if (before > 48)
    GTEST_SKIP() << "the file system keeps files in the cache, so that reading them "
                    "ahead was not seen";
}

TEST_F(WarmthTest, IsBounded) {
  std::vector<std::string> paths;
  for (int i = 0; i < 6; ++i) paths.push_back(Cold(absl::StrCat(i), 10));
  const auto page = static_cast<int64_t>(kPage);
  Warmth warmth({.files = 5, .bytes = 32 * page, .bytes_of_all = 45 * page, .waiting = 2});
  warmth.Warm("one", paths);
  EXPECT_TRUE(Soon([&] { return warmth.Bytes("one") == 30 * page; }));
  warmth.Warm("two", paths);
  EXPECT_TRUE(Soon([&] { return warmth.Bytes("two") == 10 * page; })) << "of all leases together";
  warmth.Drop("one");
  warmth.Warm("three", paths);
  EXPECT_TRUE(Soon([&] { return warmth.Bytes("three") == 30 * page; }));
}

TEST_F(WarmthTest, OnlyRegularFilesAreOpened) {
  const std::string pipe = In("pipe"), file = Cold("file", 1);
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  Warmth warmth;
  // Opened, the pipe would wait for somebody who writes.
  warmth.Warm("lease",
              {pipe, "/dev/zero", "/proc/self/maps", "relative", In("none"), In(""), file});
  EXPECT_TRUE(Soon([&] { return warmth.Bytes("lease") == static_cast<int64_t>(kPage); }));
}

TEST_F(WarmthTest, ADroppedLeaseIsNotFilledAnyMore) {
  std::vector<std::string> paths;
  for (int i = 0; i < 50; ++i) paths.push_back(Cold(absl::StrCat(i), 1));
  Warmth warmth;
  for (int i = 0; i < 20; ++i) {
    warmth.Warm("lease", paths);
    warmth.KeepOnly([](const std::string&) { return false; });
    EXPECT_EQ(warmth.Bytes("lease"), 0);
  }
}

TEST_F(WarmthTest, AComponentsProgramsAndLibrariesAreKnown) {
  // Of this process.
  ASSERT_TRUE(MakeDirectories(scratch_ / "group").ok());
  ASSERT_TRUE(WriteFileAtomic(scratch_ / "group/cgroup.procs", absl::StrCat(getpid(), "\n")).ok());
  const std::vector<std::string> files = MappedFiles(scratch_ / "group", 100);
  ASSERT_GT(files.size(), 1u);
  EXPECT_EQ(files[0], std::filesystem::read_symlink("/proc/self/exe"));
  EXPECT_TRUE(std::any_of(files.begin(), files.end(), [](const std::string& path) {
    return path.find("/libc.so") != std::string::npos;
  }));
  EXPECT_EQ(MappedFiles(scratch_ / "group", 1).size(), 1u);
  EXPECT_TRUE(MappedFiles(In("none"), 100).empty());
}

}  // namespace
}  // namespace starling::loop
