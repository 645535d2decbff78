#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "transport/fabric.h"

namespace starling::transport::roce {

// Registered memory by key. A key is a place in a table and, above it, a random number, so that it
// is found at once, hard to guess, and dead as soon as its region has gone. Not thread-safe.
class RegionTable {
 public:
  explicit RegionTable(uint64_t seed) : random_(seed) {}

  // Nothing when the table is full.
  std::optional<uint32_t> Add(std::span<std::byte> memory, Access access);
  void Remove(uint32_t key);
  size_t size() const { return used_; }

  // The memory, if the key is alive and all bytes lie inside; `address` is that of this process.
  std::byte* FindLocal(uint32_t key, uint64_t address, uint64_t bytes) const;
  // The same for a peer, which needs the right too.
  std::byte* FindRemote(uint32_t key, uint64_t address, uint64_t bytes, Access right) const;

 private:
  static constexpr unsigned kSlotBits = 14;

  struct Slot {
    uint32_t key = 0;       // 0: free
    uint32_t last_key = 0;  // is not given out again at once
    std::span<std::byte> memory;
    Access access = Access::kLocal;
  };

  std::byte* Find(uint32_t key, uint64_t address, uint64_t bytes, const Access* right) const;

  std::mt19937_64 random_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  size_t used_ = 0;
};

}  // namespace starling::transport::roce
