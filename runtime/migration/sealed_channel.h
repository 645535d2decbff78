#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "transport/fabric.h"
#include "transport/record_cipher.h"

namespace starling::migration {

// The keys of one data connection.
struct ChannelKeys {
  transport::CipherKey to_target;
  transport::CipherKey to_source;
};

// Messages and pages of one data connection, sealed where there are keys: nobody on the way reads
// them, and what was altered, repeated or left out is refused. One thread at a time.
class SealedChannel {
 public:
  // `source`: which end this is. Without keys everything is plain.
  static absl::StatusOr<std::unique_ptr<SealedChannel>> Create(
      std::unique_ptr<transport::Connection> connection, const ChannelKeys* keys, bool source);

  transport::Connection& connection() { return *connection_; }
  bool sealed() const { return out_ != nullptr; }

  absl::StatusOr<uint64_t> Send(absl::string_view message, Deadline deadline);
  absl::StatusOr<std::string> Receive(Deadline deadline);

  // Of the batch with this number, which is sent or received next. Only where it is sealed.
  absl::Status SealPages(uint64_t number, std::span<const std::byte> in, std::span<std::byte> out,
                         transport::CipherTag& tag);
  absl::Status OpenPages(uint64_t number, std::span<const std::byte> in,
                         std::span<const std::span<std::byte>> out,
                         const transport::CipherTag& tag);

 private:
  SealedChannel() = default;

  std::unique_ptr<transport::Connection> connection_;
  std::unique_ptr<transport::RecordCipher> out_;
  std::unique_ptr<transport::RecordCipher> in_;
  uint64_t sent_ = 0;      // messages
  uint64_t received_ = 0;  // likewise
};

}  // namespace starling::migration
