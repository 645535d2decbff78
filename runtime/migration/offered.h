#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/lazy_index.h"
#include "runtime/migration/fetch_order.h"
#include "runtime/migration/lane_grants.h"
#include "runtime/proto/starling.pb.h"
#include "transport/record_cipher.h"

namespace starling::migration {

// What a source's answer to OpenOffer says, as far as it can be: which pieces there are, where they
// are read from, and how each is known to be right. docs/wire.md gives the answer. Does no I/O; one
// thread at a time.
class Offered {
 public:
  // `offer` outlives it. No piece has more than `most_pages` pages, and all are for slots below
  // `arena_slots`. kDataLoss: it says what cannot be, or does not have all that is missing.
  static absl::StatusOr<Offered> Open(const v1::OpenOfferResponse& offer,
                                      std::span<const checkpoint::SlotRange> missing,
                                      uint64_t arena_slots, uint64_t most_pages);

  FetchOrder& order() { return order_; }

  // What is to be asked of the connection, one question after the other, before anything is
  // located; nothing where the keys came with the answer, or all were granted.
  std::optional<GrantRequest> Question() const;
  // The answer to it. kDataLoss: not all that was asked for.
  absl::Status TakeGrants(absl::string_view bytes);

  // Where the source has `bytes` bytes from `offset` on, and the key to them. kDataLoss: nowhere.
  absl::StatusOr<Granted> Locate(uint64_t offset, uint64_t bytes) const;

  // `bytes` were read of the piece: opens them in place, where they are sealed. kDataLoss if they
  // are not what the source has.
  absl::Status Check(size_t piece, std::span<std::byte> bytes);

 private:
  Offered(const v1::OpenOfferResponse& offer, FetchOrder order)
      : offer_(&offer), order_(std::move(order)) {}

  const v1::OpenOfferResponse* offer_;
  FetchOrder order_;
  std::unique_ptr<transport::RecordCipher> cipher_;  // null: plain
  std::vector<Granted> granted_;                     // of the regions, from the first on
};

}  // namespace starling::migration
