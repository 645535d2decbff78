#include "checkpoint/page_hashes.h"

#include <algorithm>

#include "base/xxh3.h"

namespace starling::checkpoint {

uint64_t PageHashes::Of(std::span<const std::byte> page) {
  return std::max<uint64_t>(1, Xxh3(page));
}

uint64_t PageHashes::Find(const AddressSpace& space, uint64_t address) const {
  const auto found = spaces_.find(space);
  if (found == spaces_.end()) return 0;
  const uint64_t page = address / kPageSize;
  const auto block = found->second.find(page / kBlockPages);
  return block == found->second.end() ? 0 : (*block->second)[page % kBlockPages];
}

void PageHashes::Set(const AddressSpace& space, uint64_t address, uint64_t hash) {
  const uint64_t page = address / kPageSize;
  std::unique_ptr<Block>& block = spaces_[space][page / kBlockPages];
  if (!block) {
    if (pages_ + kBlockPages > most_pages_) {
      spaces_[space].erase(page / kBlockPages);
      return;
    }
    block = std::make_unique<Block>();
    pages_ += kBlockPages;
  }
  (*block)[page % kBlockPages] = hash;
}

void PageHashes::Erase(const PageRun& run) {
  const auto found = spaces_.find(run.space);
  if (found == spaces_.end()) return;
  const uint64_t end = run.address / kPageSize + run.pages;
  for (uint64_t page = run.address / kPageSize; page < end;) {
    const uint64_t next = std::min(end, (page / kBlockPages + 1) * kBlockPages);
    const auto block = found->second.find(page / kBlockPages);
    if (block != found->second.end()) {
      std::fill_n(block->second->begin() + static_cast<ptrdiff_t>(page % kBlockPages), next - page,
                  0);
    }
    page = next;
  }
}

void PageHashes::Drop(const AddressSpace& space) {
  const auto found = spaces_.find(space);
  if (found == spaces_.end()) return;
  pages_ -= found->second.size() * kBlockPages;
  spaces_.erase(found);
}

void PageHashes::Clear() {
  spaces_.clear();
  pages_ = 0;
}

}  // namespace starling::checkpoint
