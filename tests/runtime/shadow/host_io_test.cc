#include "runtime/shadow/host_io.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "tests/runtime/scratch.h"

namespace starling::shadow {
namespace {

using std::chrono::seconds;

// Interfaces, counters and disks of plain files.
class HostIoTest : public testing::Test {
 protected:
  void SetUp() override {
    Device("class/net", "eth0", true);
    Device("class/net", "bridge", false);
    Write("sys/class/net/eth0/speed", "1000\n");
    Write("sys/class/net/bridge/speed", "10000\n");
    Device("block", "vda", true);
    Device("block", "loop0", false);
    Write("sys/block/vda/dev", "254:0\n");
    Write("sys/block/loop0/dev", "7:0\n");
    options_.sys = scratch_ / "sys";
    options_.proc = scratch_ / "proc";
    Count(0, 0, 0, 0);
  }
  void Device(const std::string& folder, const std::string& name, bool hardware) {
    const std::string path = scratch_ / absl::StrCat("sys/", folder, "/", name);
    ASSERT_TRUE(MakeDirectories(hardware ? path + "/device" : path).ok());
  }
  void Write(const std::string& path, const std::string& text) {
    const std::string whole = scratch_ / path;
    ASSERT_TRUE(MakeDirectories(std::filesystem::path(whole).parent_path()).ok());
    ASSERT_TRUE(WriteFileAtomic(whole, text).ok());
  }
  // Bytes in and out by eth0, sectors read from and written to vda.
  void Count(uint64_t in, uint64_t out, uint64_t read, uint64_t written) {
    Write("proc/net/dev", absl::StrCat("Inter-| Receive\n face |bytes\n    lo: 9000 1 0 0 0 0 0 0 "
                                       "9000 1 0 0 0 0 0 0\n  eth0: ",
                                       in, " 1 0 0 0 0 0 0 ", out, " 1 0 0 0 0 0 0\nbridge: ", in,
                                       " 1 0 0 0 0 0 0 ", out, " 1 0 0 0 0 0 0\n"));
    Write("sys/block/vda/stat", absl::StrCat("  5 0 ", read, " 7 9 0 ", written, " 3 0 0 0\n"));
    Write("sys/block/loop0/stat", absl::StrCat("  5 0 ", read, " 7 9 0 ", written, " 3 0 0 0\n"));
  }

  Scratch scratch_{InMemory()};
  HostIoOptions options_;
  std::chrono::steady_clock::time_point now_{seconds(5000)};
};

TEST_F(HostIoTest, TakesTheSpeedOfWhatHasHardware) {
  HostIo io(options_);
  HostIoUse use = io.Take(now_);
  EXPECT_DOUBLE_EQ(use.network.capacity, 125e6);
  EXPECT_TRUE(std::isnan(use.network.used)) << "the first";
  Count(20e6, 50e6, 0, 0);
  use = io.Take(now_ + seconds(2));
  EXPECT_DOUBLE_EQ(use.network.used, 25e6) << "the busier direction";
  Count(80e6, 50e6, 0, 0);
  use = io.Take(now_ + seconds(4));
  EXPECT_DOUBLE_EQ(use.network.used, 30e6);
  // A driver that was loaded again counts from 0.
  Count(5, 5, 0, 0);
  EXPECT_TRUE(std::isnan(io.Take(now_ + seconds(6)).network.used));
}

TEST_F(HostIoTest, OfWhatIsNotKnownNothingIsSaid) {
  HostIo io(options_);
  EXPECT_EQ(io.Take(now_).storage.capacity, 0) << "nothing says what a disk can do";
  EXPECT_EQ(io.Take(now_).disk.capacity, 0) << "no folder was named";
  for (const char* speed : {"-1\n", "0\n", "nonsense", "", "99999999999\n"}) {
    Write("sys/class/net/eth0/speed", speed);
    EXPECT_EQ(io.Take(now_ + seconds(1)).network.capacity, 0) << speed;
  }
}

TEST_F(HostIoTest, WhatIsConfiguredGoesFirst) {
  Write("sys/class/net/eth0/speed", "-1\n");
  options_.network_bytes_per_s = 40e6;
  options_.storage_bytes_per_s = 200e6;
  HostIo io(options_);
  io.Take(now_);
  Count(1e6, 0, 1000, 3000);
  HostIoUse use = io.Take(now_ + seconds(1));
  EXPECT_DOUBLE_EQ(use.network.capacity, 40e6);
  EXPECT_DOUBLE_EQ(use.network.used, 1e6);
  EXPECT_DOUBLE_EQ(use.storage.capacity, 200e6);
  EXPECT_DOUBLE_EQ(use.storage.used, 4000 * 512) << "vda alone";
  options_.network_devices = {"bridge", "none"};
  options_.storage_devices = {"loop0", "vda", "none"};
  HostIo both(options_);
  both.Take(now_);
  Count(3e6, 0, 2000, 3000);
  use = both.Take(now_ + seconds(1));
  EXPECT_DOUBLE_EQ(use.network.used, 2e6) << "bridge alone";
  EXPECT_DOUBLE_EQ(use.storage.used, 2 * 1000 * 512);
  EXPECT_EQ(both.StorageNumbers(), (std::vector<std::string>{"7:0", "254:0"}));
  EXPECT_EQ(io.StorageNumbers(), std::vector<std::string>{"254:0"});
}

TEST_F(HostIoTest, CountsEachFileSystemOnce) {
  HostIo io(options_);
  io.SetFolders({scratch_ / "sys"});
  const HostIoUse::Of once = io.Take(now_).disk;
  ASSERT_GT(once.capacity, 0);
  EXPECT_GE(once.capacity, once.used);
  io.SetFolders({scratch_ / "sys", scratch_ / "proc", scratch_ / "none"});
  EXPECT_DOUBLE_EQ(io.Take(now_).disk.capacity, once.capacity);
  // What is written is used.
  Write("large", std::string(8 << 20, 'x'));
  EXPECT_GE(io.Take(now_).disk.used, once.used + (4 << 20));
}

TEST_F(HostIoTest, AHostWithoutAnyOfItIsFine) {
  options_.sys = scratch_ / "none";
  options_.proc = scratch_ / "none";
  options_.network_bytes_per_s = options_.storage_bytes_per_s = 1e6;
  HostIo io(options_);
  const HostIoUse use = io.Take(now_);
  EXPECT_EQ(use.network.capacity, 0);
  EXPECT_EQ(use.storage.capacity, 0);
  EXPECT_TRUE(io.StorageNumbers().empty());
}

TEST(HostIo, WorksOnThisHost) {
  HostIo io({});
  io.SetFolders({"/"});
  EXPECT_GT(io.Take(std::chrono::steady_clock::now()).disk.capacity, 0);
}

}  // namespace
}  // namespace starling::shadow
