#pragma once

#include <algorithm>
#include <cmath>

namespace starling::predictor {

// The median of the last kWindow values, kept sorted. The caller hands back the value that leaves.
template <int kWindow>
class RollingMedian {
 public:
  void Push(float value, float leaving) {
    int hole = size_;
    if (size_ < kWindow) {
      ++size_;
    } else {
      hole = static_cast<int>(std::lower_bound(sorted_, sorted_ + kWindow, leaving) - sorted_);
      if (hole == kWindow) hole = kWindow - 1;  // not found: only after a restore of other bytes
    }
    while (hole > 0 && sorted_[hole - 1] > value) {
      sorted_[hole] = sorted_[hole - 1];
      --hole;
    }
    while (hole + 1 < size_ && sorted_[hole + 1] < value) {
      sorted_[hole] = sorted_[hole + 1];
      ++hole;
    }
    sorted_[hole] = value;
  }
  float median() const { return size_ == 0 ? 0 : sorted_[size_ / 2]; }
  bool full() const { return size_ == kWindow; }
  bool Valid() const {
    for (const float value : sorted_) {
      if (!std::isfinite(value)) return false;
    }
    return size_ >= 0 && size_ <= kWindow && std::is_sorted(sorted_, sorted_ + size_);
  }

 private:
  int size_ = 0;
  float sorted_[kWindow] = {};
};

}  // namespace starling::predictor
