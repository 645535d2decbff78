#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace starling::witness {

// The witness's book: every write it sent, which of them were acknowledged, and what a read may
// therefore answer.
//
// Writes are numbered 1, 2, 3, ... over all keys. One connection carries them in order, so a read
// must find the newest write to its key that was sent before it; where that one was never
// acknowledged (the connection broke), it or any older one back to the newest acknowledged is
// right. An acknowledged write that a read shows to be gone is *lost*, once, however many reads
// show it. An answer that is no write of this key is *wrong*.
//
// Value type; not thread-safe. Keys are 0 .. keys-1.
class Ledger {
 public:
  enum class Verdict { kRight, kLost, kWrong };

  Ledger(uint64_t seed, uint32_t keys, size_t value_size);

  uint32_t keys() const { return static_cast<uint32_t>(newest_.size()); }

  // Enters a write to `key` about to be sent; returns its number. Value() is what to send.
  uint64_t BeginWrite(uint32_t key);
  std::string Value(uint32_t key, uint64_t number) const;
  void Acknowledge(uint64_t number);

  // The newest write to `key` sent so far; 0: none. To be remembered with each read that is sent.
  uint64_t NewestSent(uint32_t key) const { return newest_[key]; }

  // Judges the answer to a read of `key` that was sent when NewestSent(key) was `newest_sent`, and
  // enters it. No value: the server says that the key does not exist.
  Verdict Judge(uint32_t key, uint64_t newest_sent, std::optional<absl::string_view> value);

  uint64_t sent() const { return previous_.size() - 1; }
  uint64_t acknowledged() const { return acknowledged_count_; }
  uint64_t lost_writes() const { return lost_count_; }
  uint64_t wrong_values() const { return wrong_count_; }

 private:
  // Enters as lost every acknowledged write to the key from `newest_sent` back to, but without,
  // `found`.
  Verdict JudgeNumber(uint64_t newest_sent, uint64_t found);

  uint64_t seed_;
  size_t value_size_;
  std::vector<uint64_t> newest_;    // by key: its newest write
  std::vector<uint64_t> previous_;  // by write: the write to the same key before it; 0: none
  std::vector<bool> acknowledged_;  // by write
  std::vector<bool> lost_;          // by write
  uint64_t acknowledged_count_ = 0;
  uint64_t lost_count_ = 0;
  uint64_t wrong_count_ = 0;
};

}  // namespace starling::witness
