#include "runtime/bench/tools.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

namespace starling::bench {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

v1::BenchTool Tool(const std::string& name) {
  v1::BenchTool tool;
  tool.set_tool(name);
  return tool;
}

TEST(BenchTools, OnlyTheKnownOnesAreRun) {
  for (const std::string& tool : Tools()) {
    const auto commands = CommandsOf(tool, "rxe0", "10.77.0.2", 18600, 2);
    ASSERT_TRUE(commands.ok()) << commands.status();
    EXPECT_EQ(commands->server[0], tool);
    EXPECT_EQ(commands->client[0], tool);
    EXPECT_THAT(commands->client, Contains("10.77.0.2"));
  }
  for (const char* other : {"", "sh", "iperf3;sh", "/bin/iperf3"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(CommandsOf(other, "rxe0", "10.77.0.2", 18600, 2).status()))
        << other;
  }
}

TEST(BenchTools, ReadsWhatTheyPrint) {
  v1::BenchTool bandwidth = Tool("ib_write_bw");
  ASSERT_TRUE(ReadFigure(" #bytes     #iterations    BW peak[Gb/sec]    BW average[Gb/sec]   "
                         "MsgRate[Mpps]\n 1048576    2000             0.00               1.60      "
                         "           0.000191\n",
                         bandwidth)
                  .ok());
  EXPECT_DOUBLE_EQ(bandwidth.bytes_per_s(), 2e8);
  v1::BenchTool latency = Tool("ib_send_lat");
  ASSERT_TRUE(ReadFigure(" #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    "
                         "t_avg[usec]\n 16      1000          100.00         900.00       150.00   "
                         "           160.00\n",
                         latency)
                  .ok());
  EXPECT_DOUBLE_EQ(latency.one_way_s(), 150e-6);
  v1::BenchTool iperf3 = Tool("iperf3");
  ASSERT_TRUE(ReadFigure(R"({"end": {"sum_received": {"bits_per_second": 8e9}}})", iperf3).ok());
  EXPECT_DOUBLE_EQ(iperf3.bytes_per_s(), 1e9);
}

TEST(BenchTools, WhatHasNoFigureIsSaid) {
  for (const std::string& name : Tools()) {
    for (const char* output : {"", "Couldn't connect to 10.77.0.2", "{}", "[1]", "16 1 2 3 x"}) {
      v1::BenchTool tool = Tool(name);
      EXPECT_TRUE(absl::IsDataLoss(ReadFigure(output, tool))) << name << ": " << output;
    }
  }
}

TEST(BenchTools, ProcessesEnd) {
  const Deadline soon = Deadline::After(std::chrono::seconds(60));
  auto echo = ToolProcess::Start({"echo", "hello"});
  ASSERT_TRUE(echo.ok()) << echo.status();
  EXPECT_EQ(*(*echo)->Finish(soon), "hello\n");
  auto fails = ToolProcess::Start({"sh", "-c", "echo why; exit 3"});
  ASSERT_TRUE(fails.ok());
  const auto failed = (*fails)->Finish(soon);
  EXPECT_TRUE(absl::IsAborted(failed.status())) << failed.status();
  EXPECT_THAT(std::string(failed.status().message()), HasSubstr("why"));
  auto hangs = ToolProcess::Start({"sleep", "1000"});
  ASSERT_TRUE(hangs.ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      (*hangs)->Finish(Deadline::After(std::chrono::milliseconds(20))).status()));
  EXPECT_FALSE((*hangs)->Ended());
  auto ends = ToolProcess::Start({"true"});
  ASSERT_TRUE(ends.ok());
  while (!(*ends)->Ended() && !soon.Passed()) std::this_thread::yield();
  EXPECT_TRUE((*ends)->Ended());
  EXPECT_TRUE(absl::IsFailedPrecondition((*ends)->Finish(soon).status()));
  EXPECT_TRUE(absl::IsNotFound(ToolProcess::Start({"no-such-program"}).status()));
}

}  // namespace
}  // namespace starling::bench
