#include "runtime/loop/messages.h"

#include <gtest/gtest.h>

namespace starling::loop {
namespace {

using reservations::Amounts;
using reservations::kResources;

TEST(Messages, AmountsComeBackAsTheyWere) {
  Amounts amounts;
  for (size_t i = 0; i < kResources; ++i) amounts.of[i] = static_cast<int64_t>(1000 + i);
  EXPECT_EQ(FromMessage(ToMessage(amounts)), amounts);
  EXPECT_EQ(FromMessage(v1::ResourceAmounts()), Amounts());
  EXPECT_EQ(ToMessage(amounts).cpu(), 1000);
  EXPECT_EQ(ToMessage(amounts).gpu_memory(), 1006);
}

TEST(Messages, ALeaseSaysHowLongItLastsUnlessItHasNoEnd) {
  const TimePoint now(std::chrono::seconds(1000));
  reservations::Lease lease;
  lease.id = "node1/redis";
  lease.kind = reservations::Kind::kFirm;
  lease.end = now + std::chrono::seconds(30);
  EXPECT_EQ(ToMessage(lease, "node2", now).left_s(), 30);
  EXPECT_EQ(ToMessage(lease, "node2", now).kind(), "firm");
  EXPECT_EQ(ToMessage(lease, "node2", now).host(), "node2");
  EXPECT_EQ(ToMessage(lease, "node2", now + std::chrono::seconds(31)).left_s(), 0);
  lease.pinned = true;
  lease.end = TimePoint::max();
  EXPECT_EQ(ToMessage(lease, "node2", now).left_s(), 0);
  EXPECT_TRUE(ToMessage(lease, "node2", now).pinned());
}

}  // namespace
}  // namespace starling::loop
