#include "runtime/preflight/target_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <functional>
#include <string>
#include <vector>

namespace starling::preflight {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

struct Move {
  v1::ExamineRequest request;
  HostFacts host;
};

// 100 bytes are shipped, and the target sees this.
void Ship(Move& move, const ShippedPlace& place) {
  v1::ShippedPath& path = *move.request.add_shipped();
  path.set_path("/var/lib/db");
  path.set_bytes(100);
  move.host.shipped.push_back(place);
}

// A request that its target can meet: one library, one data file.
Move Possible() {
  Move move;
  move.request.mutable_spec()->set_name("db");
  move.request.mutable_spec()->set_ip("10.0.0.2/24");
  move.request.mutable_spec()->add_shared("/shared");
  move.request.set_source_kernel("6.12.9-amd64");
  move.request.set_source_criu("3.17.1");
  move.request.set_memory_bytes(100);
  move.request.add_cpu_flags("fpu");
  move.request.add_cpu_flags("avx2");
  move.request.set_source_host("a");
  move.request.set_protocol(1);
  v1::FileFact* library = move.request.add_files();
  library->set_path("/usr/lib/libc.so.6");
  library->set_mode(S_IFREG | 0755);
  library->set_size(10);
  library->set_build_id("abcd");
  v1::FileFact* data = move.request.add_files();
  data->set_path("/etc/db.conf");
  data->set_mode(S_IFREG | 0644);
  data->set_size(5);
  data->set_content_hash(42);

  move.host.options.host = "b";
  move.host.options.protocol = 1;
  move.host.options.criu = "3.17.2";
  move.host.options.parent_device = "eth0";
  move.host.options.memory_factor = 2;
  move.host.kernel = "6.12.10";
  move.host.cpu_flags = {"avx2", "fpu"};
  move.host.memory_available_bytes = 200;
  move.host.cgroup_freezer = true;
  move.host.ethernet = true;
  HostFile there;
  there.exists = true;
  there.mode = S_IFREG | 0755;
  there.size = 10;
  there.build_id = "abcd";
  move.host.files.push_back(there);
  there.mode = S_IFREG | 0644;
  there.size = 5;
  there.build_id.clear();
  there.content_hash = 42;
  move.host.files.push_back(there);
  return move;
}

struct Case {
  const char* name;
  std::function<void(Move&)> change;
  std::vector<std::string> codes;
};

TEST(TargetCheckTest, Table) {
  const std::vector<Case> cases = {
      {"possible", [](Move&) {}, {}},
      {"protocol", [](Move& m) { m.request.set_protocol(2); }, {"protocol-version"}},
      {"no CRIU", [](Move& m) { m.host.options.criu = ""; }, {"criu-missing"}},
      {"other CRIU", [](Move& m) { m.host.options.criu = "4.1.1"; }, {"criu-version"}},
      {"other minor CRIU", [](Move& m) { m.host.options.criu = "3.19"; }, {"criu-version"}},
      {"older kernel", [](Move& m) { m.host.kernel = "6.1.0-28-amd64"; }, {"kernel-older"}},
      {"newer kernel", [](Move& m) { m.host.kernel = "7.0.1"; }, {}},
      {"lesser processor", [](Move& m) { m.host.cpu_flags = {"fpu"}; }, {"processor-flags"}},
      {"no virtualisation there", [](Move& m) { m.request.add_cpu_flags("vmx"); }, {}},
      {"AVX-512 here only",
       [](Move& m) { m.request.add_cpu_flags("avx512vl"); },
       {"processor-flags"}},
      {"name taken", [](Move& m) { m.host.options.name_taken = true; }, {"name-taken"}},
      {"no cgroup v2", [](Move& m) { m.host.cgroup_freezer = false; }, {"kernel-feature"}},
      {"no Ethernet", [](Move& m) { m.host.ethernet = false; }, {"no-ethernet"}},
      {"no Ethernet, no address",
       [](Move& m) {
         m.host.ethernet = false;
         m.request.mutable_spec()->clear_ip();
       },
       {}},
      {"a byte too little",
       [](Move& m) { m.host.memory_available_bytes = 199; },
       {"target-memory"}},
      {"absurd memory", [](Move& m) { m.request.set_memory_bytes(~0ull); }, {"target-memory"}},
      {"no shared path",
       [](Move& m) { m.host.missing_shared = {"/shared"}; },
       {"shared-path-missing"}},
      {"a place for what is shipped",
       [](Move& m) {
         Ship(m, {true, false, 100});
       },
       {}},
      {"no folder for it",
       [](Move& m) {
         Ship(m, {false, false, 0});
       },
       {"shipped-folder-missing"}},
      {"its place is taken",
       [](Move& m) {
         Ship(m, {true, true, 100});
       },
       {"shipped-path-taken"}},
      {"a byte of disk too little",
       [](Move& m) {
         Ship(m, {true, false, 99});
       },
       {"shipped-space"}},
      {"file missing", [](Move& m) { m.host.files[0] = {}; }, {"open-file-missing"}},
      {"file not readable",
       [](Move& m) { m.host.files[0].error = "Permission denied"; },
       {"open-file-unreadable"}},
      {"no answer for a file", [](Move& m) { m.host.files.pop_back(); }, {"open-file-unreadable"}},
      {"other build", [](Move& m) { m.host.files[0].build_id = "abce"; }, {"open-file-different"}},
      {"stripped of its build id",
       [](Move& m) { m.host.files[0].build_id = ""; },
       {"open-file-different"}},
      {"other size", [](Move& m) { m.host.files[1].size = 6; }, {"open-file-different"}},
      {"other content",
       [](Move& m) { m.host.files[1].content_hash = 43; },
       {"open-file-different"}},
      {"other permissions",
       [](Move& m) { m.host.files[1].mode = S_IFREG | 0600; },
       {"open-file-different"}},
      {"a folder of that name",
       [](Move& m) { m.host.files[1].mode = S_IFDIR | 0644; },
       {"open-file-different"}},
      {"both files",
       [](Move& m) {
         m.host.files[0] = {};
         m.host.files[1].size = 1;
       },
       {"open-file-missing", "open-file-different"}},
      {"shared file being written",
       [](Move& m) {
         m.request.mutable_files(1)->set_shared(true);
         m.request.mutable_files(1)->set_writable(true);
         m.host.files[1].size = 6;
       },
       {}},
      {"shared file not settled",
       [](Move& m) {
         m.request.mutable_files(1)->set_shared(true);
         m.host.files[1].size = 6;
       },
       {}},
      {"settled shared file differs",
       [](Move& m) {
         m.request.mutable_files(1)->set_shared(true);
         m.request.mutable_files(1)->set_modified_ns(1000);
         m.host.files[1].modified_ns = 1001;
       },
       {"open-file-different"}},
  };
  for (const Case& c : cases) {
    Move move = Possible();
    c.change(move);
    std::vector<std::string> codes;
    for (const auto& obstacle : CheckTarget(move.request, move.host)) {
      codes.push_back(obstacle.code());
    }
    EXPECT_EQ(codes, c.codes) << c.name;
  }
}

TEST(TargetCheckTest, StorageTokens) {
  Move move = Possible();
  v1::FileFact* token = move.request.add_files();
  token->set_path("/shared/.starling-storage-0123");
  token->set_shared(true);
  token->set_content_hash(9);
  HostFile there;
  there.exists = true;
  there.content_hash = 9;
  move.host.files.push_back(there);
  EXPECT_TRUE(CheckTarget(move.request, move.host).empty());

  move.host.files[2].content_hash = 8;
  auto obstacles = CheckTarget(move.request, move.host);
  ASSERT_EQ(obstacles.size(), 1u);
  EXPECT_EQ(obstacles[0].code(), "shared-path-other-storage");
  EXPECT_EQ(obstacles[0].thing(), "/shared");

  move.host.files[2] = {};
  obstacles = CheckTarget(move.request, move.host);
  ASSERT_EQ(obstacles.size(), 1u);
  EXPECT_EQ(obstacles[0].code(), "shared-path-other-storage");

  // What lies on it is missing too, of course; "install the file" would be bad advice.
  v1::FileFact* inside = move.request.add_files();
  inside->set_path("/shared/rows.db");
  inside->set_shared(true);
  move.host.files.emplace_back();
  obstacles = CheckTarget(move.request, move.host);
  ASSERT_EQ(obstacles.size(), 1u);
  EXPECT_EQ(obstacles[0].code(), "shared-path-other-storage");

  // A path that is not there at all is named once, as missing.
  move.host.missing_shared = {"/shared"};
  obstacles = CheckTarget(move.request, move.host);
  ASSERT_EQ(obstacles.size(), 1u);
  EXPECT_EQ(obstacles[0].code(), "shared-path-missing");
}

TEST(TargetCheckTest, TheWordsSayWhatAndWhere) {
  Move move = Possible();
  move.host.memory_available_bytes = 50;
  const auto obstacles = CheckTarget(move.request, move.host);
  ASSERT_EQ(obstacles.size(), 1u);
  EXPECT_EQ(obstacles[0].thing(), "b");
  EXPECT_EQ(obstacles[0].reason(), "b has 50 B of memory available, and the move needs 200 B.");
}

TEST(TargetCheckTest, OtherArchitecturesListOnlyWhatProgramsUse) {
  EXPECT_THAT(MissingCpuFlags({"fp", "asimd", "sve"}, {"fp", "asimd"}), ElementsAre("sve"));
  EXPECT_THAT(MissingCpuFlags({"fpu", "sse2", "hypervisor", "ibrs"}, {"fpu"}), ElementsAre("sse2"));
}

TEST(TargetCheckTest, Versions) {
  EXPECT_EQ(MajorMinor("6.12.9-amd64"), std::make_pair(6, 12));
  EXPECT_EQ(MajorMinor("3.17"), std::make_pair(3, 17));
  EXPECT_EQ(MajorMinor("6"), std::make_pair(0, 0));
  EXPECT_EQ(MajorMinor(""), std::make_pair(0, 0));
}

}  // namespace
}  // namespace starling::preflight
