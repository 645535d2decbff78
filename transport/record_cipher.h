#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "transport/gcm.h"

namespace starling::transport {

// AES-256-GCM of numbered records. One direction of one connection has a
// key of its own, and a number and kind are used once with it: together they are the nonce. The key
// is replaced by one derived from it (HKDF-SHA256) every 2^20 numbers, far below any limit of the
// cipher. One thread at a time.
class RecordCipher {
 public:
  // What else is authenticated, beside number and kind, is up to the caller.
  enum class Kind : uint32_t { kMessage = 0, kPages = 1 };

  static absl::StatusOr<std::unique_ptr<RecordCipher>> Create(const CipherKey& key);
  ~RecordCipher();
  RecordCipher(const RecordCipher&) = delete;
  RecordCipher& operator=(const RecordCipher&) = delete;

  // `out` is as long as `in`, and may be the same memory. Refuses a number that is not above the
  // last one of its kind.
  absl::Status Seal(Kind kind, uint64_t number, std::span<const std::byte> in,
                    std::span<std::byte> out, CipherTag& tag);
  // Into the pieces of `out`, which are as long as `in` together. kDataLoss if it was altered, or
  // is another record; what is in `out` then is not to be used.
  absl::Status Open(Kind kind, uint64_t number, std::span<const std::byte> in,
                    std::span<const std::span<std::byte>> out, const CipherTag& tag);
  absl::Status Open(Kind kind, uint64_t number, std::span<const std::byte> in,
                    std::span<std::byte> out, const CipherTag& tag) {
    return Open(kind, number, in, std::span<const std::span<std::byte>>(&out, 1), tag);
  }

 private:
  struct State;
  explicit RecordCipher(std::unique_ptr<State> state);
  absl::Status UseKeyOf(uint64_t number);

  std::unique_ptr<State> state_;
};

}  // namespace starling::transport
