#include "runtime/preflight/proc_parse.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <random>

#include "base/file.h"

namespace starling::preflight {
namespace {

TEST(ProcParseTest, StatWithAHostileName) {
  const auto stat = ParseStat("42 (a) R 1 (\nb) S 7 42 42 0 -1");
  ASSERT_TRUE(stat.has_value());
  EXPECT_EQ(stat->pid, 42);
  EXPECT_EQ(stat->name, "a) R 1 (\nb");
  EXPECT_EQ(stat->state, 'S');
  EXPECT_EQ(stat->parent, 7);
}

TEST(ProcParseTest, BrokenStatIsNothing) {
  for (const char* text : {"", "42", "42 (a", "x (a) S 1", ") S 1 (", "1 (a) SS 1", "1 (a) S x"}) {
    EXPECT_FALSE(ParseStat(text).has_value()) << text;
  }
}

TEST(ProcParseTest, Maps) {
  const auto maps = ParseMaps(
      "55d0c0000000-55d0c0021000 r-xp 00000000 08:01 123        /usr/bin/redis server\n"
      "7f0000000000-7f0000001000 rw-s 00001000 00:05 9          /tmp/a\\012b (deleted)\n"
      "7f0000002000-7f0000003000 rw-p 00000000 00:00 0 \n"
      "garbage\n"
      "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0          [stack]\n");
  ASSERT_EQ(maps.size(), 4u);
  EXPECT_EQ(maps[0].start, 0x55d0c0000000u);
  EXPECT_EQ(maps[0].end, 0x55d0c0021000u);
  EXPECT_EQ(maps[0].path, "/usr/bin/redis server");
  EXPECT_EQ(maps[0].inode, 123u);
  EXPECT_FALSE(maps[0].writable);
  EXPECT_FALSE(maps[0].shared);
  EXPECT_FALSE(maps[0].deleted);
  EXPECT_EQ(maps[1].path, "/tmp/a\nb");
  EXPECT_TRUE(maps[1].writable);
  EXPECT_TRUE(maps[1].shared);
  EXPECT_TRUE(maps[1].deleted);
  EXPECT_EQ(maps[2].path, "");
  EXPECT_EQ(maps[3].path, "[stack]");
}

TEST(ProcParseTest, FdInfo) {
  const FdInfo info =
      ParseFdInfo("pos:\t0\nflags:\t02100002\nmnt_id:\t29\nino:\t7\ntty-index:\t3\n");
  EXPECT_EQ(info.flags & O_ACCMODE, O_RDWR);
  EXPECT_EQ(info.flags & O_CLOEXEC, 0);
  EXPECT_EQ(info.mount_id, 29);
  EXPECT_EQ(info.tty_index, 3);
  EXPECT_EQ(ParseFdInfo("").tty_index, -1);
}

TEST(ProcParseTest, MountInfo) {
  const auto mounts = ParseMountInfo(
      "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
      "37 35 0:44 / /ro ro shared:5 - nfs4 host:/x rw\n"
      "broken line\n");
  ASSERT_EQ(mounts.size(), 2u);
  EXPECT_EQ(mounts[0].id, 36);
  EXPECT_EQ(mounts[0].dev, makedev(98, 0));
  EXPECT_EQ(mounts[0].point, "/mnt 2");
  EXPECT_EQ(mounts[0].type, "ext3");
  EXPECT_FALSE(mounts[0].read_only);
  EXPECT_EQ(mounts[1].type, "nfs4");
  EXPECT_TRUE(mounts[1].read_only);
}

TEST(ProcParseTest, OwnProcess) {
  const auto stat = ParseStat(ReadFile("/proc/self/stat").value_or(""));
  ASSERT_TRUE(stat.has_value());
  EXPECT_EQ(stat->pid, getpid());
  EXPECT_EQ(stat->parent, getppid());
  EXPECT_FALSE(ParseMaps(ReadFile("/proc/self/maps").value_or("")).empty());
  EXPECT_FALSE(ParseMountInfo(ReadFile("/proc/self/mountinfo").value_or("")).empty());
}

TEST(ProcParseTest, SurvivesNoise) {
  std::mt19937 random(7);
  const std::string alphabet = "0123456789abcdef -:()\\\n\tSrwxp/[]";
  for (int round = 0; round < 5000; ++round) {
    std::string text(random() % 120, ' ');
    for (char& c : text) c = alphabet[random() % alphabet.size()];
    (void)ParseStat(text);
    (void)ParseFdInfo(text);
    for (const MapLine& map : ParseMaps(text)) EXPECT_LE(map.path.size(), text.size());
    for (const MountLine& mount : ParseMountInfo(text)) EXPECT_LE(mount.point.size(), text.size());
  }
}

}  // namespace
}  // namespace starling::preflight
