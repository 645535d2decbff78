#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/page_stream.h"
#include "runtime/migration/arena_slots.h"
#include "runtime/migration/batch.h"
#include "runtime/migration/encoding.h"
#include "runtime/migration/lane_grants.h"
#include "runtime/migration/sealed_channel.h"
#include "transport/fabric.h"

namespace starling::migration {

// Registered memory that a writer fills: `slabs` of `slab_bytes` each, and as many again that it
// compresses into where batches may be. They are sealed where they lie.
struct SlabPool {
  uint64_t slab_bytes = 0;
  size_t slabs = 0;
  bool packed = false;
};

// A writer's own slots of the target's landing ring.
struct RingShare {
  uint64_t address = 0;  // of the ring's first slot
  uint32_t rkey = 0;
  uint64_t slot_bytes = 0;
  std::vector<uint32_t> slots;  // none: everything goes in place
};

// Whether the target grants to each connection apart: the keys that came before are of no use, and
// the writer asks for its own.
enum class GrantedTo { kSource, kConnection };

// By what the target knows that pages came as they were sent: a hash of each run, or, of sealed
// batches, the tag alone, which says as much.
enum class KnownBy { kHash, kTag };

struct LaneCounts {
  uint64_t pages = 0;           // as bytes
  uint64_t repeated_pages = 0;  // of them, named as copies
  uint64_t zero_pages = 0;
  uint64_t packed_in = 0;   // bytes that were compressed
  uint64_t packed_out = 0;  // to how many
  uint64_t resent_pages = 0;
  uint64_t staged_pages = 0;  // scattered ones that went through the ring as they are

  LaneCounts& operator+=(const LaneCounts& other) {
    pages += other.pages;
    repeated_pages += other.repeated_pages;
    zero_pages += other.zero_pages;
    packed_in += other.packed_in;
    packed_out += other.packed_out;
    resent_pages += other.resent_pages;
    staged_pages += other.staged_pages;
    return *this;
  }
  LaneCounts& operator-=(const LaneCounts& other) {
    pages -= other.pages;
    repeated_pages -= other.repeated_pages;
    zero_pages -= other.zero_pages;
    packed_in -= other.packed_in;
    packed_out -= other.packed_out;
    resent_pages -= other.resent_pages;
    staged_pages -= other.staged_pages;
    return *this;
  }
};

// One connection's part of a LaneSink: pages are written by RDMA into their slots of the target's
// arena, or packed or sealed into the ring, each batch followed by a message that says what they
// are. One thread at a time; bytes_sent() and Shutdown() from any.
class LaneWriter final : public checkpoint::PageLane {
 public:
  static absl::StatusOr<std::unique_ptr<LaneWriter>> Create(
      transport::Fabric& fabric, std::unique_ptr<SealedChannel> channel, ArenaSlots& slots,
      RingShare ring, const SlabPool& pool, bool compress, std::function<void()> progress,
      GrantedTo granted = GrantedTo::kSource, KnownBy known_by = KnownBy::kHash);
  ~LaneWriter() override;

  absl::StatusOr<std::span<std::byte>> Acquire(size_t pages) override;
  absl::Status Put(const checkpoint::PageRun& run) override { return PutAll({&run, 1}); }
  absl::Status PutAll(std::span<const checkpoint::PageRun> runs) override;
  void Discard() override {}
  absl::Status PutZero(const checkpoint::PageRun& run) override;

  // No more fits into the batch that is being made.
  bool Full() const;
  absl::Status SendBatch();

  // A flush of several writers: first all of them ask, then each waits.
  absl::Status AskForAnswer();
  // Appends the runs of batches that were refused.
  absl::Status WaitForAnswer(Deadline deadline, std::vector<checkpoint::PageRun>& refused);

  // What the target has not answered for, the batch that is being made and what it refused
  // included: where the connection is lost, all of it counts as never sent.
  std::vector<checkpoint::PageRun> Unanswered() const;

  // A bit of the next page flips on its way, for tests of what comes of it.
  void DamageNextPage() { damage_ = true; }

  const LaneCounts& counts() const { return counts_; }
  uint64_t bytes_sent() const { return channel_->connection().bytes_sent(); }
  void Shutdown() { channel_->connection().Shutdown(); }

 private:
  struct Slab {
    std::span<std::byte> memory;
    std::span<std::byte> packed;
    // The message behind its last batch: it may be written to again once that has completed.
    uint64_t message = 0;
  };
  struct Outstanding {
    uint64_t sequence = 0;
    std::vector<checkpoint::PageRun> runs;
  };

  LaneWriter(std::unique_ptr<SealedChannel> channel, ArenaSlots& slots, RingShare ring,
             const SlabPool& pool, bool compress, std::function<void()> progress, GrantedTo granted,
             KnownBy known_by);

  // Where it is for this connection.
  absl::StatusOr<Granted> Chunk(const ArenaSlots::Piece& piece);
  absl::StatusOr<Granted> Ring();
  absl::Status AskFor(const GrantRequest& request);
  absl::Status TakeAnswer(absl::string_view bytes);
  absl::Status Place(const checkpoint::PageRun& run);
  absl::Status PlacePiece(const checkpoint::PageRun& run, uint64_t slot);
  absl::Status WriteInPlace(uint64_t slot, uint64_t pages, size_t slab_offset);
  absl::Status WriteAllInPlace();
  absl::Status Pack();
  absl::Status WaitForRingSlot(uint32_t& slot);
  // With `keep_slab` the rest of the slab stays in use for the next batch.
  absl::Status Send(bool answer, bool keep_slab);
  absl::Status Await(uint64_t sequence, Deadline deadline);
  absl::Status WaitForSlab();
  void BeginBatch();
  std::optional<uint64_t> FindCopy(std::span<const std::byte> page, uint64_t hash) const;

  const std::unique_ptr<SealedChannel> channel_;
  ArenaSlots& arena_;
  const RingShare ring_;
  const SlabPool pool_;
  const std::function<void()> progress_;
  const GrantedTo granted_;
  const KnownBy known_by_;
  std::vector<Granted> granted_chunks_;  // asked for so far
  std::vector<Granted> granted_ring_;    // likewise: one or none
  std::span<std::byte> memory_;
  std::unique_ptr<transport::MemoryRegion> region_;
  std::vector<Slab> slabs_;

  size_t current_ = 0;  // slab being filled
  bool free_ = false;   // it has been waited for
  size_t used_ = 0;     // bytes of it that are taken, by this batch and those before
  size_t begin_ = 0;    // where this batch begins in it
  bool begun_ = false;  // this batch has its encoding
  Batch batch_;
  EncodingChooser chooser_;
  Duration waited_{};       // for the link
  bool scattered_ = false;  // what is being put
  bool damage_ = false;

  // Repeated content within a batch: what lies where in the slab.
  struct Known {
    uint64_t hash = 0;
    size_t offset = 0;
    uint64_t slot = 0;
  };
  std::vector<Known> known_;
  bool copies_ = false;  // this batch looks for them
  uint64_t batches_ = 0;
  uint64_t copies_worth_ = 0;  // batches that will look, because a sample found some

  std::deque<Outstanding> outstanding_;  // not yet answered for
  std::vector<checkpoint::PageRun> refused_;
  uint64_t answered_ = 0;  // up to this sequence
  size_t ring_next_ = 0;
  std::vector<uint64_t> ring_used_;  // by which sequence each of ring_.slots was last
  LaneCounts counts_;
};

}  // namespace starling::migration
