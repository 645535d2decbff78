#pragma once

#include <cstddef>
#include <map>
#include <memory_resource>
#include <vector>

namespace starling {

// Memory in huge pages, where the kernel has them (madvise(2), MADV_HUGEPAGE), for what is gone
// through again and again and does not fit into caches: with 4 KiB pages most of such a walk is
// looking up addresses. Blocks are cut from pieces of 2 MiB, and those that are given back are kept
// for others of their size; all of it goes back to the system with the pool. Larger ones are
// mapped by themselves. One thread at a time.
class HugePool final : public std::pmr::memory_resource {
 public:
  HugePool() = default;
  ~HugePool() override;
  HugePool(const HugePool&) = delete;
  HugePool& operator=(const HugePool&) = delete;

 private:
  // Throws std::bad_alloc, as such resources do, when the system has no more.
  void* do_allocate(size_t bytes, size_t alignment) override;
  void do_deallocate(void* block, size_t bytes, size_t alignment) override;
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
    return this == &other;
  }

  std::vector<std::byte*> pieces_;
  std::byte* next_ = nullptr;  // in the last piece
  size_t left_ = 0;
  std::map<size_t, std::vector<void*>> free_;  // by size
};

}  // namespace starling
