#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/page_stream.h"
#include "checkpoint/run_map.h"
#include "runtime/migration/arena_slots.h"
#include "runtime/migration/lane_grants.h"
#include "runtime/proto/starling.pb.h"
#include "transport/fabric.h"
#include "transport/record_cipher.h"

namespace starling::migration {

// What a piece of an offer has at most, in pages: it is checked, or opened, as a whole.
inline constexpr uint64_t kPiecePages = 16;

// A page's slot, and where it is in an offer: its offset in pages.
struct OfferPlace {
  uint64_t slot = 0;
  uint64_t at = 0;
  OfferPlace Plus(uint64_t n) const { return {slot + n, at + n}; }
  friend bool operator==(const OfferPlace&, const OfferPlace&) = default;
};

// Pages of a frozen component that stay behind at the source, in memory of the agent's own that
// their target may read: copies, so that the component itself can go. Each has its slot in the
// target's arena like any page that is sent.
//
// Made before the freeze, filled in it through an OfferSink, settled when CRIU's list is known, and
// then read by the target until it is given up.
class Offer {
 public:
  // Room for `bytes`, allocated and registered now: for memory windows where the fabric has them.
  // `sealed`: nobody but the target shall be able to read what is read from here.
  static absl::StatusOr<std::unique_ptr<Offer>> Create(transport::Fabric& fabric, uint64_t bytes,
                                                       bool sealed);
  ~Offer();

  // Room for the caller alone, kBlockPages pages; empty once there is none. Thread-safe.
  static constexpr uint64_t kBlockPages = 256;
  std::span<std::byte> TakeBlock();

  // The run's pages are at `bytes`, part of a block, and have these slots. Thread-safe.
  void Add(const checkpoint::PageRun& run, std::span<const checkpoint::SlotRun> slots,
           const std::byte* bytes);

  // Makes an end of filling it. Of what was added, `list` and `slots` (the final ones) say what
  // still counts; what cannot be restored on demand by the skeleton's images in `images_dir`, and
  // one page of each mapping, goes to `lane` now.
  absl::Status Settle(const checkpoint::FinalList& list, const std::string& images_dir,
                      const ArenaSlots& slots, checkpoint::PageLane& lane);

  // After Settle(). What there is, in order of addresses, and how much.
  std::vector<v1::OfferedRun> Runs() const;
  uint64_t pages() const { return pages_; }

  // Whether a target that asks its data connection for it reads through memory windows.
  bool windows() const { return windows_; }

  // What the target needs to read it, but for address and token. Waits until all is sealed. Not
  // `by_connection`: the target cannot ask, and is given the keys of regions. Thread-safe.
  absl::StatusOr<v1::OpenOfferResponse> Describe(bool by_connection);

  // What this connection alone may read: memory windows, or, should one not be had, the region with
  // its key, since what stayed behind is nowhere else. Thread-safe; the connection goes before the
  // offer.
  absl::StatusOr<Granted> Grant(transport::Connection& connection, size_t region);
  size_t region_count() const { return regions_.size(); }

 private:
  using Place = OfferPlace;
  struct Piece {
    uint64_t slot = 0;
    uint64_t pages = 0;
    uint64_t at = 0;  // in pages
    uint64_t hash = 0;
    transport::CipherTag tag{};
  };

  Offer(transport::Fabric& fabric, std::span<std::byte> memory, bool sealed)
      : fabric_(fabric), memory_(memory), sealed_(sealed), windows_(fabric.windows()) {}
  // A region that can be read by its key, made when it is first asked for.
  absl::StatusOr<const transport::MemoryRegion*> Readable(size_t region);
  absl::Status SendNow(checkpoint::PageLane& lane, const checkpoint::PageRun& run, uint64_t at);
  absl::Status SettleSpace(const checkpoint::AddressSpace& space, const std::string& images_dir,
                           checkpoint::PageLane& lane);
  // Cuts into pieces, in the order in which they were added, and hashes or seals them.
  void Finish();

  transport::Fabric& fabric_;
  const std::span<std::byte> memory_;
  const bool sealed_;
  const bool windows_;
  std::vector<std::unique_ptr<transport::MemoryRegion>> regions_;
  std::mutex readable_mutex_;
  // By region; null until it is made. Not used where regions_ are readable themselves.
  std::vector<std::unique_ptr<transport::MemoryRegion>> readable_;
  std::mutex mutex_;    // guards the two below
  uint64_t taken_ = 0;  // pages
  absl::btree_map<checkpoint::AddressSpace, checkpoint::RunMap<Place>> spaces_;
  uint64_t pages_ = 0;
  std::thread finishing_;
  std::mutex finish_mutex_;  // of who waits for it
  transport::CipherKey key_{};
  std::vector<Piece> pieces_;
  absl::Status finished_;
};

// Takes pages into an offer as long as it has room, and hands everything else, zeros above all, on
// to `sink`.
class OfferSink final : public checkpoint::PageSink {
 public:
  OfferSink(Offer& offer, ArenaSlots& slots, checkpoint::PageSink& sink);
  ~OfferSink() override;

  absl::StatusOr<std::span<std::byte>> Acquire(size_t pages) override;
  absl::Status Put(const checkpoint::PageRun& run) override;
  absl::Status PutAll(std::span<const checkpoint::PageRun> runs) override;
  void Discard() override;
  absl::Status PutZero(const checkpoint::PageRun& run) override;
  std::span<checkpoint::PageLane* const> lanes() override { return lanes_; }
  absl::StatusOr<std::vector<checkpoint::PageRun>> Flush(Deadline deadline) override {
    return sink_.Flush(deadline);
  }

 private:
  class Lane;

  checkpoint::PageSink& sink_;
  std::unique_ptr<Lane> own_;
  std::vector<std::unique_ptr<Lane>> made_;
  std::vector<checkpoint::PageLane*> lanes_;
};

}  // namespace starling::migration
