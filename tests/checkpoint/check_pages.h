#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "checkpoint/page_stream.h"

// Pages that tell what they ought to hold, for workloads that check themselves.

namespace starling::checkpoint {

inline constexpr size_t kWordsAPage = kPageSize / sizeof(uint64_t);

inline uint64_t Mix(uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdull;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ull;
  return x ^ x >> 33;
}

// A page tells which step wrote it: its first word. The others follow from that.
inline void WritePage(uint64_t* page, uint64_t seed) {
  page[0] = seed;
  for (size_t i = 1; i < kWordsAPage; ++i) page[i] = Mix(seed + i);
}

inline void CheckPage(const uint64_t* page, uint64_t expected) {
  if (page[0] != expected) std::abort();
  if (expected == 0) return;
  for (size_t i = 1; i < kWordsAPage; ++i) {
    if (page[i] != Mix(expected + i)) std::abort();
  }
}

}  // namespace starling::checkpoint
