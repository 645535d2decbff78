#include "runtime/spec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <set>

#include "absl/strings/str_cat.h"

namespace starling {
namespace {

v1::ComponentSpec Good() {
  v1::ComponentSpec spec;
  spec.set_name("redis");
  spec.add_command("/usr/bin/redis-server");
  spec.add_command("--save");
  spec.add_command("");
  spec.add_command("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x90\xa6");
  spec.set_user("nobody");
  spec.set_ip("10.77.0.50/24");
  spec.set_mac(MakeMac("redis", "10.77.0.50/24"));
  spec.set_memory_bytes(1 << 30);
  spec.set_io_max_bytes_per_s(1 << 20);
  spec.set_application("shop");
  spec.add_near("web");
  spec.add_near("application:shop");
  spec.add_apart("application:batch");
  spec.add_shared("/shared/redis");
  spec.add_ship("/var/lib/redis");
  spec.add_ship("/var/lib/redis.conf");
  spec.set_directory("/");
  spec.add_environment("LANG=C");
  return spec;
}

TEST(CheckSpec, TakesAGoodOne) {
  EXPECT_TRUE(CheckSpec(Good()).ok()) << CheckSpec(Good());
  v1::ComponentSpec least;
  least.set_name("a");
  least.add_command("/bin/true");
  EXPECT_TRUE(CheckSpec(least).ok());
}

TEST(CheckSpec, NamesTheFieldThatIsWrong) {
  using Spec = v1::ComponentSpec;
  const std::pair<const char*, std::function<void(Spec&)>> cases[] = {
      {"name a component", [](Spec& s) { s.set_name("Redis"); }},
      {"command", [](Spec& s) { s.clear_command(); }},
      {"command", [](Spec& s) { s.set_command(0, "redis-server"); }},
      {"command", [](Spec& s) { s.add_command(std::string("a\0b", 3)); }},
      {"command", [](Spec& s) { s.add_command(std::string(200000, 'x')); }},
      {"command",
       [](Spec& s) {
         for (int i = 0; i < 5000; ++i) s.add_command("x");
       }},
      {"UTF-8", [](Spec& s) { s.add_command("a\xff"); }},
      {"UTF-8", [](Spec& s) { s.add_command("a\xc3"); }},
      {"UTF-8", [](Spec& s) { s.add_shared("/\xc3("); }},
      {"UTF-8", [](Spec& s) { s.set_directory("/\x80"); }},
      {"user", [](Spec& s) { s.set_user("-x"); }},
      {"user", [](Spec& s) { s.set_user("a b"); }},
      {"user", [](Spec& s) { s.set_user(std::string(33, 'u')); }},
      {"ip", [](Spec& s) { s.set_ip("10.77.0.50"); }},
      {"mac", [](Spec& s) { s.set_mac("01:00:5e:00:00:01"); }},
      {"mac", [](Spec& s) { s.set_mac("02:00:5e:00:00"); }},
      {"mac", [](Spec& s) { s.set_mac("02-00-5e-00-00-01"); }},
      {"mac", [](Spec& s) { s.clear_ip(); }},
      {"memory", [](Spec& s) { s.set_memory_bytes(4096); }},
      {"memory", [](Spec& s) { s.set_memory_bytes(~uint64_t{0}); }},
      {"shared", [](Spec& s) { s.add_shared("data"); }},
      {"shared",
       [](Spec& s) {
         for (int i = 0; i < 70; ++i) s.add_shared("/x");
       }},
      {"ship", [](Spec& s) { s.add_ship("data"); }},
      {"ship", [](Spec& s) { s.add_ship("/"); }},
      {"ship", [](Spec& s) { s.add_ship("/data/"); }},
      {"ship", [](Spec& s) { s.add_ship("/data/" + std::string(161, 'x')); }},
      {"lie one in the other", [](Spec& s) { s.add_ship("/shared/redis/data"); }},
      {"lie one in the other", [](Spec& s) { s.add_ship("/shared"); }},
      {"lie one in the other",
       [](Spec& s) {
         s.add_ship("/data");
         s.add_ship("/data");
       }},
      {"lie one in the other",
       [](Spec& s) {
         s.add_ship("/data/a");
         s.add_ship("/data");
       }},
      {"directory", [](Spec& s) { s.set_directory("/a/../b"); }},
      {"environment", [](Spec& s) { s.add_environment("LANG"); }},
      {"environment", [](Spec& s) { s.add_environment("=C"); }},
      {"priority", [](Spec& s) { s.set_priority(1001); }},
      {"priority", [](Spec& s) { s.set_priority(INT32_MIN); }},
      {"bears_blackout", [](Spec& s) { s.set_bears_blackout_s(-1); }},
      {"bears_blackout", [](Spec& s) { s.set_bears_blackout_s(NAN); }},
      {"near", [](Spec& s) { s.add_near("No"); }},
      {"apart", [](Spec& s) { s.add_apart("../x"); }},
      {"prefers", [](Spec& s) { s.add_prefers("a b"); }},
      {"application", [](Spec& s) { s.set_application("Shop"); }},
      {"near: '' cannot name an application", [](Spec& s) { s.add_near("application:"); }},
      {"apart", [](Spec& s) { s.add_apart("app:shop"); }},
      {"io_max", [](Spec& s) { s.set_io_max_bytes_per_s(1024); }},
      {"io_max", [](Spec& s) { s.set_io_max_bytes_per_s(UINT64_MAX); }},
      {"probe: has a NUL", [](Spec& s) { s.set_probe(std::string("a\0b", 3)); }},
      {"probe: is not UTF-8", [](Spec& s) { s.set_probe("a\xff"); }},
      {"probe: more than", [](Spec& s) { s.set_probe(std::string(20000, 'x')); }},
      {"probe_timeout: only with", [](Spec& s) { s.set_probe_timeout_s(5); }},
      {"probe_timeout",
       [](Spec& s) {
         s.set_probe("true");
         s.set_probe_timeout_s(NAN);
       }},
      {"probe_timeout",
       [](Spec& s) {
         s.set_probe("true");
         s.set_probe_timeout_s(3601);
       }},
  };
  for (const auto& [word, spoil] : cases) {
    Spec spec = Good();
    spoil(spec);
    const absl::Status status = CheckSpec(spec);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << word;
    EXPECT_NE(status.message().find(word), std::string::npos) << status;
  }
}

TEST(MakeMac, IsStableLocalAndDistinct) {
  EXPECT_EQ(MakeMac("redis", ""), "");
  EXPECT_EQ(MakeMac("redis", "10.77.0.50/24"), MakeMac("redis", "10.77.0.50/24"));
  std::set<std::string> seen;
  for (int i = 1; i < 200; ++i) {
    v1::ComponentSpec spec = Good();
    spec.set_ip(absl::StrCat("10.77.0.", i, "/24"));
    spec.set_mac(MakeMac("redis", spec.ip()));
    EXPECT_TRUE(CheckSpec(spec).ok()) << CheckSpec(spec);
    EXPECT_TRUE(seen.insert(spec.mac()).second);
  }
}

TEST(ProbeFor, WhatIsAskedForGoesFirst) {
  v1::ComponentSpec spec = Good();
  EXPECT_EQ(ProbeFor(spec, {}, 10).command, "");
  EXPECT_EQ(ProbeFor(spec, {"ask", 0}, 10).timeout_s, 10);
  spec.set_probe("own");
  EXPECT_EQ(ProbeFor(spec, {}, 10).timeout_s, 10);
  spec.set_probe_timeout_s(3);
  ASSERT_TRUE(CheckSpec(spec).ok());
  const ProbeSpec own = ProbeFor(spec, {}, 10);
  EXPECT_EQ(own.command, "own");
  EXPECT_EQ(own.timeout_s, 3);
  // A time is one of the command that it was said of.
  const ProbeSpec other = ProbeFor(spec, {"ask", 0}, 10);
  EXPECT_EQ(other.command, "ask");
  EXPECT_EQ(other.timeout_s, 10);
  const ProbeSpec longer = ProbeFor(spec, {"", 60}, 10);
  EXPECT_EQ(longer.command, "own");
  EXPECT_EQ(longer.timeout_s, 60);
}

}  // namespace
}  // namespace starling
