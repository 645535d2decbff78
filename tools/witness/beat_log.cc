#include "tools/witness/beat_log.h"

#include <cstddef>

namespace starling::witness {
namespace {

// A day of beats at one per millisecond. It bounds what a forged datagram can make us allocate.
constexpr uint64_t kFarthest = 86'400'000;
constexpr size_t kMostSenders = 64;

}  // namespace

bool BeatLog::Add(uint32_t sender, uint64_t number) {
  auto found = streams_.find(sender);
  if (found == streams_.end()) {
    if (streams_.size() == kMostSenders) return false;
    found = streams_.emplace(sender, Stream{number, number, 0, {}}).first;
  }
  Stream& stream = found->second;
  // Beats older than the first one seen were under way before we listened.
  if (number < stream.first || number - stream.first > kFarthest) return false;
  const uint64_t index = number - stream.first;
  if (index >= stream.seen.size()) stream.seen.resize(index + 1);
  ++received_;
  if (stream.seen[index]) {
    ++duplicated_;
    return true;
  }
  stream.seen[index] = true;
  ++stream.distinct;
  if (number < stream.last) {
    ++reordered_;
  } else {
    stream.last = number;
  }
  return true;
}

uint64_t BeatLog::lost() const {
  uint64_t lost = 0;
  for (const auto& [sender, stream] : streams_) {
    lost += stream.last - stream.first + 1 - stream.distinct;
  }
  return lost;
}

}  // namespace starling::witness
