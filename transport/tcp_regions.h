#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "transport/fabric.h"

// Memory that the provider "tcp" may write to and read from, by key. Private to the room.

namespace starling::transport {

// One region. Whoever copies into or out of it holds a pin; giving it back waits for the pins and
// lets nobody take another.
class TcpGrant {
 public:
  TcpGrant(std::span<std::byte> memory, Access access, uint64_t base)
      : memory_(memory), access_(access), base_(base) {}

  // False when the region was given back.
  bool Pin() {
    ++pins_;
    if (alive_) return true;
    Unpin();
    return false;
  }
  void Unpin() {
    if (--pins_ == 0 && !alive_) pins_.notify_all();
  }
  void Revoke() {
    alive_ = false;
    for (uint32_t pins = pins_; pins != 0; pins = pins_) pins_.wait(pins);
  }

  // Null when [address, address + bytes) is not inside, or not granted for this.
  std::byte* Remote(uint64_t address, uint64_t bytes, Access wanted) const {
    if (access_ != wanted || address < base_) return nullptr;
    const uint64_t offset = address - base_;
    if (offset > memory_.size() || bytes > memory_.size() - offset) return nullptr;
    return memory_.data() + offset;
  }

  std::span<std::byte> memory() const { return memory_; }
  uint64_t base() const { return base_; }

 private:
  const std::span<std::byte> memory_;
  const Access access_;
  const uint64_t base_;  // what the peer takes for its address
  std::atomic<bool> alive_{true};
  std::atomic<uint32_t> pins_{0};
};

// A pin that goes by itself.
class TcpPin {
 public:
  explicit TcpPin(TcpGrant* grant) : grant_(grant != nullptr && grant->Pin() ? grant : nullptr) {}
  TcpPin(const TcpPin&) = delete;
  TcpPin& operator=(const TcpPin&) = delete;
  ~TcpPin() {
    if (grant_ != nullptr) grant_->Unpin();
  }
  explicit operator bool() const { return grant_ != nullptr; }

 private:
  TcpGrant* grant_;
};

// All regions of one fabric. Keys and base addresses come from the kernel's generator: what a peer
// was not told it cannot guess, and one wrong guess ends its connection. Thread-safe.
class TcpRegions {
 public:
  struct Entry {
    uint32_t key = 0;
    std::shared_ptr<TcpGrant> grant;
  };
  absl::StatusOr<Entry> Add(std::span<std::byte> memory, Access access);
  void Remove(uint32_t key);
  // Null when there is none.
  std::shared_ptr<TcpGrant> Find(uint32_t key) const;

 private:
  mutable std::mutex mutex_;
  std::unordered_map<uint32_t, std::shared_ptr<TcpGrant>> grants_;
};

}  // namespace starling::transport
