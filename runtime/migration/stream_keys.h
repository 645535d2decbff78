#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/migration/sealed_channel.h"
#include "transport/record_cipher.h"

// The keys of a migration's data connections. Each side throws 32 fresh random bytes into the
// control session (TLS 1.3, both sides known by certificate) when the target's room is reserved;
// HKDF-SHA256 (RFC 5869) makes of them one AES-256 key for each data connection and direction.
// Nothing of it is kept beyond the migration. Pure but for NewKeyShare(). docs/wire.md "Keys of the
// page stream" gives it to the byte.

namespace starling::migration {

inline constexpr size_t kKeyShareBytes = 32;

// kKeyShareBytes from the kernel's generator.
absl::StatusOr<std::string> NewKeyShare();

enum class StreamDirection : uint8_t { kToTarget = 1, kToSource = 2 };

// The key of data connection `connection` (0, 1, 2, ... in the order in which the source made them)
// for what goes in `direction`. kInvalidArgument when a share has another length.
//   salt: the migration's id; input: the source's share, then the target's;
//   info: "starling page stream v1" with its NUL, `direction` as one byte, `connection` as four,
//   little-endian
absl::StatusOr<transport::CipherKey> DeriveStreamKey(absl::string_view source_share,
                                                     absl::string_view target_share,
                                                     absl::string_view migration_id,
                                                     uint32_t connection,
                                                     StreamDirection direction);

// Both keys of each of `connections` data connections, in their order.
absl::StatusOr<std::vector<ChannelKeys>> DeriveStreamKeys(absl::string_view source_share,
                                                          absl::string_view target_share,
                                                          absl::string_view migration_id,
                                                          uint32_t connections);

// The keys of the `attempt`th connection that takes the place of a lost one, of those of the first:
// no key is used by two connections. Attempt 0 is the first one itself.
//   salt: none; input: the first connection's key of that direction;
//   info: "starling page stream v1 again" with its NUL, `attempt` as four bytes, little-endian
absl::StatusOr<ChannelKeys> KeysOfAttempt(const ChannelKeys& first, uint32_t attempt);

// HKDF-SHA256 itself, `bytes` long (at most 8160).
absl::StatusOr<std::string> HkdfSha256(absl::string_view salt, absl::string_view input,
                                       absl::string_view info, size_t bytes);

}  // namespace starling::migration
