#include "runtime/migration/arena_slots.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace starling::migration {

using checkpoint::kPageSize;
using checkpoint::PageRun;
using checkpoint::SlotRun;

namespace {

// Room asked for at once: when the arena is full, so that a growing component does not ask for
// every page, and ahead.
constexpr uint64_t kGrowBytes = 32u << 20;

}  // namespace

absl::Status ArenaSlots::AddChunk(const v1::ArenaChunk& chunk) {
  std::lock_guard lock(mutex_);
  return AddChunkLocked(chunk);
}

absl::Status ArenaSlots::AddChunkLocked(const v1::ArenaChunk& chunk) {
  if (chunk.bytes() == 0 || chunk.bytes() % kPageSize != 0) {
    return absl::DataLossError(
        absl::StrCat("the target granted a chunk of ", chunk.bytes(), " bytes, not whole pages"));
  }
  const uint64_t first = chunks_.empty() ? 0 : chunks_.back().first_slot + chunks_.back().slots;
  chunks_.push_back({first, chunk.bytes() / kPageSize, chunk.address(), chunk.rkey()});
  slots_.SetCapacity(first + chunks_.back().slots);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<SlotRun>> ArenaSlots::Assign(const PageRun& run) {
  std::unique_lock lock(mutex_);
  while (true) {
    const uint64_t shortage = slots_.Shortage(run);
    if (shortage == 0) return slots_.Assign(run);
    // What is asked for already may do.
    if (growing_ || ahead_ > 0) {
      grown_.wait(lock);
      continue;
    }
    RETURN_IF_ERROR(GrowLocked(lock, std::max(shortage * kPageSize, kGrowBytes)));
  }
}

absl::Status ArenaSlots::GrowLocked(std::unique_lock<std::mutex>& lock, uint64_t bytes) {
  growing_ = true;
  lock.unlock();
  const absl::StatusOr<std::vector<v1::ArenaChunk>> more = grow_(bytes);
  lock.lock();
  growing_ = false;
  grown_.notify_all();
  RETURN_IF_ERROR(more.status());
  if (more->empty()) return absl::DataLossError("the target granted nothing and did not say why");
  for (const v1::ArenaChunk& chunk : *more) RETURN_IF_ERROR(AddChunkLocked(chunk));
  return absl::OkStatus();
}

void ArenaSlots::GrowAhead(uint64_t bytes) {
  {
    std::lock_guard lock(mutex_);
    ahead_ = bytes;
  }
  ahead_thread_ = std::jthread([this](const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (ahead_ > 0 && !stop.stop_requested()) {
      const uint64_t part = std::min(ahead_, kGrowBytes);
      // Who needs room then asks for it, and is told why there is none.
      if (!GrowLocked(lock, part).ok()) break;
      ahead_ -= part;
    }
    ahead_ = 0;
    grown_.notify_all();
  });
}

void ArenaSlots::Zero(const PageRun& run) {
  std::lock_guard lock(mutex_);
  slots_.Zero(run);
}

void ArenaSlots::Recycle() {
  std::lock_guard lock(mutex_);
  slots_.Recycle();
}

std::vector<SlotRun> ArenaSlots::Current(const PageRun& run) const {
  std::lock_guard lock(mutex_);
  return slots_.Current(run);
}

// Slots are adjacent in the arena's numbering, but chunks are not adjacent in the peer's memory.
absl::StatusOr<ArenaSlots::Piece> ArenaSlots::Locate(uint64_t slot, uint64_t pages) const {
  std::lock_guard lock(mutex_);
  auto chunk =
      std::upper_bound(chunks_.begin(), chunks_.end(), slot,
                       [](uint64_t wanted, const Chunk& c) { return wanted < c.first_slot; });
  if (chunk == chunks_.begin()) return absl::InternalError("a slot before the first chunk");
  --chunk;
  const uint64_t inside = slot - chunk->first_slot;
  if (inside >= chunk->slots) return absl::InternalError("a slot behind the last chunk");
  return Piece{chunk->address + inside * kPageSize, chunk->rkey,
               std::min(pages, chunk->slots - inside),
               static_cast<uint32_t>(chunk - chunks_.begin()), inside * kPageSize};
}

}  // namespace starling::migration
