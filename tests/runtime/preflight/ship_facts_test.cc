#include "runtime/preflight/ship_facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "tests/runtime/scratch.h"

namespace starling::preflight {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(ShipFactsTest, LooksAtATree) {
  const Scratch scratch;
  const std::string root = scratch / "data";
  ASSERT_EQ(::mkdir(root.c_str(), 0755), 0);
  ASSERT_EQ(::mkdir((root + "/inner").c_str(), 0755), 0);
  std::ofstream(root + "/inner/file") << std::string(100'000, 'x');
  ShippedFact fact = LookAtShipped(root);
  EXPECT_TRUE(fact.movable);
  EXPECT_GE(fact.bytes, 100'000u);
  EXPECT_LT(fact.bytes, 1'000'000u);
  EXPECT_THAT(fact.devices, IsEmpty());
  EXPECT_THAT(fact.mounts, IsEmpty());
  EXPECT_TRUE(LookAtShipped(root + "/inner/file").movable);
  EXPECT_FALSE(LookAtShipped(root + "/nothing").movable);
  ASSERT_EQ(::symlink(root.c_str(), (scratch / "link").c_str()), 0);
  EXPECT_FALSE(LookAtShipped(scratch / "link").movable);
  if (::mknod((root + "/inner/null").c_str(), S_IFCHR | 0666, (1 << 8) | 3) != 0) {
    GTEST_SKIP() << "devices cannot be made here";
  }
  EXPECT_THAT(LookAtShipped(root).devices, ElementsAre(root + "/inner/null"));
}

TEST(ShipFactsTest, SeesWhatIsMounted) {
  // Everywhere a file system of its own.
  const ShippedFact fact = LookAtShipped("/proc");
  EXPECT_THAT(fact.mounts, testing::Contains("/proc"));
}

TEST(ShipFactsTest, LooksAtAPlace) {
  const Scratch scratch;
  EXPECT_FALSE(LookAtPlace(scratch / "no/data").has_folder);
  ShippedPlace place = LookAtPlace(scratch / "data");
  EXPECT_TRUE(place.has_folder);
  EXPECT_FALSE(place.taken);
  EXPECT_GT(place.free_bytes, 0u);
  ASSERT_EQ(::mkdir((scratch / "data").c_str(), 0755), 0);
  EXPECT_FALSE(LookAtPlace(scratch / "data").taken) << "an empty folder is in nobody's way";
  std::ofstream(scratch / "data/file") << "theirs";
  EXPECT_TRUE(LookAtPlace(scratch / "data").taken);
  EXPECT_TRUE(LookAtPlace(scratch / "data/file").taken);
}

TEST(ShipFactsTest, GoesByWholeParts) {
  v1::ComponentSpec spec;
  spec.add_ship("/var/lib/db");
  EXPECT_TRUE(IsShipped("/var/lib/db", spec));
  EXPECT_TRUE(IsShipped("/var/lib/db/a/b", spec));
  EXPECT_FALSE(IsShipped("/var/lib/db2", spec));
  EXPECT_FALSE(IsShipped("/var/lib", spec));
}

}  // namespace
}  // namespace starling::preflight
