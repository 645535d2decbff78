#include "runtime/profiles/profile_store.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "nlohmann/json.hpp"
#include "tests/runtime/scratch.h"

namespace starling {
namespace {

constexpr int64_t kHour = 3600, kDay = 24 * kHour;
constexpr int64_t kMonday = 1704067200;  // 2024-01-01

class ProfileStoreTest : public testing::Test {
 protected:
  void SetUp() override { Reopen(); }
  void Reopen() {
    store_.reset();
    auto store = ProfileStore::Open(scratch_.path() + "/profiles.db");
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::move(*store);
  }
  Scratch scratch_;
  std::unique_ptr<ProfileStore> store_;
};

TEST_F(ProfileStoreTest, KeepsNothingWithoutConsent) {
  EXPECT_EQ(store_->Learn("user:ann", kMonday, true).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(store_->Connected("user:ann", "desk", kMonday).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(store_->Load("user:ann")->seen(0), 0);
  EXPECT_TRUE(store_->Learn("component:desk", kMonday, true).ok());
  EXPECT_EQ(store_->Learn("ann", kMonday, true).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ProfileStoreTest, RemembersOverARestart) {
  ASSERT_TRUE(store_->SetConsent("ann", true).ok());
  for (int week = 0; week < 5; ++week) {
    ASSERT_TRUE(store_->Learn("user:ann", kMonday + 9 * kHour + week * 7 * kDay, true).ok());
    ASSERT_TRUE(store_->Learn("user:ann", kMonday + 3 * kHour + week * 7 * kDay, false).ok());
  }
  ASSERT_TRUE(store_->Connected("user:ann", "desk", kMonday).ok());
  ASSERT_TRUE(store_->Disconnected("user:ann", "desk", kMonday + kHour).ok());
  Reopen();
  const auto profile = store_->Load("user:ann");
  ASSERT_TRUE(profile.ok());
  EXPECT_GT(profile->Probability(kMonday + 100 * 7 * kDay + 9 * kHour), 0.7);
  EXPECT_LT(profile->Probability(kMonday + 100 * 7 * kDay + 3 * kHour), 0.3);
  const auto visits = store_->Visits("user:ann");
  ASSERT_TRUE(visits.ok());
  ASSERT_EQ(visits->size(), 1u);
  EXPECT_EQ((*visits)[0].disconnected_s - (*visits)[0].connected_s, kHour);
}

TEST_F(ProfileStoreTest, ExceptionalDaysAreNotLearnedFrom) {
  ASSERT_TRUE(store_->SetConsent("ann", true).ok());
  ASSERT_TRUE(store_
                  ->SetCalendar("user:ann",
                                "BEGIN:VCALENDAR\nBEGIN:VEVENT\nSUMMARY:secret\n"
                                "DTSTART;VALUE=DATE:20240101\nEND:VEVENT\nEND:VCALENDAR\n",
                                0)
                  .ok());
  EXPECT_TRUE(*store_->IsExceptionalDay("user:ann", kMonday + 9 * kHour));
  ASSERT_TRUE(store_->Learn("user:ann", kMonday + 9 * kHour, false).ok());
  EXPECT_EQ(store_->Load("user:ann")->seen(9), 0);
  ASSERT_TRUE(store_->Learn("user:ann", kMonday + 7 * kDay + 9 * kHour, true).ok());
  EXPECT_EQ(store_->Load("user:ann")->seen(9), 1);
  EXPECT_FALSE(store_->SetCalendar("user:ann", "nonsense", 0).ok());
  EXPECT_TRUE(*store_->IsExceptionalDay("user:ann", kMonday));  // the old one is still there
  EXPECT_EQ(store_->Export("user:ann")->find("secret"), std::string::npos);
}

TEST_F(ProfileStoreTest, ExportsAndForgets) {
  ASSERT_TRUE(store_->SetConsent("ann", true).ok());
  ASSERT_TRUE(store_->Learn("user:ann", kMonday, true).ok());
  ASSERT_TRUE(store_->Connected("user:ann", "desk", kMonday).ok());
  const auto exported = store_->Export("user:ann");
  ASSERT_TRUE(exported.ok());
  const auto json = nlohmann::json::parse(*exported);
  EXPECT_EQ(json["subject"], "user:ann");
  EXPECT_EQ(json["hours"].size(), 1u);
  EXPECT_EQ(json["visits"][0]["component"], "desk");
  ASSERT_TRUE(store_->SetConsent("ann", false).ok());
  EXPECT_EQ(store_->Load("user:ann")->seen(0), 0);
  EXPECT_TRUE(store_->Visits("user:ann")->empty());
  EXPECT_FALSE(*store_->Consents("ann"));
}

TEST_F(ProfileStoreTest, AgesOut) {
  ASSERT_TRUE(store_->Learn("component:desk", kMonday, true).ok());
  ASSERT_TRUE(store_->Learn("component:desk", kMonday + 30 * kDay, true).ok());
  ASSERT_TRUE(store_->Connected("component:desk", "desk", kMonday).ok());
  ASSERT_TRUE(store_->AgeOut(kMonday + kDay).ok());
  EXPECT_EQ(store_->Load("component:desk")->seen(0), 0);
  EXPECT_EQ(
      store_->Load("component:desk")->seen(predictor::WeekProfile::SlotOf(kMonday + 30 * kDay)), 1);
  EXPECT_TRUE(store_->Visits("component:desk")->empty());
}

}  // namespace
}  // namespace starling
