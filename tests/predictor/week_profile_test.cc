#include "predictor/week_profile.h"

#include <gtest/gtest.h>

#include <limits>

namespace starling::predictor {
namespace {

constexpr int64_t kHour = 3600, kDay = 24 * kHour;
constexpr int64_t kMonday = 4 * kDay;  // 1970-01-05

TEST(WeekProfile, WeekBeginsOnMonday) {
  EXPECT_EQ(WeekProfile::SlotOf(kMonday), 0);
  EXPECT_EQ(WeekProfile::SlotOf(kMonday + 13 * kHour + 59), 13);
  EXPECT_EQ(WeekProfile::SlotOf(0), 3 * 24);  // a Thursday
  EXPECT_EQ(WeekProfile::SlotOf(-1), 2 * 24 + 23);
  EXPECT_EQ(WeekProfile::SlotOf(kMonday - 1), 6 * 24 + 23);
}

TEST(WeekProfile, LearnsOfficeHours) {
  WeekProfile profile;
  for (int week = 0; week < 8; ++week) {
    for (int hour = 0; hour < WeekProfile::kSlots; ++hour) {
      const bool office = hour / 24 < 5 && hour % 24 >= 9 && hour % 24 < 17;
      profile.Learn(kMonday + week * 7 * kDay + hour * kHour, office);
    }
  }
  EXPECT_GT(profile.Probability(kMonday + 100 * 7 * kDay + 11 * kHour), 0.8);
  EXPECT_LT(profile.Probability(kMonday + 100 * 7 * kDay + 3 * kHour), 0.2);
  EXPECT_LT(profile.Probability(kMonday + 5 * kDay + 11 * kHour), 0.45);  // Saturday
}

TEST(WeekProfile, OldWeeksFade) {
  WeekProfile profile;
  for (int week = 0; week < 20; ++week) profile.Learn(kMonday + week * 7 * kDay, true);
  for (int week = 20; week < 40; ++week) profile.Learn(kMonday + week * 7 * kDay, false);
  EXPECT_LT(profile.active(0) / profile.seen(0), 0.2);
}

TEST(WeekProfile, RestoresOnlyWhatMakesSense) {
  WeekProfile profile;
  profile.Restore(5, 10, 4);
  EXPECT_EQ(profile.seen(5), 10);
  EXPECT_EQ(profile.active(5), 4);
  profile.Restore(-1, 1, 1);
  profile.Restore(WeekProfile::kSlots, 1, 1);
  profile.Restore(5, std::numeric_limits<double>::quiet_NaN(), 1);
  EXPECT_EQ(profile.seen(5), 10);
  profile.Restore(5, 3, 9);
  EXPECT_EQ(profile.active(5), 3);
}

}  // namespace
}  // namespace starling::predictor
