#include "transport/roce_port.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace starling::transport {
namespace {

using ::testing::HasSubstr;

TEST(RocePort, EveryKind) {
  struct Case {
    const char* text;
    RocePort::Kind kind;
    const char* where;
    bool server;
  };
  for (const Case& c : {Case{"af_packet:eth0", RocePort::Kind::kAfPacket, "eth0", false},
                        Case{"af_xdp:eth0.7", RocePort::Kind::kAfXdp, "eth0.7", false},
                        Case{"memif:/run/memif", RocePort::Kind::kMemif, "/run/memif", false},
                        Case{"memif:/run/memif,server", RocePort::Kind::kMemif, "/run/memif", true},
                        Case{"pci:0000:00:08.0", RocePort::Kind::kPci, "0000:00:08.0", false},
                        Case{"verbs:rxe0", RocePort::Kind::kVerbs, "rxe0", false}}) {
    const auto port = ParseRocePort(c.text);
    ASSERT_TRUE(port.ok()) << port.status();
    EXPECT_EQ(port->kind, c.kind) << c.text;
    EXPECT_EQ(port->where, c.where);
    EXPECT_EQ(port->server, c.server) << c.text;
  }
}

TEST(RocePort, WhatIsNoneIsToldWhatThereIs) {
  for (const char* wrong : {"", "eth0", "af_packet:", "af_packet", "af_packet:eth0,qpairs=2",
                            "memif:,server", "pigeon:eth0", "af_xdp:a b", "AF_PACKET:eth0"}) {
    const auto port = ParseRocePort(wrong);
    EXPECT_TRUE(absl::IsInvalidArgument(port.status())) << wrong;
    EXPECT_THAT(std::string(port.status().message()), HasSubstr("af_packet:DEVICE"));
    EXPECT_THAT(std::string(port.status().message()), HasSubstr(wrong));
  }
}

}  // namespace
}  // namespace starling::transport
