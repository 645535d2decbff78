#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/status/statusor.h"
#include "tools/witness/beat_log.h"
#include "tools/witness/gap_recorder.h"
#include "tools/witness/socket.h"

namespace starling::witness {

// Receives heartbeats in a thread of its own, so that nothing the load does delays their time
// stamps. Public calls are safe from one other thread.
class HeartbeatListener {
 public:
  struct Seen {
    BeatLog beats;
    GapRecorder gaps;
    uint64_t foreign = 0;  // datagrams that are no heartbeat of ours
  };

  // Listens on UDP `port`.
  static absl::StatusOr<std::unique_ptr<HeartbeatListener>> Open(uint16_t port);
  ~HeartbeatListener();
  HeartbeatListener(const HeartbeatListener&) = delete;
  HeartbeatListener& operator=(const HeartbeatListener&) = delete;

  // Beats heard so far, before and after StartRecording().
  uint64_t heard() const { return heard_.load(std::memory_order_relaxed); }
  // From now on beats and gaps are recorded.
  void StartRecording();
  // Ends the recording, with the time since the last beat as an open gap, and tells what was seen.
  Seen Finish();

 private:
  explicit HeartbeatListener(Socket socket);
  void Receive();

  Socket socket_;
  std::atomic<uint64_t> heard_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;  // guards seen_
  Seen seen_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace starling::witness
