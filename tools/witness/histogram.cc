#include "tools/witness/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace starling::witness {

int Histogram::BucketOf(int64_t ns) {
  const auto value = static_cast<uint64_t>(std::max<int64_t>(ns, 0));
  if (value < kExact) return static_cast<int>(value);
  const int octave = static_cast<int>(std::bit_width(value)) - kPerOctaveBits - 1;
  if (octave > kOctaves) return kBuckets - 1;
  // value >> octave keeps the leading bit, so it lies in [kPerOctave, kExact).
  return octave * kPerOctave + static_cast<int>(value >> octave);
}

int64_t Histogram::UpperBound(int bucket) {
  if (bucket < kExact) return bucket;
  const int octave = bucket / kPerOctave - 1;
  const int64_t leading = bucket - octave * kPerOctave;
  return ((leading + 1) << octave) - 1;
}

void Histogram::Add(int64_t ns) {
  ++buckets_[BucketOf(ns)];
  ++count_;
  max_ns_ = std::max(max_ns_, ns);
}

int64_t Histogram::Quantile(double share) const {
  const auto wanted = static_cast<uint64_t>(std::ceil(share * static_cast<double>(count_)));
  uint64_t seen = 0;
  for (int bucket = 0; bucket < kBuckets; ++bucket) {
    seen += buckets_[bucket];
    if (seen > 0 && seen >= wanted) return std::min(UpperBound(bucket), max_ns_);
  }
  return max_ns_;
}

}  // namespace starling::witness
