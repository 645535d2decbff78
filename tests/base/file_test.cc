#include "base/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace starling {
namespace {

std::string Scratch() { return absl::StrCat(testing::TempDir(), "/starling_file_test_", getpid()); }

TEST(File, ReplacesAtomicallyAndReadsBack) {
  const std::string folder = Scratch();
  ASSERT_TRUE(MakeDirectories(folder + "/a/b").ok());
  ASSERT_TRUE(MakeDirectories(folder + "/a/b").ok());
  const std::string path = folder + "/a/b/file";
  ASSERT_TRUE(WriteFileAtomic(path, "one").ok());
  ASSERT_TRUE(WriteFileAtomic(path, "two").ok());
  EXPECT_EQ(*ReadFile(path), "two");
  EXPECT_EQ(ReadFile(path, 2).status().code(), absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(RemoveTree(folder).ok());
  EXPECT_TRUE(RemoveTree(folder).ok());
  EXPECT_EQ(ReadFile(path).status().code(), absl::StatusCode::kNotFound);
}

TEST(File, TellsACutStreamFromAnEndedOne) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  UniqueFd reader(fds[0]), writer(fds[1]);
  ASSERT_TRUE(WriteAll(writer.get(), "abcdef", 6).ok());
  writer.Reset();
  char buffer[4];
  EXPECT_TRUE(*ReadExactly(reader.get(), buffer, 4));
  EXPECT_EQ(ReadExactly(reader.get(), buffer, 4).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(*ReadExactly(reader.get(), buffer, 4));
}

}  // namespace
}  // namespace starling
