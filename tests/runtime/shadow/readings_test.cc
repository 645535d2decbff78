#include "runtime/shadow/readings.h"

#include <gtest/gtest.h>

#include <string>

namespace starling::shadow {
namespace {

TEST(Readings, Cpu) {
  EXPECT_EQ(ParseCpuUsage_us("usage_usec 1234567\nuser_usec 1000\nsystem_usec 234\n"), 1234567u);
  EXPECT_FALSE(ParseCpuUsage_us("user_usec 1000\n"));
  EXPECT_FALSE(ParseCpuUsage_us("usage_usec many\n"));
}

TEST(Readings, Number) {
  EXPECT_EQ(ParseNumber("4096\n"), 4096u);
  EXPECT_FALSE(ParseNumber("max\n"));
  EXPECT_FALSE(ParseNumber("-1\n"));
}

TEST(Readings, Io) {
  const auto io = ParseIoStat(
      "8:0 rbytes=100 wbytes=200 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=11 wbytes=22\n");
  ASSERT_TRUE(io);
  EXPECT_EQ(io->read, 111u);
  EXPECT_EQ(io->written, 222u);
  EXPECT_EQ(ParseIoStat("")->read, 0u);
}

TEST(Readings, PressureStall) {
  const auto pressure = ParsePressure(
      "some avg10=12.50 avg60=1.00 avg300=0.10 total=4242\n"
      "full avg10=2.00 avg60=0.00 avg300=0.00 total=42\n");
  ASSERT_TRUE(pressure);
  EXPECT_DOUBLE_EQ(pressure->some_avg10, 0.125);
  EXPECT_DOUBLE_EQ(pressure->full_avg10, 0.02);
  EXPECT_EQ(pressure->some_total_us, 4242u);
  EXPECT_FALSE(ParsePressure(""));
  EXPECT_FALSE(ParsePressure("some avg10=200 avg60=0 avg300=0 total=1\n"));
}

TEST(Readings, Network) {
  const auto net = ParseNetDev(
      "Inter-|   Receive  |  Transmit\n face |bytes packets errs ...\n"
      "    lo: 999 1 0 0 0 0 0 0 999 1 0 0 0 0 0 0\n"
      "  eth0: 1000 10 0 0 0 0 0 0 2000 20 0 0 0 0 0 0\n"
      "mv0:5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n");
  ASSERT_TRUE(net);
  EXPECT_EQ(net->received, 1005u);
  EXPECT_EQ(net->sent, 2006u);
  EXPECT_FALSE(ParseNetDev("nothing"));
}

TEST(Readings, PacketsThatCame) {
  EXPECT_EQ(ParseIpDelivered("Ip: Forwarding DefaultTTL InReceives InDelivers OutRequests\n"
                             "Ip: 2 64 20 17 30\nIcmp: InMsgs InDelivers\nIcmp: 5 6\n"),
            17u);
  EXPECT_FALSE(ParseIpDelivered("Ip: Forwarding InDelivers\nIp: 2\n"));
  EXPECT_FALSE(ParseIpDelivered("Icmp: InDelivers\nIcmp: 6\n"));
}

TEST(Readings, SurviveAnything) {
  uint32_t random = 1;
  for (int round = 0; round < 5000; ++round) {
    std::string text;
    for (int i = 0; i < 80; ++i) {
      random = random * 1664525u + 1013904223u;
      text += "usage_usec some avg10= total=rbytes: 0123456789\n\t-."[(random >> 8) % 52];
    }
    ParseCpuUsage_us(text);
    ParseNumber(text);
    ParseIoStat(text);
    ParsePressure(text);
    ParseNetDev(text);
    ParseIpDelivered("Ip: a InDelivers\n" + text);
  }
}

TEST(Readings, InactiveFile) {
  EXPECT_EQ(ParseInactiveFile("anon 5\ninactive_file 4096\nactive_file 1\n"), 4096u);
  EXPECT_EQ(ParseInactiveFile("anon 5\n"), std::nullopt);
}

TEST(Readings, Meminfo) {
  const char* text = "MemTotal:  768 kB\nMemFree: 100 kB\nHugePages_Total: 0\n";
  EXPECT_EQ(ParseMeminfo(text, "MemTotal"), 768u * 1024);
  EXPECT_EQ(ParseMeminfo(text, "MemAvailable"), std::nullopt);
  EXPECT_EQ(ParseMeminfo("MemTotal: many kB\n", "MemTotal"), std::nullopt);
  EXPECT_EQ(ParseMeminfo("MemTotal: 18446744073709551615 kB\n", "MemTotal"), std::nullopt);
}

TEST(Readings, ProcessorTicks) {
  const auto ticks = ParseProcessorTicks("cpu  10 1 5 100 20 2 3 4 7 0\ncpu0 1 1 1 1 1 1 1 1\n");
  ASSERT_TRUE(ticks);
  EXPECT_EQ(ticks->busy, 25u);
  EXPECT_EQ(ticks->all, 145u);
  EXPECT_FALSE(ParseProcessorTicks("cpu  10 1 5\n"));
  EXPECT_FALSE(ParseProcessorTicks("cpu  10 1 5 x 20 2 3 4\n"));
  EXPECT_FALSE(ParseProcessorTicks(""));
}

TEST(ParseBlockStat, CountsSectors) {
  const auto bytes = ParseBlockStat("  81 12 2048 30 4 0 16 5 0 6 7 0 0 0 0 0 0\n");
  ASSERT_TRUE(bytes);
  EXPECT_EQ(bytes->read, 2048u * 512);
  EXPECT_EQ(bytes->written, 16u * 512);
  for (const char* wrong : {"", "1 2 3", "1 2 x 4 5 6 7 8", "1 2 18446744073709551615 4 5 6 7 8"}) {
    EXPECT_FALSE(ParseBlockStat(wrong)) << wrong;
  }
}

TEST(ParseNetDev, CountsThoseThatAreNamed) {
  const char* text =
      "    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n"
      "  eth0: 7 1 0 0 0 0 0 0 11 1 0 0 0 0 0 0\n"
      "  eth1: 13 1 0 0 0 0 0 0 17 1 0 0 0 0 0 0\n";
  const std::set<std::string> only = {"eth1", "none"};
  EXPECT_EQ(ParseNetDev(text, &only)->received, 13u);
  EXPECT_EQ(ParseNetDev(text, &only)->sent, 17u);
  EXPECT_EQ(ParseNetDev(text)->received, 20u);
}

}  // namespace
}  // namespace starling::shadow
