#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"

namespace starling::transport {

using CipherKey = std::array<uint8_t, 32>;
using CipherTag = std::array<uint8_t, 16>;
using CipherNonce = std::array<uint8_t, 12>;

// AES-256-GCM (NIST SP 800-38D) with one key and nothing but the content authenticated. One thread
// at a time.
class Gcm {
 public:
  enum class Engine {
    kOpenSsl,  // everywhere
    kIpsecMb,  // Intel's ipsec-mb, on processors with AES over whole vectors: several times as fast
    kFastest,  // of those that are there
  };

  // kUnimplemented when this build or this processor does not have `engine`.
  static absl::StatusOr<std::unique_ptr<Gcm>> Create(const CipherKey& key,
                                                     Engine engine = Engine::kFastest);
  virtual ~Gcm() = default;
  Gcm(const Gcm&) = delete;
  Gcm& operator=(const Gcm&) = delete;

  // `out` is as long as `in`, below 2 GiB, and may be the same memory.
  virtual absl::Status Seal(const CipherNonce& nonce, std::span<const std::byte> in,
                            std::span<std::byte> out, CipherTag& tag) = 0;
  // Into the pieces of `out`, one behind the other, which are as long as `in` together. kDataLoss
  // if `in` is not what was sealed with this key and nonce; what is in `out` then is not to be
  // used.
  virtual absl::Status Open(const CipherNonce& nonce, std::span<const std::byte> in,
                            std::span<const std::span<std::byte>> out, const CipherTag& tag) = 0;

 protected:
  Gcm() = default;
};

}  // namespace starling::transport
