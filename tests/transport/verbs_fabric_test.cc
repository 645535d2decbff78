#include "transport/verbs_fabric.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

// What can be seen without a device; fabric_check does the rest between two machines.

namespace starling::transport {
namespace {

using ::testing::HasSubstr;

TEST(VerbsFabric, UnknownDeviceSaysWhatToDo) {
  const auto fabric = OpenVerbs({.device = "no_such_device0"});
  ASSERT_FALSE(fabric.ok());
  // Not "not found", which the command line keeps for components and hosts.
  EXPECT_TRUE(absl::IsFailedPrecondition(fabric.status())) << fabric.status();
  const std::string message(fabric.status().message());
  EXPECT_THAT(message, HasSubstr("no_such_device0"));
  EXPECT_THAT(message, HasSubstr("ibv_devices"));
  EXPECT_THAT(message, HasSubstr("rdma link add"));
}

}  // namespace
}  // namespace starling::transport
