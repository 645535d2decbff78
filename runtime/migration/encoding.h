#pragma once

#include <cstdint>

#include "base/clock.h"

// When to compress: where the link is the bottleneck and not the processor. Pure.

namespace starling::migration {

struct EncodingFacts {
  double link_bytes_per_s = 0;  // 0: the link was not what was waited for
  double pack_bytes_per_s = 0;  // input that the compressor takes; 0: not measured yet
  double packed_share = 1;      // output divided by input
};

// True if a batch is sooner at the target when it is compressed first: one thread compresses and
// then sends, so that both times count. By a twentieth at least, lest it alternates.
bool CompressionPays(const EncodingFacts& facts);

// Measures one connection and samples the compressor now and then. Used by one thread.
class EncodingChooser {
 public:
  explicit EncodingChooser(bool allowed) : allowed_(allowed) {}

  // How the next batch is to be sent.
  bool Compress();
  // What came of it: bytes that were compressed to how many, and the time that it took.
  void Compressed(uint64_t bytes, uint64_t packed, Duration took);
  // Bytes that were posted in all so far, and for how long the link was waited for in all.
  void Observe(TimePoint now, uint64_t bytes_sent, Duration waited);

  const EncodingFacts& facts() const { return facts_; }

 private:
  const bool allowed_;
  EncodingFacts facts_;
  uint64_t batches_ = 0;
  TimePoint window_{};
  uint64_t bytes_then_ = 0;
  Duration waited_then_{};
};

}  // namespace starling::migration
