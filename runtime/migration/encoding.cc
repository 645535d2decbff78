#include "runtime/migration/encoding.h"

#include <algorithm>

namespace starling::migration {
namespace {

// One batch in so many is compressed to see what it would bring.
constexpr uint64_t kSampleEvery = 32;
// Weight of what was just seen in the running means.
constexpr double kNewest = 0.3;
// The link is looked at over windows of this length, and is the bottleneck where it was waited for
// in at least this share of one.
constexpr auto kWindow = std::chrono::milliseconds(50);
constexpr double kLinkBound = 0.3;
constexpr double kWorth = 0.95;

double Mix(double before, double now) {
  return before > 0 ? before + kNewest * (now - before) : now;
}

}  // namespace

bool CompressionPays(const EncodingFacts& facts) {
  if (facts.link_bytes_per_s <= 0 || facts.pack_bytes_per_s <= 0) return false;
  const double plain_s = 1 / facts.link_bytes_per_s;
  const double packed_s = 1 / facts.pack_bytes_per_s + facts.packed_share / facts.link_bytes_per_s;
  return packed_s < kWorth * plain_s;
}

bool EncodingChooser::Compress() {
  if (!allowed_ || facts_.link_bytes_per_s <= 0) return false;
  return batches_++ % kSampleEvery == 0 || CompressionPays(facts_);
}

void EncodingChooser::Compressed(uint64_t bytes, uint64_t packed, Duration took) {
  const double rate = static_cast<double>(bytes) / std::max(Seconds(took), 1e-9);
  const double share = static_cast<double>(packed) / static_cast<double>(bytes);
  facts_.packed_share = facts_.pack_bytes_per_s > 0 ? Mix(facts_.packed_share, share) : share;
  facts_.pack_bytes_per_s = Mix(facts_.pack_bytes_per_s, rate);
}

void EncodingChooser::Observe(TimePoint now, uint64_t bytes_sent, Duration waited) {
  if (window_ != TimePoint{}) {
    const Duration passed = now - window_;
    if (passed < kWindow) return;
    const bool bound = Seconds(waited - waited_then_) >= kLinkBound * Seconds(passed);
    const double rate = static_cast<double>(bytes_sent - bytes_then_) / Seconds(passed);
    facts_.link_bytes_per_s = bound && rate > 0 ? Mix(facts_.link_bytes_per_s, rate) : 0;
  }
  window_ = now;
  bytes_then_ = bytes_sent;
  waited_then_ = waited;
}

}  // namespace starling::migration
