#include "tools/witness/gap_recorder.h"

#include <algorithm>

namespace starling::witness {

void GapRecorder::Start(int64_t now_ns) {
  recording_ = true;
  last_ns_ = now_ns;
}

void GapRecorder::Arrive(int64_t now_ns, uint64_t number) {
  if (recording_) {
    ++arrivals_;
    distribution_.Add(now_ns - last_ns_);
    Keep({last_ns_, now_ns - last_ns_, last_number_, number, false});
    last_ns_ = now_ns;
  }
  last_number_ = number;
}

void GapRecorder::Finish(int64_t now_ns) {
  if (!recording_) return;
  recording_ = false;
  Keep({last_ns_, now_ns - last_ns_, last_number_, 0, true});
}

void GapRecorder::Keep(const Gap& gap) {
  if (longest_.size() == keep_ && gap.length_ns <= longest_.back().length_ns) return;
  const auto place = std::upper_bound(
      longest_.begin(), longest_.end(), gap,
      [](const Gap& left, const Gap& right) { return left.length_ns > right.length_ns; });
  longest_.insert(place, gap);
  if (longest_.size() > keep_) longest_.pop_back();
}

}  // namespace starling::witness
