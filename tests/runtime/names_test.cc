#include "runtime/names.h"

#include <gtest/gtest.h>

namespace starling {
namespace {

TEST(ComponentName, IsSafeInPathsAndInterfaces) {
  for (const std::string& name : {std::string("a"), std::string("redis"), std::string("web-1"),
                                  std::string("0day"), std::string(48, 'x')}) {
    EXPECT_TRUE(CheckComponentName(name).ok()) << name;
  }
  for (const std::string& name :
       {std::string(), std::string("-a"), std::string("A"), std::string("a/b"), std::string(".."),
        std::string("a b"), std::string("a\n"), std::string("a\0b", 3), std::string(49, 'x'),
        std::string("gr\xc3\xbc\xc3\x9f")}) {
    EXPECT_EQ(CheckComponentName(name).code(), absl::StatusCode::kInvalidArgument) << name;
  }
  EXPECT_NE(CheckComponentName("a b").message().find("'a b'"), std::string::npos);
}

TEST(Relation, NamesAComponentOrAnApplication) {
  for (const char* name : {"redis", "application:shop", "application"}) {
    EXPECT_TRUE(CheckRelation(name).ok()) << name;
  }
  for (const char* name : {"", "app:shop", "application:", "application:Shop", "application:a:b"}) {
    EXPECT_FALSE(CheckRelation(name).ok()) << name;
  }
  EXPECT_NE(CheckApplicationName("a b").message().find("'a b' cannot name an application"),
            std::string::npos);
}

TEST(HostName, TakesWhatHostsAreCalled) {
  for (const char* name : {"node1", "Node-1.example.org", "n_1"}) {
    EXPECT_TRUE(CheckHostName(name).ok()) << name;
  }
  for (const char* name : {"", "-n", ".n", "a b", "a/b", "a:1"}) {
    EXPECT_FALSE(CheckHostName(name).ok()) << name;
  }
  EXPECT_FALSE(CheckHostName(std::string(65, 'a')).ok());
}

TEST(AbsolutePath, IsWrittenOut) {
  for (const char* path : {"/", "/a", "/srv/data.d/x y"}) {
    EXPECT_TRUE(CheckAbsolutePath(path).ok()) << path;
  }
  for (const char* path : {"", "a", "./a", "/a/", "//a", "/a/../b", "/a/.", "/.."}) {
    EXPECT_FALSE(CheckAbsolutePath(path).ok()) << path;
  }
  EXPECT_FALSE(CheckAbsolutePath("/" + std::string(5000, 'a')).ok());
  EXPECT_FALSE(CheckAbsolutePath(absl::string_view("/a\0b", 4)).ok());
}

TEST(IpPrefix, IsAHostsAddress) {
  auto prefix = ParseIpPrefix("10.77.0.50/24");
  ASSERT_TRUE(prefix.ok());
  EXPECT_EQ(prefix->address, "10.77.0.50");
  EXPECT_EQ(prefix->length, 24);
  EXPECT_TRUE(ParseIpPrefix("10.0.0.0/31").ok());
  EXPECT_TRUE(ParseIpPrefix("10.0.0.1/32").ok());
  for (const char* text :
       {"", "10.77.0.50", "10.77.0.50/", "10.77.0.50/0", "10.77.0.50/33", "10.77.0.50/-1",
        "10.77.0.50/ 24", "10.77.0/24", "10.77.0.256/24", "10.77.0.0/24", "10.77.0.255/24",
        "127.0.0.1/8", "224.0.0.1/4", "0.0.0.1/8", "fe80::1/64", "10.77.0.50/24x", "/24"}) {
    EXPECT_FALSE(ParseIpPrefix(text).ok()) << text;
  }
}

TEST(Endpoint, HasAnAddressAndAPort) {
  auto endpoint = ParseEndpoint("10.77.0.1:7400");
  ASSERT_TRUE(endpoint.ok());
  EXPECT_EQ(endpoint->address, "10.77.0.1");
  EXPECT_EQ(endpoint->port, 7400);
  EXPECT_TRUE(ParseEndpoint("node1:1").ok());
  for (const char* text : {"", "10.77.0.1", "10.77.0.1:", ":7400", "10.77.0.1:0", "10.77.0.1:65536",
                           "10.77.0.1:+1", "a b:1", "10.77.0.1:74x"}) {
    EXPECT_FALSE(ParseEndpoint(text).ok()) << text;
  }
}

TEST(MigrationId, IsHexAndShort) {
  EXPECT_TRUE(CheckMigrationId("7f3a-00").ok());
  for (const char* id : {"", "G", "a/b", "7F"}) EXPECT_FALSE(CheckMigrationId(id).ok()) << id;
  EXPECT_FALSE(CheckMigrationId(std::string(65, 'a')).ok());
}

}  // namespace
}  // namespace starling
