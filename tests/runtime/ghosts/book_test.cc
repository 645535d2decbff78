#include "runtime/ghosts/book.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/runtime/scratch.h"

namespace starling::ghosts {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

v1::GhostRecord Record(const std::string& component, const std::string& on,
                       const std::string& id = "") {
  v1::GhostRecord record;
  record.mutable_wish()->set_component(component);
  record.mutable_wish()->set_on(on);
  record.mutable_wish()->set_warm(true);
  record.set_migration_id(id);
  return record;
}

class BookTest : public ::testing::Test {
 protected:
  std::vector<std::string> Names() {
    std::vector<std::string> names;
    const std::vector<v1::GhostRecord> all = book_.All().value();
    for (const v1::GhostRecord& record : all) {
      names.push_back(absl::StrCat(record.wish().component(), "@", record.wish().on(), " ",
                                   record.migration_id()));
    }
    return names;
  }
  void Write(const std::string& name, const std::string& content) {
    std::ofstream(absl::StrCat(folder_, "/", name)) << content;
  }

  Scratch scratch_;
  const std::string folder_ = scratch_ / "ghosts";
  Book book_{folder_};
};

TEST_F(BookTest, KeepsWhatItWasGivenLast) {
  EXPECT_THAT(Names(), IsEmpty());
  ASSERT_TRUE(book_.Put(Record("web", "node2", "aa")).ok());
  ASSERT_TRUE(book_.Put(Record("redis", "node3")).ok());
  ASSERT_TRUE(book_.Put(Record("web", "node2", "bb")).ok());
  ASSERT_TRUE(book_.Put(Record("web", "node3.example")).ok());
  EXPECT_THAT(Names(), ElementsAre("redis@node3 ", "web@node2 bb", "web@node3.example "));
  // By another agent.
  EXPECT_EQ(Book(folder_).All().value().size(), 3);
  ASSERT_TRUE(book_.Remove(Record("web", "node2").wish()).ok());
  ASSERT_TRUE(book_.Remove(Record("web", "node2").wish()).ok());
  EXPECT_THAT(Names(), ElementsAre("redis@node3 ", "web@node3.example "));
}

TEST_F(BookTest, RefusesNamesThatAreNone) {
  EXPECT_TRUE(absl::IsInvalidArgument(book_.Put(Record("../web", "node2"))));
  EXPECT_TRUE(absl::IsInvalidArgument(book_.Put(Record("web", "a/b"))));
  EXPECT_TRUE(absl::IsInvalidArgument(book_.Remove(Record("web", "../../etc").wish())));
}

TEST_F(BookTest, AnUnfinishedFileIsNone) {
  ASSERT_TRUE(book_.Put(Record("web", "node2", "aa")).ok());
  Write("web@node2.new", Record("web", "node2", "bb").SerializeAsString());
  Write("redis@node2.new", "");
  EXPECT_THAT(Names(), ElementsAre("web@node2 aa"));
  // A host may be called so.
  ASSERT_TRUE(book_.Put(Record("web", "host.new", "cc")).ok());
  EXPECT_THAT(Names(), ElementsAre("web@host.new cc", "web@node2 aa"));
}

// What may run elsewhere must not be forgotten.
TEST_F(BookTest, ADamagedFileIsNamed) {
  for (const auto& [name, content] :
       {std::pair<std::string, std::string>{"web@node2", "\xff\xff"},
        {"web@node2", ""},
        {"web@node2", Record("web", "node3").SerializeAsString()},
        {"web@node2", Record("web", "node2", "not/an/id").SerializeAsString()}}) {
    ASSERT_TRUE(book_.Put(Record("redis", "node3")).ok());
    Write(name, content);
    const absl::Status status = book_.All().status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), "/web@node2 is no record")) << status;
  }
}

}  // namespace
}  // namespace starling::ghosts
