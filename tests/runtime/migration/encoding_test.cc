#include "runtime/migration/encoding.h"

#include <gtest/gtest.h>

namespace starling::migration {
namespace {

using std::chrono::milliseconds;

TEST(CompressionPays, Table) {
  struct {
    double link, pack, share;
    bool pays;
  } const table[] = {
      {0, 1e9, 0.1, false},    // the link is not the bottleneck
      {1e9, 0, 0.1, false},    // nothing is known of the compressor
      {1e8, 1e9, 0.5, true},   // 10 ns plain; 1 + 5 packed
      {1e9, 1e9, 0.5, false},  // 1 ns plain; 1 + 0.5 packed
      {1e8, 1e9, 0.9, false},  // as long either way
      {1e8, 1e9, 0.84, true},  // 9.4 of 10
      {1e8, 2e9, 1, false},    // does not shrink
  };
  for (const auto& row : table) {
    EXPECT_EQ(CompressionPays({row.link, row.pack, row.share}), row.pays)
        << row.link << " " << row.pack << " " << row.share;
  }
}

class EncodingChooserTest : public testing::Test {
 protected:
  // A tenth of a second in which `bytes` were sent and the link was waited for in a share of it.
  void Pass(EncodingChooser& chooser, uint64_t bytes, double waited) {
    now_ += milliseconds(100);
    sent_ += bytes;
    waited_ += std::chrono::duration_cast<Duration>(milliseconds(100) * waited);
    chooser.Observe(now_, sent_, waited_);
  }
  TimePoint now_ = TimePoint{} + std::chrono::hours(1);
  uint64_t sent_ = 0;
  Duration waited_{};
};

TEST_F(EncodingChooserTest, SamplesOnlyWhereTheLinkIsWaitedFor) {
  EncodingChooser chooser(true);
  EXPECT_FALSE(chooser.Compress());
  Pass(chooser, 0, 0);
  Pass(chooser, 1'000'000, 0.1);
  EXPECT_FALSE(chooser.Compress());
  Pass(chooser, 1'000'000, 0.9);
  EXPECT_NEAR(chooser.facts().link_bytes_per_s, 1e7, 1);
  EXPECT_TRUE(chooser.Compress()) << "the first is a sample";
  EXPECT_FALSE(chooser.Compress()) << "nothing came of it yet";
}

TEST_F(EncodingChooserTest, GoesByWhatTheSampleBrought) {
  for (const bool shrinks : {true, false}) {
    EncodingChooser chooser(true);
    Pass(chooser, 0, 0);
    Pass(chooser, 1'000'000, 0.9);
    ASSERT_TRUE(chooser.Compress());
    chooser.Compressed(1 << 19, shrinks ? 1 << 17 : 1 << 19, milliseconds(1));
    EXPECT_EQ(chooser.Compress(), shrinks);
  }
}

TEST_F(EncodingChooserTest, NeverWhereItIsNotAllowed) {
  EncodingChooser chooser(false);
  Pass(chooser, 0, 0);
  Pass(chooser, 1'000'000, 0.9);
  EXPECT_FALSE(chooser.Compress());
}

}  // namespace
}  // namespace starling::migration
