#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace starling {

// Bytes of the kernel's, good enough for keys. Fails only where the kernel refuses them.
absl::Status FillRandom(std::span<std::byte> bytes);
absl::StatusOr<std::string> RandomBytes(size_t count);

}  // namespace starling
