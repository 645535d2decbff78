#include "runtime/loop/processors.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "tests/runtime/scratch.h"

namespace starling::loop {
namespace {

void Write(const std::string& folder, const std::string& file, const std::string& text) {
  ASSERT_TRUE(MakeDirectories(folder).ok());
  ASSERT_TRUE(WriteFileAtomic(folder + "/" + file, text).ok());
}

TEST(Processors, AreReadAndWrittenAsTheKernelHasThem) {
  EXPECT_EQ(ParseProcessors("0-2,8"), (Processors{0, 1, 2, 8}));
  EXPECT_EQ(ParseProcessors("3,1-2,2"), (Processors{1, 2, 3}));
  EXPECT_EQ(ParseProcessors(""), Processors());
  for (const char* text : {"a", "1-", "-1", "2-1", "1-2-3", "0,", "0-99999999", "70000"}) {
    EXPECT_EQ(ParseProcessors(text), std::nullopt) << text;
  }
  EXPECT_EQ(ParseProcessors(WriteProcessors({0, 1, 5})), (Processors{0, 1, 5}));
}

TEST(Processors, OfOneCacheAreAGroup) {
  Scratch scratch{InMemory()};
  Write(scratch / "cpu", "online", "0-3\n");
  for (int i = 0; i < 4; ++i) {
    const std::string cache = scratch / absl::StrCat("cpu/cpu", i, "/cache/index");
    Write(cache + "0", "level", "1\n");
    Write(cache + "0", "shared_cpu_list", absl::StrCat(i, "\n"));
    Write(cache + "1", "level", "3\n");
    Write(cache + "1", "shared_cpu_list", i < 2 ? "0-1\n" : "2-3\n");
  }
  const auto groups = ProcessorGroups(scratch.path());
  ASSERT_EQ(groups, (std::vector<Processors>{{0, 1}, {2, 3}}));
  EXPECT_TRUE(ProcessorGroups(scratch / "none").empty());

  const std::string cgroup = scratch / "cgroup";
  EXPECT_EQ(GroupOf(cgroup, groups), -1) << "no such controller";
  Write(cgroup, "cpuset.cpus", "\n");
  EXPECT_EQ(GroupOf(cgroup, groups), -1) << "not confined";
  Write(cgroup, "cpuset.cpus", "2-3\n");
  EXPECT_EQ(GroupOf(cgroup, groups), 1);
  Write(cgroup, "cpuset.cpus", "1\n");
  EXPECT_EQ(GroupOf(cgroup, groups), 0);
  Write(cgroup, "cpuset.cpus", "1-2\n");
  EXPECT_EQ(GroupOf(cgroup, groups), -1) << "in two";
}

}  // namespace
}  // namespace starling::loop
