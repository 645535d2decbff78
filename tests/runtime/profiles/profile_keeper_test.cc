#include "runtime/profiles/profile_keeper.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/file.h"
#include "nlohmann/json.hpp"
#include "tests/runtime/scratch.h"

namespace starling {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr int64_t kHour = 3600, kDay = 24 * kHour, kWeek = 7 * kDay;
constexpr int64_t kMonday = 1704067200;  // 2024-01-01

ProfileSeen Seen(const std::string& component, std::set<std::string> users = {}, bool input = false,
                 const std::string& runs_as = "") {
  return {component, std::move(users), runs_as, input, false};
}

class ProfileKeeperTest : public testing::Test {
 protected:
  void SetUp() override { Reopen(); }
  void Reopen(int keep_days = 180) {
    keeper_.reset();
    auto keeper = ProfileKeeper::Open(Path(), keep_days);
    ASSERT_TRUE(keeper.ok()) << keeper.status();
    keeper_ = *std::move(keeper);
  }
  std::string Path() const { return scratch_ / "profiles.db"; }
  void See(int64_t at_s, const std::vector<ProfileSeen>& all) {
    keeper_->See(at_s, all);
    const absl::Status written = keeper_->Write();
    ASSERT_TRUE(written.ok()) << written;
  }
  json Exported(const std::string& subject) {
    const auto text = keeper_->Export(subject);
    EXPECT_TRUE(text.ok()) << text.status();
    return text.ok() ? json::parse(*text) : json();
  }

