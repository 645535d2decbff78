#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "absl/container/btree_map.h"
#include "checkpoint/lazy_index.h"

namespace starling::migration {

// In which order the pieces of an offer are fetched: first those that somebody waits for, then what
// lies behind them in the arena, then the rest as it was offered. Pure; not thread-safe.
class FetchOrder {
 public:
  struct Piece {
    uint64_t slot = 0;
    uint64_t pages = 0;
    uint64_t offset = 0;  // bytes, in the offered memory
  };

  // Of the pieces, in the order of the offer, only those are fetched that have a slot of `missing`.
  FetchOrder(std::vector<Piece> pieces, std::span<const checkpoint::SlotRange> missing);

  // False: some slot of it is in no piece, and so will never come.
  bool complete() const { return complete_; }
  const Piece& piece(size_t index) const { return pieces_[index]; }

  // Somebody waits for these. What is not missing any more is passed over.
  void Want(const checkpoint::SlotRange& slots);

  // The pieces to be fetched now by one read of at most `most_pages` pages (or of one piece): the
  // one whose turn it is, and those that follow it in the offered memory, since a read costs hardly
  // more for them. The same again until Landed() is called. Empty: there are none left.
  std::vector<size_t> Next(uint64_t most_pages);
  void Landed(std::span<const size_t> pieces);

  uint64_t pages_left() const { return pages_left_; }

 private:
  std::vector<size_t> From(size_t first, uint64_t most_pages) const;

  std::vector<Piece> pieces_;
  std::vector<bool> done_;
  absl::btree_map<uint64_t, size_t> by_slot_;  // first slot of a piece
  std::deque<size_t> wanted_;
  std::deque<size_t> near_;
  size_t next_ = 0;
  uint64_t pages_left_ = 0;
  bool complete_ = true;
};

}  // namespace starling::migration
