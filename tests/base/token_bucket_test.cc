#include "base/token_bucket.h"

#include <gtest/gtest.h>

namespace starling {
namespace {

using std::chrono::milliseconds;

TEST(TokenBucketTest, WithoutARateNobodyWaits) {
  TokenBucket bucket(0, 0);
  EXPECT_EQ(bucket.Take(uint64_t{1} << 60, TimePoint(milliseconds(1))), Duration::zero());
}

TEST(TokenBucketTest, ABurstGoesAtOnceAndTheRestWaits) {
  TokenBucket bucket(1000, 100);
  const TimePoint start(milliseconds(5000));
  EXPECT_EQ(bucket.Take(100, start), Duration::zero());
  EXPECT_EQ(bucket.Take(50, start), milliseconds(50));
}

TEST(TokenBucketTest, WaitingAsToldKeepsTheRate) {
  TokenBucket bucket(1000, 100);
  const TimePoint start(milliseconds(5000));
  TimePoint now = start;
  for (int i = 0; i < 100; ++i) now += bucket.Take(40, now);
  // 4000 less the burst, at 1000 a second.
  EXPECT_EQ(std::chrono::round<milliseconds>(now - start), milliseconds(3900));
}

TEST(TokenBucketTest, IdleTimeIsNotSavedBeyondTheBurst) {
  TokenBucket bucket(1000, 100);
  TimePoint now(milliseconds(5000));
  EXPECT_EQ(bucket.Take(100, now), Duration::zero());
  now += std::chrono::hours(1);
  EXPECT_EQ(bucket.Take(150, now), milliseconds(50));
}

}  // namespace
}  // namespace starling
