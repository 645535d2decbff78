#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/strings/string_view.h"

// What the files of stored checkpoints begin with; docs/images.md. Little-endian, as every machine
// that this runs on.

namespace starling::checkpoint {

inline constexpr char kManifestMagic[] = "STARCKPT";
inline constexpr char kPackMagic[] = "STARPACK";
inline constexpr size_t kMagicBytes = 8;
inline constexpr uint32_t kStoreVersion = 1;
inline constexpr uint32_t kStoreEncrypted = 1;  // a flag
inline constexpr size_t kStoreIdBytes = 16;
// Magic, version, flags, id.
inline constexpr size_t kPackHeadBytes = kMagicBytes + 4 + 4 + kStoreIdBytes;
// Magic, version, flags, number, id, bytes of the body.
inline constexpr size_t kManifestHeadBytes = kMagicBytes + 4 + 4 + 8 + kStoreIdBytes + 8;
// What a key is derived for.
inline constexpr char kPackPurpose[] = "starling pack";
inline constexpr char kManifestPurpose[] = "starling manifest";

template <typename Number>
void AppendNumber(std::string* to, Number number) {
  to->append(reinterpret_cast<const char*>(&number), sizeof(number));
}

template <typename Number>
Number NumberAt(absl::string_view bytes, size_t at) {
  Number number;
  std::memcpy(&number, bytes.data() + at, sizeof(number));
  return number;
}

inline std::string PackHead(absl::string_view id, bool encrypted) {
  std::string head(kPackMagic, kMagicBytes);
  AppendNumber(&head, kStoreVersion);
  AppendNumber(&head, encrypted ? kStoreEncrypted : 0);
  head.append(id.data(), id.size());
  return head;
}

// What an encrypted chunk is bound to beside its pack and place.
inline std::string ChunkBound(uint32_t bytes, bool compressed) {
  std::string bound;
  AppendNumber(&bound, bytes);
  AppendNumber(&bound, static_cast<uint8_t>(compressed));
  return bound;
}

}  // namespace starling::checkpoint
