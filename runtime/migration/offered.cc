#include "runtime/migration/offered.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "checkpoint/arena.h"

namespace starling::migration {

using checkpoint::kPageSize;

absl::StatusOr<Offered> Offered::Open(const v1::OpenOfferResponse& offer,
                                      std::span<const checkpoint::SlotRange> missing,
                                      uint64_t arena_slots, uint64_t most_pages) {
  std::vector<FetchOrder::Piece> pieces;
  pieces.reserve(static_cast<size_t>(offer.pieces_size()));
  for (const v1::OfferedPiece& piece : offer.pieces()) {
    if (piece.pages() == 0 || piece.pages() > most_pages || piece.offset() % kPageSize != 0 ||
        piece.slot() > arena_slots || piece.pages() > arena_slots - piece.slot()) {
      return absl::DataLossError("the source offers an impossible piece");
    }
    pieces.push_back({piece.slot(), piece.pages(), piece.offset()});
  }
  Offered offered(offer, FetchOrder(std::move(pieces), missing));
  if (!offered.order_.complete())
    return absl::DataLossError("the source does not offer all that is missing");
  if (!offer.grant_by_connection()) {
    for (const v1::ArenaChunk& region : offer.regions())
      offered.granted_.push_back({region.address(), region.rkey()});
  }
  if (!offer.key().empty()) {
    transport::CipherKey key;
    if (offer.key().size() != key.size()) return absl::DataLossError("an impossible key");
    std::memcpy(key.data(), offer.key().data(), key.size());
    ASSIGN_OR_RETURN(offered.cipher_, transport::RecordCipher::Create(key));
  }
  return offered;
}

std::optional<GrantRequest> Offered::Question() const {
  const auto regions = static_cast<size_t>(offer_->regions_size());
  if (granted_.size() >= regions) return std::nullopt;
  return GrantRequest{
      false, static_cast<uint32_t>(granted_.size()),
      static_cast<uint32_t>(std::min<size_t>(regions - granted_.size(), kMaxGrantedChunks))};
}

absl::Status Offered::TakeGrants(absl::string_view bytes) {
  ASSIGN_OR_RETURN(const Grants grants, DecodeGrants(bytes));
  const std::optional<GrantRequest> asked = Question();
  if (!asked || grants.first_chunk != asked->first_chunk || !grants.ring.empty() ||
      grants.chunks.size() != size_t{asked->chunks}) {
    return absl::DataLossError("the source does not grant all that it offers");
  }
  granted_.insert(granted_.end(), grants.chunks.begin(), grants.chunks.end());
  return absl::OkStatus();
}

absl::StatusOr<Granted> Offered::Locate(uint64_t offset, uint64_t bytes) const {
  for (size_t i = 0; i < granted_.size(); ++i) {
    const uint64_t region_bytes = offer_->regions(static_cast<int>(i)).bytes();
    if (offset < region_bytes) {
      if (bytes > region_bytes - offset) break;
      return Granted{granted_[i].address + offset, granted_[i].key};
    }
    offset -= region_bytes;
  }
  return absl::DataLossError("the source offers a piece outside of its memory");
}

absl::Status Offered::Check(size_t piece, std::span<std::byte> bytes) {
  const v1::OfferedPiece& offered = offer_->pieces(static_cast<int>(piece));
  if (cipher_ != nullptr) {
    transport::CipherTag tag;
    if (offered.tag().size() != tag.size()) return absl::DataLossError("an impossible tag");
    std::memcpy(tag.data(), offered.tag().data(), tag.size());
    return cipher_->Open(transport::RecordCipher::Kind::kPages, piece + 1, bytes, bytes, tag);
  }
  if (checkpoint::HashPages(bytes) == offered.hash()) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("the pages for slot ", offered.slot(), " did not arrive as they were offered"));
}

}  // namespace starling::migration
