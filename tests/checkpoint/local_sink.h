#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "base/status.h"
#include "checkpoint/arena.h"
#include "checkpoint/page_stream.h"
#include "checkpoint/slot_map.h"

namespace starling::checkpoint {

// A sink whose wire is memcpy: what lands in an arena of the same process, through the same slots
// and hashes as over a fabric.
class LocalSink : public PageSink {
 public:
  explicit LocalSink(Arena& arena, size_t room_pages = 64)
      : arena_(arena), room_pages_(room_pages), room_(new std::byte[room_pages * kPageSize]) {}

  absl::StatusOr<std::span<std::byte>> Acquire(size_t pages) override {
    return std::span(room_.get(), std::min(pages, room_pages_) * kPageSize);
  }
  void Discard() override {}

  absl::Status Put(const PageRun& run) override { return PutAll({&run, 1}); }

  absl::Status PutAll(std::span<const PageRun> runs) override {
    const std::byte* from = room_.get();
    for (const PageRun& run : runs) {
      RETURN_IF_ERROR(PutFrom(run, from));
      from += run.pages * kPageSize;
    }
    return absl::OkStatus();
  }

  absl::Status PutZero(const PageRun& run) override {
    slots_.Zero(run);
    return arena_.PlaceZero(run);
  }

  absl::Status Flush(Deadline) override {
    slots_.Recycle();
    return absl::OkStatus();
  }

  uint64_t pages_put() const { return pages_put_; }

 private:
  absl::Status PutFrom(const PageRun& run, const std::byte* from) {
    while (slots_.Shortage(run) > 0) {
      RETURN_IF_ERROR(arena_.AddChunk().status());
      slots_.SetCapacity(arena_.slots());
    }
    ASSIGN_OR_RETURN(const std::vector<SlotRun> pieces, slots_.Assign(run));
    for (const SlotRun& piece : pieces) {
      const size_t size = piece.pages * kPageSize;
      ASSIGN_OR_RETURN(const std::span<std::byte> to, arena_.Slots(piece.slot, piece.pages));
      std::memcpy(to.data(), from, size);
      RETURN_IF_ERROR(arena_.Place({run.space, piece.address, piece.pages}, piece.slot,
                                   HashPages({from, size})));
      from += size;
    }
    pages_put_ += run.pages;
    return absl::OkStatus();
  }

  Arena& arena_;
  SlotMap slots_;
  const size_t room_pages_;
  std::unique_ptr<std::byte[]> room_;
  uint64_t pages_put_ = 0;
};

}  // namespace starling::checkpoint
