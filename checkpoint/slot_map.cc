#include "checkpoint/slot_map.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace starling::checkpoint {

uint64_t SlotMap::NewPages(const PageRun& run) const {
  const auto space = spaces_.find(run.space);
  if (space == spaces_.end()) return run.pages;
  uint64_t pages = 0;
  space->second.ForEachPiece(run.address / kPageSize, run.pages,
                             [&](uint64_t, uint64_t count, const SlotValue* value) {
                               if (value == nullptr || value->slot == kZeroSlot) pages += count;
                             });
  return pages;
}

uint64_t SlotMap::Shortage(const PageRun& run) const {
  const uint64_t needed = NewPages(run);
  const uint64_t available = free_.key_count() + (capacity_ - top_);
  return needed > available ? needed - available : 0;
}

RunMap<SlotMap::Free>::Run SlotMap::Take(uint64_t want) {
  auto gap = free_.FindIf([want](const auto& run) { return run.count >= want; });
  if (!gap && top_ < capacity_) {
    const uint64_t count = std::min(want, capacity_ - top_);
    top_ += count;
    return {top_ - count, count, {}};
  }
  if (!gap) gap = free_.FindIf([](const auto&) { return true; });
  const uint64_t count = std::min(want, gap->count);
  free_.Erase(gap->first, count);
  return {gap->first, count, {}};
}

absl::StatusOr<std::vector<SlotRun>> SlotMap::Assign(const PageRun& run) {
  // After the first round most pages come again to where they were.
  if (const auto space = spaces_.find(run.space); space != spaces_.end()) {
    const auto there = space->second.Find(run.address / kPageSize);
    if (there && there->count >= run.pages && there->value.slot != kZeroSlot)
      return std::vector<SlotRun>{{run.address, run.pages, there->value.slot}};
  }
  if (const uint64_t shortage = Shortage(run); shortage > 0) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the arena of ", capacity_, " pages is full: ", shortage, " more pages are needed"));
  }
  RunMap<SlotValue>& map = spaces_[run.space];
  std::vector<SlotRun> result;
  auto emit = [&result](uint64_t page, uint64_t count, uint64_t slot) {
    if (!result.empty()) {
      SlotRun& last = result.back();
      if (last.slot + last.pages == slot) {
        last.pages += count;
        return;
      }
    }
    result.push_back({page * kPageSize, count, slot});
  };
  std::vector<RunMap<SlotValue>::Run> pieces;
  map.ForEachPiece(run.address / kPageSize, run.pages,
                   [&](uint64_t first, uint64_t count, const SlotValue* value) {
                     const bool placed = value != nullptr && value->slot != kZeroSlot;
                     pieces.push_back({first, count, placed ? *value : SlotValue{}});
                   });
  for (const auto& piece : pieces) {
    if (piece.value.slot != kZeroSlot) {
      emit(piece.first, piece.count, piece.value.slot);
      continue;
    }
    for (uint64_t done = 0; done < piece.count;) {
      const auto taken = Take(piece.count - done);
      map.Assign(piece.first + done, taken.count, {taken.first});
      emit(piece.first + done, taken.count, taken.first);
      done += taken.count;
    }
  }
  return result;
}

void SlotMap::Zero(const PageRun& run) {
  for (const auto& old :
       spaces_[run.space].Assign(run.address / kPageSize, run.pages, {kZeroSlot})) {
    if (old.value.slot != kZeroSlot) given_up_.Assign(old.value.slot, old.count, {});
  }
}

void SlotMap::Drop(const AddressSpace& space) {
  const auto found = spaces_.find(space);
  if (found == spaces_.end()) return;
  found->second.ForEach([this](const RunMap<SlotValue>::Run& run) {
    if (run.value.slot != kZeroSlot) given_up_.Assign(run.value.slot, run.count, {});
  });
  spaces_.erase(found);
}

void SlotMap::Recycle() {
  given_up_.ForEach(
      [this](const RunMap<Free>::Run& run) { free_.Assign(run.first, run.count, {}); });
  given_up_.Clear();
}

std::vector<SlotRun> SlotMap::Current(const PageRun& run) const {
  std::vector<SlotRun> result;
  const auto found = spaces_.find(run.space);
  if (found == spaces_.end()) return result;
  found->second.ForEachPiece(run.address / kPageSize, run.pages,
                             [&](uint64_t first, uint64_t count, const SlotValue* value) {
                               if (value == nullptr || value->slot == kZeroSlot) return;
                               result.push_back({first * kPageSize, count, value->slot});
                             });
  return result;
}

std::optional<SlotValue> SlotMap::Find(const AddressSpace& space, uint64_t address) const {
  const auto found = spaces_.find(space);
  if (found == spaces_.end()) return std::nullopt;
  const auto run = found->second.Find(address / kPageSize);
  if (!run) return std::nullopt;
  return run->value;
}

}  // namespace starling::checkpoint
