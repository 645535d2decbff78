#pragma once

#include <time.h>

#include <cstdint>

namespace starling::witness {

inline constexpr int64_t kNsPerSecond = 1'000'000'000;
inline constexpr int64_t kNsPerMs = 1'000'000;

// CLOCK_MONOTONIC: the one clock by which everything the witness sees is timed.
inline int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kNsPerSecond + now.tv_nsec;
}

inline double ToSeconds(int64_t ns) { return static_cast<double>(ns) / kNsPerSecond; }
inline double ToMs(int64_t ns) { return static_cast<double>(ns) / kNsPerMs; }

}  // namespace starling::witness
