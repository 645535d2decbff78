#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace starling::predictor {

// The last values of a series: the newest as they were, the older ones rounded to 16 bits (sign,
// 8 bits of exponent, 7 of mantissa: within 0.4 %), which is enough to say what a season ago was.
class History {
 public:
  static constexpr int kRecent = 32;     // as they were
  static constexpr int kCapacity = 304;  // rounded; a day of five-minute steps and a horizon more

  void Push(float value) {
    ++count_;
    recent_[count_ % kRecent] = value;
    const auto bits = std::bit_cast<uint32_t>(value);
    old_[head_] = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    if (++head_ == kCapacity) head_ = 0;
  }

  // Values seen so far.
  uint32_t count() const { return count_; }
  // Whether the value `back` steps before the newest is still known.
  bool Has(int back) const { return back < kCapacity && static_cast<uint32_t>(back) < count_; }
  // The value `back` steps before the newest; Has(back).
  float Recent(int back) const { return recent_[(count_ - back) % kRecent]; }  // back < kRecent
  float Rounded(int back) const {
    int place = head_ - 1 - back;
    if (place < 0) place += kCapacity;
    return std::bit_cast<float>(static_cast<uint32_t>(old_[place]) << 16);
  }
  float At(int back) const { return back < kRecent ? Recent(back) : Rounded(back); }

  // Whether what was restored from foreign bytes may be used.
  bool Valid() const {
    for (const float value : recent_) {
      if (!std::isfinite(value)) return false;
    }
    for (const uint16_t value : old_) {
      if ((value & 0x7f80) == 0x7f80) return false;
    }
    return head_ >= 0 && head_ < kCapacity;
  }

 private:
  uint32_t count_ = 0;
  int32_t head_ = 0;
  float recent_[kRecent] = {};
  uint16_t old_[kCapacity] = {};
};

}  // namespace starling::predictor
