#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// What a data connection may write to, where that is granted to each connection apart: with memory
// windows, whose keys are of no use to any other, and over several devices. The source asks, the
// target answers. docs/wire.md gives both to the byte.

namespace starling::migration {

// Chunks that one answer speaks of at most.
inline constexpr uint32_t kMaxGrantedChunks = 256;

// Source to target.
struct GrantRequest {
  bool ring = false;         // the landing ring too
  uint32_t first_chunk = 0;  // of the arena, from which on; 0 chunks: none
  uint32_t chunks = 0;       // at most; the target answers for those that there are
};

// A piece of the target's memory and the key to it.
struct Granted {
  uint64_t address = 0;
  uint32_t key = 0;
  friend bool operator==(const Granted&, const Granted&) = default;
};

// Target to source.
struct Grants {
  uint32_t first_chunk = 0;
  std::vector<Granted> ring;  // one or none
  std::vector<Granted> chunks;
};

std::string EncodeGrantRequest(const GrantRequest& request);
// Whether the message is one, right or not.
bool IsGrantRequest(absl::string_view bytes);
absl::StatusOr<GrantRequest> DecodeGrantRequest(absl::string_view bytes);

std::string EncodeGrants(const Grants& grants);
bool IsGrants(absl::string_view bytes);
absl::StatusOr<Grants> DecodeGrants(absl::string_view bytes);

}  // namespace starling::migration
