#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"

namespace starling::preflight {

// Reads `size` bytes at `offset` of an ELF file into `to`; false when they are not all there.
using ReadAt = std::function<bool(uint64_t offset, void* to, size_t size)>;

// The GNU build id in lower-case hex of the ELF file behind `read` (32 or 64 bits, this machine's
// byte order); empty for anything that is no such file or has none. Safe on hostile content: reads
// at most 128 program headers and 64 KiB of notes, allocates no more than that. Formats: elf(5).
std::string ParseBuildId(const ReadAt& read);

// ParseBuildId() of an open regular file, by pread(2): does not move the file position.
std::string ReadBuildId(int fd);

}  // namespace starling::preflight
