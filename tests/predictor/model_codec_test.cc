#include "predictor/model_codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "predictor/gru.h"

namespace starling::predictor {
namespace {

Forecaster Taught(ExpertSet experts, const GruNet* net, int steps) {
  ForecasterOptions options;
  options.step_s = 300;
  options.experts = experts;
  options.net = net;
  Forecaster forecaster(options);
  for (int t = 0; t < steps; ++t)
    forecaster.Observe(t * 300.0, 50 + 20 * std::sin(t * 0.7) + t % 5);
  return forecaster;
}

// The checksum of the format, so that a test can damage what lies under it.
void Sign(std::string& bytes) {
  uint64_t hash = 14695981039346656037ull;
  for (size_t i = 0; i + 8 < bytes.size(); ++i) {
    hash = (hash ^ static_cast<uint8_t>(bytes[i])) * 1099511628211ull;
  }
  std::memcpy(bytes.data() + bytes.size() - 8, &hash, 8);
}

TEST(ModelCodec, GoesOnWhereItStopped) {
  GruNet net;
  for (const ExpertSet experts : {kDefaultExperts, kAllExperts}) {
    Forecaster first = Taught(experts, &net, 900);
    auto second = ModelCodec::Load(ModelCodec::Save(first), &net);
    ASSERT_TRUE(second.ok()) << second.status();
    for (int t = 900; t < 1200; ++t) {
      const double value = 50 + 20 * std::sin(t * 0.7) + t % 5;
      first.Observe(t * 300.0, value);
      second->Observe(t * 300.0, value);
      for (int i = 0; i < kHorizonCount; ++i) {
        ASSERT_EQ(first.At(i).median, second->At(i).median);
        ASSERT_EQ(first.At(i).low, second->At(i).low);
        ASSERT_EQ(first.At(i).high, second->At(i).high);
      }
    }
  }
}

TEST(ModelCodec, RefusesWhatIsNoModel) {
  const std::string good = ModelCodec::Save(Taught(kDefaultExperts, nullptr, 300));
  EXPECT_EQ(ModelCodec::Load("").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ModelCodec::Load("no model").status().code(), absl::StatusCode::kInvalidArgument);
  for (const size_t size : {size_t{10}, size_t{40}, good.size() - 1}) {
    EXPECT_FALSE(ModelCodec::Load(good.substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(ModelCodec::Load(good + "x").ok());
  std::string newer = good;
  newer[4] = 9;
  Sign(newer);
  EXPECT_EQ(ModelCodec::Load(newer).status().code(), absl::StatusCode::kFailedPrecondition);
  std::string flipped = good;
  flipped[good.size() / 2] ^= 1;
  EXPECT_EQ(ModelCodec::Load(flipped).status().code(), absl::StatusCode::kInvalidArgument);
}

// Damage under a right checksum: whatever is taken has to go on giving numbers.
TEST(ModelCodec, TakesNothingThatBreaksIt) {
  GruNet net;
  for (const ExpertSet experts : {kDefaultExperts, kAllExperts}) {
    const std::string good = ModelCodec::Save(Taught(experts, &net, 500));
    uint32_t random = 1;
    const auto next = [&random] { return random = random * 1664525u + 1013904223u; };
    int taken = 0;
    for (int round = 0; round < 3000; ++round) {
      std::string bad = good;
      for (uint32_t i = 0; i <= round % 4u; ++i) {
        bad[8 + (next() >> 8) % (bad.size() - 16)] = static_cast<char>(next() >> 16);
      }
      Sign(bad);
      auto loaded = ModelCodec::Load(bad, &net);
      if (!loaded.ok()) continue;
      ++taken;
      for (int t = 0; t < 40; ++t) {
        loaded->Observe(50 + t % 7);
        for (int i = 0; i < kHorizonCount; ++i) {
          ASSERT_TRUE(std::isfinite(loaded->At(i).median)) << round;
          ASSERT_TRUE(std::isfinite(loaded->At(i).low)) << round;
          ASSERT_TRUE(std::isfinite(loaded->At(i).high)) << round;
        }
      }
    }
    EXPECT_GT(taken, 0);
  }
}

}  // namespace
}  // namespace starling::predictor
