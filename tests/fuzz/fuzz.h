#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "absl/strings/string_view.h"

// Every parser of bytes from elsewhere has a target here. Built by the preset `fuzz` it is a
// libFuzzer program; everywhere else it is a test that reads its seeds, cut and altered a little.

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace starling::fuzz {

inline absl::string_view Text(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// A promise that was not kept.
inline void Require(bool kept) {
  if (!kept) std::abort();
}

}  // namespace starling::fuzz
