#include "transport/roce/regions.h"

namespace starling::transport::roce {

std::optional<uint32_t> RegionTable::Add(std::span<std::byte> memory, Access access) {
  uint32_t slot = 0;
  if (!free_.empty()) {
    slot = free_.back();
    free_.pop_back();
  } else {
    if (slots_.size() == size_t{1} << kSlotBits) return std::nullopt;
    slot = static_cast<uint32_t>(slots_.size());
    slots_.emplace_back();
  }
  uint32_t key = 0;
  while (key == 0 || key == slots_[slot].last_key) {
    key = static_cast<uint32_t>(random_()) << kSlotBits | slot;
    if (key >> kSlotBits == 0) key = 0;
  }
  slots_[slot] = {key, key, memory, access};
  ++used_;
  return key;
}

void RegionTable::Remove(uint32_t key) {
  const uint32_t slot = key & ((1u << kSlotBits) - 1);
  if (slot >= slots_.size() || slots_[slot].key != key) return;
  slots_[slot] = {.last_key = key};
  free_.push_back(slot);
  --used_;
}

std::byte* RegionTable::Find(uint32_t key, uint64_t address, uint64_t bytes,
                             const Access* right) const {
  const uint32_t slot = key & ((1u << kSlotBits) - 1);
  if (key == 0 || slot >= slots_.size() || slots_[slot].key != key) return nullptr;
  const Slot& found = slots_[slot];
  if (right != nullptr && found.access != *right) return nullptr;
  const auto start = reinterpret_cast<uint64_t>(found.memory.data());
  if (address < start || address - start > found.memory.size() ||
      bytes > found.memory.size() - (address - start)) {
    return nullptr;
  }
  return found.memory.data() + (address - start);
}

std::byte* RegionTable::FindLocal(uint32_t key, uint64_t address, uint64_t bytes) const {
  return Find(key, address, bytes, nullptr);
}

std::byte* RegionTable::FindRemote(uint32_t key, uint64_t address, uint64_t bytes,
                                   Access right) const {
  return Find(key, address, bytes, &right);
}

}  // namespace starling::transport::roce
