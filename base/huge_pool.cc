#include "base/huge_pool.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

namespace starling {
namespace {

constexpr size_t kPiece = 2 << 20;
constexpr size_t kCacheLine = 64;
// Of these several go into a piece.
constexpr size_t kLargest = kPiece / 4;

size_t RoundUp(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

// Aligned to a piece, or a huge page would not fit.
std::byte* Map(size_t bytes) {
  void* const mapped = ::mmap(nullptr, bytes + kPiece, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* const begin = static_cast<std::byte*>(mapped);
  const size_t before =
      RoundUp(reinterpret_cast<uintptr_t>(begin), kPiece) - reinterpret_cast<uintptr_t>(begin);
  if (before > 0) ::munmap(begin, before);
  if (before < kPiece) ::munmap(begin + before + bytes, kPiece - before);
  // Without such pages it is memory all the same.
  (void)::madvise(begin + before, bytes, MADV_HUGEPAGE);
  return begin + before;
}

}  // namespace

HugePool::~HugePool() {
  for (std::byte* const piece : pieces_) ::munmap(piece, kPiece);
}

void* HugePool::do_allocate(size_t bytes, size_t alignment) {
  if (alignment > kCacheLine) throw std::bad_alloc();
  bytes = RoundUp(bytes, kCacheLine);
  if (bytes > kLargest) return Map(RoundUp(bytes, kPiece));
  if (const auto found = free_.find(bytes); found != free_.end() && !found->second.empty()) {
    void* const block = found->second.back();
    found->second.pop_back();
    return block;
  }
  if (left_ < bytes) {
    pieces_.push_back(nullptr);
    pieces_.back() = next_ = Map(kPiece);
    left_ = kPiece;
  }
  std::byte* const block = next_;
  next_ += bytes;
  left_ -= bytes;
  return block;
}

void HugePool::do_deallocate(void* block, size_t bytes, size_t) {
  bytes = RoundUp(bytes, kCacheLine);
  if (bytes > kLargest) {
    ::munmap(block, RoundUp(bytes, kPiece));
  } else {
    free_[bytes].push_back(block);
  }
}

}  // namespace starling
