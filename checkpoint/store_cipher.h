#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// How stored checkpoints are encrypted and digested. docs/images.md has the format.

namespace starling::checkpoint {

inline constexpr size_t kKeyBytes = 32;
inline constexpr size_t kTagBytes = 16;
inline constexpr size_t kDigestBytes = 32;

// AES-256-GCM with one key; a nonce (here a number) must never be used twice with it. Not
// thread-safe.
class Cipher {
 public:
  explicit Cipher(const std::array<uint8_t, kKeyBytes>& key);
  ~Cipher();
  Cipher(Cipher&&) noexcept;
  Cipher& operator=(Cipher&&) noexcept;

  // Appends the encrypted bytes and their tag to `to`.
  absl::Status Seal(uint64_t nonce, absl::string_view bound, absl::string_view plain,
                    std::string* to);
  // The plain bytes. Errors: kDataLoss when the bytes, or what they are bound to, are not what was
  // sealed with this key and nonce.
  absl::StatusOr<std::string> Open(uint64_t nonce, absl::string_view bound,
                                   absl::string_view sealed);

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

// The secret of a store. What is encrypted has a key of its own, derived from it (HKDF-SHA-256).
class StoreKey {
 public:
  // A file of 32 bytes, or of 64 hexadecimal digits. Errors: kInvalidArgument naming the file.
  static absl::StatusOr<StoreKey> Read(const std::string& path);
  ~StoreKey();
  StoreKey(const StoreKey&) = default;
  StoreKey& operator=(const StoreKey&) = default;

  // For the one file of this purpose and random id.
  Cipher For(absl::string_view purpose, absl::string_view id) const;

 private:
  StoreKey() = default;
  std::array<uint8_t, kKeyBytes> key_{};
};

// SHA-256 of bytes that come in pieces.
class Digest {
 public:
  Digest();
  ~Digest();
  Digest(Digest&&) noexcept;
  Digest& operator=(Digest&&) noexcept;
  void Add(absl::string_view bytes);
  // Once, at the end.
  std::string Finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace starling::checkpoint
