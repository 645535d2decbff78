#include "base/xxh3.h"

#include <algorithm>
#include <vector>

#include "base/clock.h"

namespace starling {
namespace internal {

uint64_t Xxh3Plain(const void* bytes, size_t size, uint64_t seed);
uint64_t Xxh3Native(const void* bytes, size_t size, uint64_t seed);
#ifdef __x86_64__
uint64_t Xxh3Avx2(const void* bytes, size_t size, uint64_t seed);
#endif

std::span<const Xxh3Variant> Xxh3Variants() {
  static const std::vector<Xxh3Variant> variants = [] {
    std::vector<Xxh3Variant> all = {{"native", Xxh3Native}, {"plain", Xxh3Plain}};
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) all.push_back({"avx2", Xxh3Avx2});
#endif
    return all;
  }();
  return variants;
}

namespace {

// The least of some times: a thread that is interrupted meanwhile is slow with every variant.
Duration TimeOf(const Xxh3Variant& variant, std::span<const std::byte> bytes) {
  constexpr int kTrials = 5;
  auto least = Duration::max();
  for (int i = 0; i < kTrials; ++i) {
    const TimePoint began = Clock::now();
    volatile uint64_t kept = variant.hash(bytes.data(), bytes.size(), 0);
    (void)kept;
    least = std::min(least, Clock::now() - began);
  }
  return least;
}

Xxh3Variant Fastest() {
  const std::vector<std::byte> bytes(16384, std::byte{1});
  Xxh3Variant fastest = Xxh3Variants().front();
  auto least = Duration::max();
  for (const Xxh3Variant& variant : Xxh3Variants()) {
    const Duration took = TimeOf(variant, bytes);
    if (took >= least) continue;
    least = took;
    fastest = variant;
  }
  return fastest;
}

}  // namespace
}  // namespace internal

uint64_t Xxh3(std::span<const std::byte> bytes, uint64_t seed) {
  static const internal::Xxh3Variant fastest = internal::Fastest();
  return fastest.hash(bytes.data(), bytes.size(), seed);
}

}  // namespace starling
