#include "tools/witness/heartbeat_listener.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "tools/heartbeat/beat.h"
#include "tools/witness/clock.h"

namespace starling::witness {
namespace {

constexpr int kStopCheckMs = 50;
// Time stamps are only as good as the thread is prompt. Where this is not permitted, the
// distribution of the gaps in the report shows what it costs.
constexpr int kNice = -15;

}  // namespace

absl::StatusOr<std::unique_ptr<HeartbeatListener>> HeartbeatListener::Open(uint16_t port) {
  absl::StatusOr<Socket> socket = ListenUdp(port, kStopCheckMs);
  if (!socket.ok()) return socket.status();
  return std::unique_ptr<HeartbeatListener>(new HeartbeatListener(*std::move(socket)));
}

HeartbeatListener::HeartbeatListener(Socket socket)
    : socket_(std::move(socket)), thread_([this] { Receive(); }) {}

HeartbeatListener::~HeartbeatListener() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

void HeartbeatListener::StartRecording() {
  const std::lock_guard lock(mutex_);
  seen_.gaps.Start(Now());
}

HeartbeatListener::Seen HeartbeatListener::Finish() {
  stop_ = true;
  thread_.join();
  const std::lock_guard lock(mutex_);
  seen_.gaps.Finish(Now());
  return seen_;
}

void HeartbeatListener::Receive() {
  setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kNice);
  while (!stop_) {
    Beat beat = {};
    const ssize_t size = recv(socket_.fd(), &beat, sizeof beat, MSG_TRUNC);
    const int64_t now = Now();
    if (size < 0) continue;  // the timeout: look whether to stop
    const std::lock_guard lock(mutex_);
    if (size != sizeof beat || beat.magic != kBeatMagic) {
      ++seen_.foreign;
      continue;
    }
    heard_.fetch_add(1, std::memory_order_relaxed);
    if (!seen_.gaps.recording()) continue;
    if (!seen_.beats.Add(beat.sender, beat.number)) {
      ++seen_.foreign;
      continue;
    }
    seen_.gaps.Arrive(now, beat.number);
  }
}

}  // namespace starling::witness
