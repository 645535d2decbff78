#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <vector>

namespace starling::transport {

// A queue between two threads, one that pushes and one that pops, without locks and without
// allocation after it was made.
template <typename T>
class SingleRing {
 public:
  // Rounded up to a power of two.
  explicit SingleRing(size_t capacity) : slots_(std::bit_ceil(capacity)) {}

  // False when it is full.
  bool Push(const T& value) {
    const size_t tail = tail_.load(std::memory_order_relaxed);
    if (tail - head_.load(std::memory_order_acquire) == slots_.size()) return false;
    slots_[tail & (slots_.size() - 1)] = value;
    tail_.store(tail + 1, std::memory_order_release);
    return true;
  }

  // nullptr when it is empty; valid until Pop().
  const T* Front() const {
    const size_t head = head_.load(std::memory_order_relaxed);
    if (head == tail_.load(std::memory_order_acquire)) return nullptr;
    return &slots_[head & (slots_.size() - 1)];
  }
  void Pop() { head_.store(head_.load(std::memory_order_relaxed) + 1, std::memory_order_release); }
  bool empty() const { return Front() == nullptr; }

 private:
  std::vector<T> slots_;
  alignas(64) std::atomic<size_t> head_{0};
  alignas(64) std::atomic<size_t> tail_{0};
};

}  // namespace starling::transport
