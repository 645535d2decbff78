#include "base/xxh3.h"

#include <xxhash.h>

#include <random>
#include <string>

#include "gtest/gtest.h"

namespace starling {
namespace {

TEST(Xxh3Test, EveryVariantSaysWhatTheLibrarySays) {
  std::mt19937_64 random(7);
  std::string bytes(300'000, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  // The formula changes at 16, 128 and 240 bytes and goes on in blocks of 1,024; none are aligned.
  for (const size_t size : {0, 1, 8, 16, 17, 128, 129, 240, 241, 1024, 1025, 4096, 4097, 299'999}) {
    for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, random()}) {
      const uint64_t expected = XXH3_64bits_withSeed(bytes.data() + 1, size, seed);
      for (const internal::Xxh3Variant& variant : internal::Xxh3Variants()) {
        EXPECT_EQ(variant.hash(bytes.data() + 1, size, seed), expected)
            << variant.name << " of " << size << " bytes";
      }
      EXPECT_EQ(Xxh3(bytes.data() + 1, size, seed), expected);
    }
  }
}

TEST(Xxh3Test, ThereIsMoreThanOneToChooseFrom) { EXPECT_GE(internal::Xxh3Variants().size(), 2u); }

}  // namespace
}  // namespace starling