  Scratch scratch_{InMemory()};
  std::unique_ptr<ProfileKeeper> keeper_;
};

TEST_F(ProfileKeeperTest, KeepsNothingOfAUserBeforeConsent) {
  See(kMonday + 9 * kHour, {Seen("desk", {"ann"}, true)});
  EXPECT_EQ(keeper_->Describe("user:ann").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Exported("component:desk")["hours"].size(), 1u);
  EXPECT_THAT(Exported("component:desk").dump(), testing::Not(HasSubstr("ann")));
  // What was seen before does not come up later.
  ASSERT_TRUE(keeper_->SetConsent("ann", true).ok());
  See(kMonday + 9 * kHour + 60, {Seen("desk")});
  EXPECT_EQ(Exported("user:ann")["hours"].size(), 0u);
  EXPECT_EQ(Exported("user:ann")["visits"].size(), 0u);
}

TEST_F(ProfileKeeperTest, RemembersConnectionsAsTheComponentTellsThem) {
  ASSERT_TRUE(keeper_->SetConsent("ann", true).ok());
  for (int64_t s = 0; s < 2 * kHour; s += 60) {
    const bool there = s >= 600 && s < 3000;
    See(kMonday + 9 * kHour + s,
        {Seen("desk", there ? std::set<std::string>{"ann", "bob"} : std::set<std::string>{})});
  }
  const json visits = Exported("user:ann")["visits"];
  ASSERT_EQ(visits.size(), 1u);
  EXPECT_EQ(visits[0]["component"], "desk");
  EXPECT_EQ(visits[0]["connected_local_s"], kMonday + 9 * kHour + 600);
  EXPECT_EQ(visits[0]["disconnected_local_s"], kMonday + 9 * kHour + 3000);
  EXPECT_EQ(keeper_->Describe("user:bob").status().code(), absl::StatusCode::kNotFound);
  // The hour with her and the one without, once each, whatever the number of looks.
  const json hours = Exported("user:ann")["hours"];
  ASSERT_EQ(hours.size(), 2u);
  EXPECT_EQ(hours[0]["seen"], 1.0);
  EXPECT_EQ(hours[0]["active"], 1.0);
  EXPECT_EQ(hours[1]["active"], 0.0);
}

TEST_F(ProfileKeeperTest, TakesSilenceForLeaving) {
  ASSERT_TRUE(keeper_->SetConsent("ann", true).ok());
  const int64_t begin = kMonday + 9 * kHour;
  for (int64_t s = 0; s < kHour; s += 10) {
    // Input to a component that runs as her, for five minutes, with a pause of ten in it.
    const bool input = s < 120 || (s > 720 && s <= 900);
    See(begin + s, {Seen("desk", {}, input, "ann")});
  }
  const json visits = Exported("user:ann")["visits"];
  ASSERT_EQ(visits.size(), 1u);
  EXPECT_EQ(visits[0]["connected_local_s"], begin);
  EXPECT_EQ(visits[0]["disconnected_local_s"], begin + 900);
  EXPECT_EQ(Exported("component:desk")["visits"].size(), 1u);
}

TEST_F(ProfileKeeperTest, AComponentThatLeftHasNoVisitors) {
  ASSERT_TRUE(keeper_->SetConsent("ann", true).ok());
  See(kMonday, {Seen("desk", {"ann"})});
  See(kMonday + 60, {});
  EXPECT_EQ(Exported("user:ann")["visits"][0]["disconnected_local_s"], kMonday + 60);
}

TEST_F(ProfileKeeperTest, KnowsWhatIsUsualAtThisHour) {
  ASSERT_TRUE(keeper_->SetConsent("ann", true).ok());
  for (int week = 0; week < 4; ++week) {
    for (int hour = 6; hour < 14; ++hour) {
      const int64_t at = kMonday + week * kWeek + hour * kHour;
      const bool at_work = hour >= 9 && hour < 12;
      See(at, {Seen("desk", at_work ? std::set<std::string>{"ann"} : std::set<std::string>{}),
               Seen("batch"),
               Seen("once", hour == 10 && week == 3 ? std::set<std::string>{"ann"}
                                                    : std::set<std::string>{})});
    }
  }
  const int64_t next = kMonday + 4 * kWeek;
  const std::vector<ProfileSeen> here = {Seen("desk"), Seen("batch"), Seen("once")};
  See(next + 7 * kHour, here);
  EXPECT_THAT(keeper_->Usual(), IsEmpty());
  See(next + 10 * kHour, here);
  EXPECT_THAT(keeper_->Usual(), ElementsAre("desk"));
  // It is remembered over a restart.
  Reopen();
  See(next + 10 * kHour + 60, here);
  EXPECT_THAT(keeper_->Usual(), ElementsAre("desk"));
  See(next + 13 * kHour, here);
  EXPECT_THAT(keeper_->Usual(), IsEmpty());
  // A holiday of hers.
  See(next + kWeek + 10 * kHour, here);
  EXPECT_THAT(keeper_->Usual(), ElementsAre("desk"));
  const auto entries = keeper_->SetCalendar(
      "ann",
      "BEGIN:VCALENDAR\nBEGIN:VEVENT\nDTSTART;VALUE=DATE:20240205\nEND:VEVENT\nEND:VCALENDAR\n", 0);
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_EQ(*entries, 1);
  See(next + kWeek + 10 * kHour + 60, here);
  EXPECT_THAT(keeper_->Usual(), IsEmpty());
  EXPECT_TRUE(keeper_->Show("user:ann", next + kWeek + 10 * kHour)->exceptional);
  // Who takes consent back is forgotten at once.
  See(next + 2 * kWeek + 10 * kHour, here);
  EXPECT_THAT(keeper_->Usual(), ElementsAre("desk"));
  ASSERT_TRUE(keeper_->SetConsent("ann", false).ok());
  See(next + 2 * kWeek + 10 * kHour + 60, {Seen("desk", {"ann"}, true)});
  EXPECT_EQ(keeper_->Describe("user:ann").status().code(), absl::StatusCode::kNotFound);
}

// Of one whose users are not known by name, what it was used at itself.
TEST_F(ProfileKeeperTest, AComponentHasAProfileOfItsOwn) {
  for (int week = 0; week < 3; ++week) {
    for (int hour = 8; hour < 12; ++hour) {
      See(kMonday + week * kWeek + hour * kHour, {Seen("kiosk", {}, hour >= 10)});
    }
  }
  const int64_t next = kMonday + 3 * kWeek;
  See(next + 8 * kHour, {Seen("kiosk", {}, true)});
  EXPECT_THAT(keeper_->Usual(), IsEmpty());
  See(next + 10 * kHour, {Seen("kiosk")});
  EXPECT_THAT(keeper_->Usual(), ElementsAre("kiosk"));
}

TEST_F(ProfileKeeperTest, ErrorsSayWhatToDo) {
  EXPECT_THAT(std::string(keeper_->Describe("user:bob").status().message()),
              HasSubstr("nothing is kept of user:bob"));
  EXPECT_EQ(keeper_->Delete("user:bob").code(), absl::StatusCode::kNotFound);
  const auto refused = keeper_->SetCalendar("bob", "BEGIN:VCALENDAR\nEND:VCALENDAR\n", 0);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("profile consent bob --on"));
  ASSERT_TRUE(keeper_->SetConsent("bob", true).ok());
  EXPECT_EQ(keeper_->SetCalendar("bob", "nonsense", 0).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ProfileKeeper::SubjectOf("component:UPPER").status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ProfileKeeper::SubjectOf("a b").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(*ProfileKeeper::SubjectOf("bob"), "user:bob");
  EXPECT_EQ(*ProfileKeeper::SubjectOf("user:bob"), "user:bob");
}

TEST_F(ProfileKeeperTest, DeletesAndAgesOut) {
  ASSERT_TRUE(keeper_->SetConsent("ann", true).ok());
  See(kMonday + 9 * kHour, {Seen("desk", {"ann"})});
  ASSERT_TRUE(keeper_->Delete("user:ann").ok());
  EXPECT_EQ(Exported("user:ann")["hours"].size(), 0u);
  EXPECT_TRUE(keeper_->Describe("user:ann")->consent);
  See(kMonday + 9 * kHour + 60, {Seen("desk", {"ann"})});
  See(kMonday + 10 * kHour, {});
  EXPECT_EQ(Exported("user:ann")["visits"].size(), 1u);
  Reopen(30);
  See(kMonday + 29 * kDay, {});
  EXPECT_EQ(Exported("user:ann")["visits"].size(), 1u);
  See(kMonday + 32 * kDay, {});
  EXPECT_EQ(Exported("user:ann")["visits"].size(), 0u);
  EXPECT_EQ(keeper_->Describe("component:desk").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ProfileKeeperTest, IsForItsOwnerAlone) {
  struct stat st = {};
  ASSERT_EQ(stat(Path().c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
}

TEST_F(ProfileKeeperTest, ADamagedFileIsRefused) {
  keeper_.reset();
  ASSERT_TRUE(WriteFileAtomic(Path(), std::string(8192, 'x')).ok());
  const auto keeper = ProfileKeeper::Open(Path(), 180);
  EXPECT_EQ(keeper.status().code(), absl::StatusCode::kDataLoss) << keeper.status();
  EXPECT_THAT(std::string(keeper.status().message()), HasSubstr(Path()));
}

}  // namespace
}  // namespace starling
