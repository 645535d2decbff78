#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace starling {

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;
inline constexpr uint64_t kGiB = 1024 * kMiB;

// Bytes from "4096", "64K", "1.5G", "256MiB" (powers of 1024, case ignored).
// Errors: kInvalidArgument naming the text for anything else, negative or beyond 2^63.
absl::StatusOr<uint64_t> ParseBytes(absl::string_view text);

// "17 B", "1.5 KiB", "256.0 MiB": for people, not for parsing.
std::string FormatBytes(uint64_t bytes);

// "850 us", "85.3 ms", "12.3 s", "4 min 5 s", "3 h 2 min", "5 d 1 h"; "?" for what is no time.
std::string FormatTime(double seconds);

}  // namespace starling
