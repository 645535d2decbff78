#include <array>
#include <cstring>

#include "tests/fuzz/fuzz.h"
#include "transport/introduction_message.h"

// Messages by which queue pairs are introduced: what is taken for right is within its limits, and
// is the same bytes when it is written again.

using starling::fuzz::Require;
using namespace starling::transport;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < kIntroductionBytes) return 0;
  const std::span<const std::byte, kIntroductionBytes> in(reinterpret_cast<const std::byte*>(data),
                                                          kIntroductionBytes);
  IntroductionMessage message;
  if (DecodeIntroduction(in, message) != nullptr) return 0;
  Require(message.private_data.size() <= kMaxPrivateData);
  Require(message.address.number <= 0xffffff && message.address.psn <= 0xffffff);
  Require(message.address.mtu <= 4096);
  std::array<std::byte, kIntroductionBytes> again;
  EncodeIntroduction(message, again);
  Require(std::memcmp(again.data(), data, kIntroductionBytes) == 0);
  return 0;
}
