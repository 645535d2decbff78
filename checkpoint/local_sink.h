#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/status.h"
#include "checkpoint/arena.h"
#include "checkpoint/page_stream.h"
#include "checkpoint/slot_map.h"

namespace starling::checkpoint {

// A sink whose wire is memcpy: what lands in an arena of the same process, through the same slots
// and hashes as over a fabric.
class LocalSink : public PageSink {
 public:
  explicit LocalSink(Arena& arena, size_t room_pages = 64, size_t lanes = 1) : arena_(arena) {
    for (size_t i = 0; i < lanes; ++i) {
      own_.push_back(std::make_unique<Lane>(*this, room_pages));
      lanes_.push_back(own_.back().get());
    }
  }

  absl::StatusOr<std::span<std::byte>> Acquire(size_t pages) override {
    return own_[0]->Acquire(pages);
  }
  void Discard() override {}
  absl::Status Put(const PageRun& run) override { return own_[0]->Put(run); }
  absl::Status PutAll(std::span<const PageRun> runs) override { return own_[0]->PutAll(runs); }
  absl::Status PutZero(const PageRun& run) override { return own_[0]->PutZero(run); }

  std::span<PageLane* const> lanes() override { return lanes_; }

  absl::StatusOr<std::vector<PageRun>> Flush(Deadline) override {
    slots_.Recycle();
    return std::exchange(refuse_, {});
  }

  // What the next flush returns, as if it had been damaged.
  void Refuse(const PageRun& run) { refuse_.push_back(run); }
  uint64_t pages_put() const { return pages_put_; }
  // By lane.
  std::vector<uint64_t> pages_by_lane() const {
    std::vector<uint64_t> pages;
    for (const auto& lane : own_) pages.push_back(lane->pages);
    return pages;
  }

 private:
  class Lane : public PageLane {
   public:
    Lane(LocalSink& sink, size_t room_pages)
        : sink_(sink), room_pages_(room_pages), room_(new std::byte[room_pages * kPageSize]) {}
    absl::StatusOr<std::span<std::byte>> Acquire(size_t wanted) override {
      return std::span(room_.get(), std::min(wanted, room_pages_) * kPageSize);
    }
    void Discard() override {}
    absl::Status Put(const PageRun& run) override { return PutAll({&run, 1}); }
    absl::Status PutAll(std::span<const PageRun> runs) override {
      const std::lock_guard lock(sink_.mutex_);
      const std::byte* from = room_.get();
      for (const PageRun& run : runs) {
        RETURN_IF_ERROR(sink_.PutFrom(run, from));
        from += run.pages * kPageSize;
        pages += run.pages;
      }
      return absl::OkStatus();
    }
    absl::Status PutZero(const PageRun& run) override {
      const std::lock_guard lock(sink_.mutex_);
      sink_.slots_.Zero(run);
      return sink_.arena_.PlaceZero(run);
    }
    uint64_t pages = 0;

   private:
    LocalSink& sink_;
    const size_t room_pages_;
    std::unique_ptr<std::byte[]> room_;
  };

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
  std::mutex mutex_;  // guards the slots and the count
  SlotMap slots_;
  uint64_t pages_put_ = 0;
  std::vector<std::unique_ptr<Lane>> own_;
  std::vector<PageLane*> lanes_;
  std::vector<PageRun> refuse_;
};

}  // namespace starling::checkpoint
