#pragma once

#include <array>
#include <cstdint>

namespace starling::witness {

// Counts durations in buckets at most 1.6 % wide, so that hours of samples take constant memory.
// The largest sample is kept exactly. Value type; not thread-safe.
class Histogram {
 public:
  void Add(int64_t ns);

  uint64_t count() const { return count_; }
  int64_t max_ns() const { return max_ns_; }

  // The upper bound of the bucket in which the given share (0..1] of the samples ends; 0 without
  // samples.
  int64_t Quantile(double share) const;

 private:
  // Up to kExact each value has its own bucket; above it each power of two has kPerOctave of them.
  // Samples longer than 2^42 ns, more than an hour, share the last bucket.
  static constexpr int kPerOctaveBits = 6;
  static constexpr int kPerOctave = 1 << kPerOctaveBits;
  static constexpr int kExact = 2 * kPerOctave;
  static constexpr int kLongestBits = 42;
  static constexpr int kOctaves = kLongestBits - kPerOctaveBits - 1;
  static constexpr int kBuckets = kOctaves * kPerOctave + kExact;

  static int BucketOf(int64_t ns);
  static int64_t UpperBound(int bucket);

  std::array<uint64_t, kBuckets> buckets_{};
  uint64_t count_ = 0;
  int64_t max_ns_ = 0;
};

}  // namespace starling::witness
