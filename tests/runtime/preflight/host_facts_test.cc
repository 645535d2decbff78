#include "runtime/preflight/host_facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "runtime/preflight/file_content.h"

namespace starling::preflight {
namespace {

namespace fs = std::filesystem;

class HostFactsTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/starling-host-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  v1::FileFact* Ask(const std::string& path) {
    v1::FileFact* file = request_.add_files();
    file->set_path(path);
    return file;
  }

  std::string folder_;
  v1::ExamineRequest request_;
};

TEST_F(HostFactsTest, LooksAtFilesOfEveryKind) {
  std::ofstream(folder_ + "/data") << "hello";
  ASSERT_EQ(mkfifo((folder_ + "/fifo").c_str(), 0600), 0);
  Ask(folder_ + "/data")->set_content_hash(1);
  Ask(folder_ + "/gone");
  Ask(folder_)->set_is_directory(true);
  // Neither may block or act on a device.
  Ask(folder_ + "/fifo")->set_content_hash(1);
  Ask("/dev/tty")->set_content_hash(1);
  Ask("etc/passwd");
  Ask(std::string("/etc/passwd\0x", 13));
  Ask("/bin/sh")->set_build_id("aa");
  const HostFacts facts = GatherHost(request_, {});
  ASSERT_EQ(facts.files.size(), 8u);
  EXPECT_TRUE(facts.files[0].exists);
  EXPECT_EQ(facts.files[0].size, 5u);
  EXPECT_NE(facts.files[0].content_hash, 0u);
  EXPECT_EQ(facts.files[0].build_id, "");
  EXPECT_FALSE(facts.files[1].exists);
  EXPECT_EQ(facts.files[1].error, "");
  EXPECT_TRUE(S_ISDIR(facts.files[2].mode));
  EXPECT_TRUE(S_ISFIFO(facts.files[3].mode));
  EXPECT_EQ(facts.files[3].content_hash, 0u);
  EXPECT_EQ(facts.files[4].content_hash, 0u);
  EXPECT_THAT(facts.files[5].error, testing::HasSubstr("absolute"));
  EXPECT_THAT(facts.files[6].error, testing::HasSubstr("absolute"));
  EXPECT_EQ(facts.files[7].build_id.size(), 40u);
}

TEST_F(HostFactsTest, TheHashIsOfTheContent) {
  for (const char* name : {"/a", "/b"}) std::ofstream(folder_ + name) << "same";
  std::ofstream(folder_ + "/c") << "sama";
  const auto hash = [this](const char* name) {
    return LookAtFile(folder_ + name, Hash::kAlways)->hash;
  };
  EXPECT_EQ(hash("/a"), hash("/b"));
  EXPECT_NE(hash("/a"), hash("/c"));
}

TEST_F(HostFactsTest, LargeFilesAreNotRead) {
  const std::string path = folder_ + "/large";
  std::ofstream(path).put('x');
  ASSERT_EQ(truncate(path.c_str(), static_cast<off_t>(kMaxHashedBytes)), 0);
  EXPECT_NE(LookAtFile(path, Hash::kAlways)->hash, 0u);
  ASSERT_EQ(truncate(path.c_str(), static_cast<off_t>(kMaxHashedBytes + 1)), 0);
  EXPECT_EQ(LookAtFile(path, Hash::kAlways)->hash, 0u);
}

TEST_F(HostFactsTest, KnowsTheHost) {
  request_.mutable_spec()->add_shared(folder_ + "/");
  request_.mutable_spec()->add_shared(folder_ + "/missing/");
  HostOptions options;
  options.cgroup_path = "/sys/fs/cgroup/starling";
  options.parent_device = "lo";  // a device, and no Ethernet
  const HostFacts facts = GatherHost(request_, options);
  EXPECT_THAT(facts.kernel, testing::ContainsRegex("^[0-9]+\\.[0-9]+"));
  EXPECT_FALSE(facts.cpu_flags.empty());
  EXPECT_GT(facts.memory_available_bytes, 0u);
  EXPECT_FALSE(facts.ethernet);
  EXPECT_THAT(facts.missing_shared, testing::ElementsAre(folder_ + "/missing"));
}

TEST_F(HostFactsTest, ACgroupLimitCountsAndIsCutByWhatIsUsed) {
  fs::create_directory(folder_ + "/below");
  std::ofstream(folder_ + "/memory.max") << "1000000\n";
  std::ofstream(folder_ + "/memory.current") << "400000\n";
  std::ofstream(folder_ + "/below/memory.max") << "max\n";
  std::ofstream(folder_ + "/below/memory.current") << "0\n";
  EXPECT_EQ(MemoryAvailable(folder_ + "/below/not-yet-made"), 600000u);
  std::ofstream(folder_ + "/memory.current") << "1000001\n";
  EXPECT_EQ(MemoryAvailable(folder_ + "/below"), 0u);
}

}  // namespace
}  // namespace starling::preflight
