#include "runtime/migration/fetch_order.h"

#include <algorithm>
#include <utility>

#include "checkpoint/run_map.h"

namespace starling::migration {
namespace {

// Pieces behind a wanted one that come before the rest.
constexpr size_t kNearPieces = 4;

}  // namespace

FetchOrder::FetchOrder(std::vector<Piece> pieces, std::span<const checkpoint::SlotRange> missing)
    : pieces_(std::move(pieces)), done_(pieces_.size(), true) {
  checkpoint::RunMap<checkpoint::Missing> open;
  for (const checkpoint::SlotRange& range : missing) open.Assign(range.first, range.count, {});
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const Piece& piece = pieces_[i];
    if (open.Erase(piece.slot, piece.pages).empty()) continue;
    done_[i] = false;
    by_slot_[piece.slot] = i;
    pages_left_ += piece.pages;
  }
  complete_ = open.empty();
}

void FetchOrder::Want(const checkpoint::SlotRange& slots) {
  auto at = by_slot_.upper_bound(slots.first);
  if (at != by_slot_.begin()) --at;
  near_.clear();
  for (size_t near = 0; at != by_slot_.end() && near < kNearPieces; ++at) {
    const Piece& piece = pieces_[at->second];
    if (piece.slot + piece.pages <= slots.first) continue;
    if (done_[at->second]) continue;
    if (piece.slot < slots.first + slots.count) {
      wanted_.push_back(at->second);
    } else {
      near_.push_back(at->second);
      ++near;
    }
  }
}

std::vector<size_t> FetchOrder::From(size_t first, uint64_t most_pages) const {
  std::vector<size_t> group = {first};
  uint64_t pages = pieces_[first].pages;
  for (size_t i = first + 1; i < pieces_.size() && !done_[i]; ++i) {
    const Piece& before = pieces_[i - 1];
    if (pieces_[i].offset != before.offset + before.pages * checkpoint::kPageSize) break;
    pages += pieces_[i].pages;
    if (pages > most_pages) break;
    group.push_back(i);
  }
  return group;
}

std::vector<size_t> FetchOrder::Next(uint64_t most_pages) {
  for (std::deque<size_t>* const queue : {&wanted_, &near_}) {
    while (!queue->empty() && done_[queue->front()]) queue->pop_front();
    if (!queue->empty()) return From(queue->front(), most_pages);
  }
  while (next_ < pieces_.size() && done_[next_]) ++next_;
  if (next_ == pieces_.size()) return {};
  return From(next_, most_pages);
}

void FetchOrder::Landed(std::span<const size_t> pieces) {
  for (const size_t index : pieces) {
    if (done_[index]) continue;
    done_[index] = true;
    pages_left_ -= pieces_[index].pages;
    by_slot_.erase(pieces_[index].slot);
  }
}

}  // namespace starling::migration
