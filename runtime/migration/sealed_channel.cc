#include "runtime/migration/sealed_channel.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace starling::migration {
namespace {

using Kind = transport::RecordCipher::Kind;

constexpr uint32_t kSealedMagic = 0x31455453;  // "STE1"

struct SealedHeader {
  uint32_t magic;
  uint32_t reserved;
  uint64_t number;  // 1, 2, 3, ... in each direction
  uint8_t tag[16];
};
static_assert(sizeof(SealedHeader) == 32);

}  // namespace

absl::StatusOr<std::unique_ptr<SealedChannel>> SealedChannel::Create(
    std::unique_ptr<transport::Connection> connection, const ChannelKeys* keys, bool source) {
  std::unique_ptr<SealedChannel> channel(new SealedChannel());
  channel->connection_ = std::move(connection);
  if (keys == nullptr) return channel;
  ASSIGN_OR_RETURN(channel->out_,
                   transport::RecordCipher::Create(source ? keys->to_target : keys->to_source));
  ASSIGN_OR_RETURN(channel->in_,
                   transport::RecordCipher::Create(source ? keys->to_source : keys->to_target));
  return channel;
}

absl::StatusOr<uint64_t> SealedChannel::Send(absl::string_view message, Deadline deadline) {
  if (!sealed()) return connection_->Send(message, deadline);
  SealedHeader header = {kSealedMagic, 0, ++sent_, {}};
  std::string bytes(sizeof(header) + message.size(), '\0');
  transport::CipherTag tag;
  const std::span body(bytes.data() + sizeof(header), message.size());
  RETURN_IF_ERROR(out_->Seal(Kind::kMessage, header.number,
                             std::as_bytes(std::span(message.data(), message.size())),
                             std::as_writable_bytes(body), tag));
  std::memcpy(header.tag, tag.data(), tag.size());
  std::memcpy(bytes.data(), &header, sizeof(header));
  return connection_->Send(bytes, deadline);
}

absl::StatusOr<std::string> SealedChannel::Receive(Deadline deadline) {
  ASSIGN_OR_RETURN(std::string bytes, connection_->Receive(deadline));
  if (!sealed()) return bytes;
  SealedHeader header;
  const auto refused = [&](absl::string_view why) {
    return absl::DataLossError(absl::StrCat("data connection ", connection_->description(),
                                            ": a message was refused: ", why));
  };
  if (bytes.size() < sizeof(header)) return refused("it is too short to be a sealed one");
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != kSealedMagic || header.reserved != 0) return refused("it is not sealed");
  if (header.number != received_ + 1) {
    return refused(absl::StrCat("number ", header.number, " came instead of ", received_ + 1));
  }
  received_ = header.number;
  std::string message(bytes.size() - sizeof(header), '\0');
  transport::CipherTag tag;
  std::memcpy(tag.data(), header.tag, tag.size());
  const std::span body(bytes.data() + sizeof(header), message.size());
  if (absl::Status status =
          in_->Open(Kind::kMessage, header.number, std::as_bytes(body),
                    std::as_writable_bytes(std::span(message.data(), message.size())), tag);
      !status.ok()) {
    return refused(status.message());
  }
  return message;
}

absl::Status SealedChannel::SealPages(uint64_t number, std::span<const std::byte> in,
                                      std::span<std::byte> out, transport::CipherTag& tag) {
  return out_->Seal(Kind::kPages, number, in, out, tag);
}

absl::Status SealedChannel::OpenPages(uint64_t number, std::span<const std::byte> in,
                                      std::span<const std::span<std::byte>> out,
                                      const transport::CipherTag& tag) {
  return in_->Open(Kind::kPages, number, in, out, tag);
}

}  // namespace starling::migration
