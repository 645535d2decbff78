#include "transport/roce_queue_pair.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"

namespace starling::transport {

RoceQueuePair::RoceQueuePair(RoceThread& thread, const roce::PairTuning& tuning)
    : thread_(thread),
      posted_(tuning.send_depth),
      receives_(tuning.receive_depth),
      completions_(tuning.send_depth + tuning.receive_depth) {}

absl::StatusOr<std::unique_ptr<RoceQueuePair>> RoceQueuePair::Make(RoceThread& thread,
                                                                   const roce::PairTuning& tuning) {
  auto made = std::unique_ptr<RoceQueuePair>(new RoceQueuePair(thread, tuning));
  RoceQueuePair& self = *made;
  self.completed_.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  self.wake_.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!self.completed_ || !self.wake_) return ErrnoStatus("eventfd");
  thread.Run([&](roce::Engine& engine) {
    self.pair_ = engine.MakePair(tuning, self);
    if (self.pair_ != nullptr) thread.Attach(&self);
  });
  if (self.pair_ == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat(thread.port().name(), " has no room for another queue pair"));
  }
  self.description_ = absl::StrCat(thread.port().name(), ", queue pair ", self.pair_->number());
  return made;
}

RoceQueuePair::~RoceQueuePair() {
  if (pair_ == nullptr) return;
  roce::PairCounts counts;
  thread_.Run([&](roce::Engine& engine) {
    thread_.Detach(this);
    counts = pair_->counts();
    engine.DestroyPair(pair_);
  });
  spdlog::debug(
      "{}: {} packets sent ({} again), {} received; {} timeouts, NAKs sent {}, received {}, "
      "implied "
      "{}; RNR NAKs sent {}, received {}; {} duplicates, {} reads replayed, {} refused",
      description_, counts.packets_sent, counts.packets_sent_again, counts.packets_received,
      counts.timeouts, counts.naks_sent, counts.naks_received, counts.implied_naks,
      counts.rnr_naks_sent, counts.rnr_naks_received, counts.duplicates, counts.reads_replayed,
      counts.refused);
}

void RoceQueuePair::Connect(const roce::Path& path, std::string description) {
  description_ = std::move(description);
  thread_.Run([&](roce::Engine& engine) { engine.Connect(*pair_, path); });
}

absl::Status RoceQueuePair::Post(std::span<const WorkRequest> requests) {
  for (const WorkRequest& request : requests) {
    if (!posted_.Push(request))
      return absl::ResourceExhaustedError(absl::StrCat(description_, ": the send queue is full"));
  }
  thread_.Wake();
  return absl::OkStatus();
}

absl::Status RoceQueuePair::PostReceive(uint64_t id, const Piece& buffer) {
  if (!receives_.Push({id, buffer})) {
    return absl::ResourceExhaustedError(absl::StrCat(description_, ": the receive queue is full"));
  }
  thread_.Wake();
  return absl::OkStatus();
}

bool RoceQueuePair::Feed() {
  bool some = false;
  while (!overflow_.empty() && completions_.Push(overflow_.front())) overflow_.pop_front();
  for (const Receive* receive = receives_.Front(); receive != nullptr && pair_->CanPostReceive();
       receive = receives_.Front()) {
    pair_->PostReceive(receive->id, receive->buffer);
    receives_.Pop();
    some = true;
  }
  for (const WorkRequest* request = posted_.Front(); request != nullptr && pair_->CanPost();
       request = posted_.Front()) {
    pair_->Post(*request);
    posted_.Pop();
    some = true;
  }
  return some;
}

void RoceQueuePair::Complete(const WorkCompletion& completion) {
  if (!overflow_.empty() || !completions_.Push(completion)) overflow_.push_back(completion);
  // Either Poll() after Arm() sees the completion, or we see that it is armed.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (armed_.load(std::memory_order_relaxed) && armed_.exchange(false))
    (void)::eventfd_write(completed_.get(), 1);
}

absl::StatusOr<size_t> RoceQueuePair::Poll(std::span<WorkCompletion> completions) {
  size_t n = 0;
  for (const WorkCompletion* next = completions_.Front(); n < completions.size() && next != nullptr;
       next = completions_.Front()) {
    completions[n++] = *next;
    completions_.Pop();
  }
  return n;
}

absl::Status RoceQueuePair::Arm() {
  armed_ = true;
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return absl::OkStatus();
}

absl::StatusOr<QueuePair::Event> RoceQueuePair::Wait(Deadline deadline) {
  pollfd pollers[] = {{completed_.get(), POLLIN, 0},
                      {wake_.get(), POLLIN, 0},
                      {peer_gone_told_ ? -1 : peer_.get(), POLLIN | POLLRDHUP, 0}};
  const int ready = ::poll(pollers, std::size(pollers), static_cast<int>(deadline.Left().count()));
  if (ready < 0) {
    if (errno == EINTR) return Event::kCompleted;
    return ErrnoStatus(absl::StrCat(description_, ": poll"));
  }
  if (pollers[0].revents != 0) {
    eventfd_t value = 0;
    (void)::eventfd_read(completed_.get(), &value);
    return Event::kCompleted;
  }
  if (pollers[2].revents != 0) {
    peer_gone_told_ = true;
    return Event::kPeerGone;
  }
  return Event::kNothing;
}

void RoceQueuePair::Wake() { (void)::eventfd_write(wake_.get(), 1); }

}  // namespace starling::transport
