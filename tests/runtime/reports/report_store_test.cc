#include "runtime/reports/report_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "tests/runtime/scratch.h"

namespace starling {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

v1::MigrationReport Report(const std::string& component, const std::string& id) {
  v1::MigrationReport report;
  report.set_component(component);
  report.set_migration_id(id);
  report.set_from("node1");
  report.set_to("node2");
  return report;
}

class ReportStoreTest : public testing::Test {
 protected:
  // Saved as if `age_s` seconds ago: files written one after the other may have the same time.
  void Save(const ReportStore& store, const std::string& component, const std::string& id,
            int age_s) {
    v1::MigrationReport report = Report(component, id);
    ASSERT_TRUE(store.Save(report).ok());
    fs::last_write_time(report.file(),
                        fs::file_time_type::clock::now() - std::chrono::seconds(age_s));
  }
  size_t Files() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }

  Scratch scratch_;
  const std::string folder_ = scratch_ / "reports";
};

TEST_F(ReportStoreTest, FindsByComponentAndById) {
  const ReportStore store(folder_, 10);
  EXPECT_TRUE(absl::IsNotFound(store.Find("redis").status()));
  Save(store, "redis", "aa01", 30);
  Save(store, "redis", "aa02", 20);
  Save(store, "web", "aa03", 10);
  const auto latest = store.Find("redis");
  ASSERT_TRUE(latest.ok()) << latest.status();
  EXPECT_THAT(latest->json(), HasSubstr("\"migration_id\":\"aa02\""));
  EXPECT_THAT(latest->text(), HasSubstr("aa02"));
  EXPECT_THAT(store.Find("aa01")->json(), HasSubstr("\"aa01\""));
  EXPECT_TRUE(absl::IsNotFound(store.Find("red").status()));
  EXPECT_TRUE(absl::IsNotFound(store.Find("../reports/redis.aa01").status()));
  EXPECT_TRUE(absl::IsNotFound(store.Find("").status()));
}

TEST_F(ReportStoreTest, TellsWhereItKeptOne) {
  v1::MigrationReport report = Report("redis", "aa01");
  ASSERT_TRUE(ReportStore(folder_, 10).Save(report).ok());
  EXPECT_EQ(report.file(), folder_ + "/redis.aa01.json");
  EXPECT_TRUE(fs::exists(report.file()));
  EXPECT_TRUE(fs::exists(folder_ + "/redis.aa01.txt"));
}

TEST_F(ReportStoreTest, KeepsTheLatest) {
  const ReportStore store(folder_, 3);
  for (int i = 1; i <= 3; ++i) Save(store, "redis", absl::StrCat("0", i), 100 - i);
  Save(store, "web", "04", 1);
  EXPECT_EQ(Files(), 6u);
  EXPECT_TRUE(absl::IsNotFound(store.Find("01").status()));
  EXPECT_TRUE(store.Find("02").ok());
  EXPECT_TRUE(store.Find("04").ok());
}

TEST_F(ReportStoreTest, NoneAreKeptWhereNoneAreWanted) {
  v1::MigrationReport report = Report("redis", "aa01");
  ASSERT_TRUE(ReportStore(folder_, 0).Save(report).ok());
  EXPECT_EQ(report.file(), "");
  EXPECT_FALSE(fs::exists(folder_));
}

TEST_F(ReportStoreTest, WhatCannotBeWrittenIsToldAndNamesNoFile) {
  ASSERT_TRUE(WriteFileAtomic(folder_, "in the way").ok());
  v1::MigrationReport report = Report("redis", "aa01");
  EXPECT_FALSE(ReportStore(folder_, 10).Save(report).ok());
  EXPECT_EQ(report.file(), "");
  v1::MigrationReport nameless = Report("../x", "aa01");
  EXPECT_TRUE(absl::IsInvalidArgument(ReportStore(scratch_ / "r", 10).Save(nameless)));
}

}  // namespace
}  // namespace starling
