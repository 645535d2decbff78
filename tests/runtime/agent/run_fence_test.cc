#include "runtime/agent/run_fence.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "tests/runtime/scratch.h"

namespace starling::agent {
namespace {

class RunFenceTest : public ::testing::Test {
 protected:
  std::string Script(const std::string& body) {
    const std::string path = scratch_ / "fence";
    std::ofstream(path) << "#!/bin/sh\n" << body << "\n";
    EXPECT_EQ(::chmod(path.c_str(), 0755), 0);
    return path;
  }
  static Deadline Soon() { return Deadline::After(std::chrono::seconds(60)); }

  Scratch scratch_;
};

TEST_F(RunFenceTest, ExitCodeZeroWithTheHostAsItsOnlyArgument) {
  const std::string said = scratch_ / "said";
  ASSERT_TRUE(RunFence(Script("echo $# $1 >" + said), "node one", Soon()).ok());
  EXPECT_EQ(ReadFile(said).value(), "1 node one\n");
}

TEST_F(RunFenceTest, EverythingElseIsNotFenced) {
  absl::Status status = RunFence(Script("echo the switch says no; exit 3"), "node1", Soon());
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "node1 ended with 3")) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "the switch says no")) << status;
  status = RunFence(Script("kill -9 $$"), "node1", Soon());
  EXPECT_TRUE(absl::StrContains(status.message(), "signal 9")) << status;
  status = RunFence(scratch_ / "nothing", "node1", Soon());
  EXPECT_FALSE(status.ok());
  EXPECT_TRUE(absl::StrContains(status.message(), "nothing")) << status;
}

// One that closes its output and goes on, and one that leaves a child with it behind.
TEST_F(RunFenceTest, ItsOwnEndCounts) {
  EXPECT_TRUE(RunFence(Script("exec >&- 2>&-; sleep 0.2; exit 0"), "node1", Soon()).ok());
  const std::string pid = scratch_ / "pid";
  const TimePoint begun = Clock::now();
  EXPECT_TRUE(RunFence(Script("sleep 600 & echo $! >" + pid + "; exit 0"), "node1", Soon()).ok());
  EXPECT_LT(Seconds(Clock::now() - begun), 300);
  int child = 0;
  ASSERT_TRUE(absl::SimpleAtoi(ReadFile(pid).value(), &child));
  ::kill(child, SIGKILL);
}

TEST_F(RunFenceTest, ALateOneIsKilledWithItsChildren) {
  const std::string pid = scratch_ / "pid";
  const absl::Status status = RunFence(Script("sleep 600 & echo $! >" + pid + "; wait"), "node1",
                                       Deadline::After(std::chrono::milliseconds(500)));
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  int child = 0;
  ASSERT_TRUE(absl::SimpleAtoi(ReadFile(pid).value(), &child));
  // It is nobody's any more, and may take a moment to be reaped.
  for (int i = 0; i < 1000 && ::kill(child, 0) == 0; ++i) {
    const auto stat = ReadFile("/proc/" + std::to_string(child) + "/stat");
    if (!stat.ok() || absl::StrContains(*stat, ") Z ")) return;
    ::usleep(10'000);
  }
  EXPECT_NE(::kill(child, 0), 0);
}

}  // namespace
}  // namespace starling::agent
