#include "transport/roce_thread.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace starling::transport {
namespace {

// Frames sent in one turn before the port is looked at again.
constexpr size_t kBudget = 64;
// How long the port is polled after the last thing that happened. Short, since where processors
// are shared a spinning thread keeps its own peer from running.
constexpr auto kSpin = std::chrono::microseconds(50);
// Then it sleeps; the ports have nothing to wait on, so the longest sleep is what an unexpected
// packet waits for.
constexpr auto kShortSleep = std::chrono::microseconds(50);
constexpr auto kShortSleeps = std::chrono::milliseconds(20);  // for so long after the last activity
constexpr auto kLongSleep = std::chrono::microseconds(500);
constexpr auto kUnusedSleep = std::chrono::milliseconds(5);  // without any queue pair
// A question for a neighbour is repeated after this time.
constexpr auto kArpRepeat = std::chrono::milliseconds(100);

bool IsArp(std::span<const std::byte> frame) {
  return frame.size() >= roce::kArpBytes && frame[12] == std::byte{0x08} &&
         frame[13] == std::byte{0x06};
}

}  // namespace

RoceThread::RoceThread(std::unique_ptr<roce::PacketPort> port, uint32_t ip, uint64_t seed)
    : port_(std::move(port)), engine_(port_->mac(), ip, seed), arp_(port_->mac(), ip) {}

absl::StatusOr<std::unique_ptr<RoceThread>> RoceThread::Start(
    std::unique_ptr<roce::PacketPort> port, uint32_t ip, uint64_t seed) {
  auto started = std::unique_ptr<RoceThread>(new RoceThread(std::move(port), ip, seed));
  started->wake_.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!started->wake_) return ErrnoStatus("eventfd");
  started->thread_ = std::thread([raw = started.get()] { raw->Loop(); });
  return started;
}

RoceThread::~RoceThread() {
  stop_ = true;
  Wake();
  if (thread_.joinable()) thread_.join();
}

void RoceThread::Wake() {
  // Either the thread sees what was posted before this, or we see that it is about to sleep.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (sleeping_.load(std::memory_order_relaxed) && sleeping_.exchange(false))
    (void)::eventfd_write(wake_.get(), 1);
}

void RoceThread::Run(absl::FunctionRef<void(roce::Engine&)> work) {
  Command command{work};
  std::unique_lock lock(mutex_);
  commands_.push_back(&command);
  commanded_ = true;
  Wake();
  done_.wait(lock, [&] { return command.done; });
}

void RoceThread::RunCommands() {
  if (!commanded_) return;
  std::lock_guard lock(mutex_);
  commanded_ = false;
  for (Command* command : commands_) {
    command->work(engine_);
    command->done = true;
  }
  commands_.clear();
  done_.notify_all();
}

void RoceThread::SendArp(const roce::ArpFrame& frame) {
  if (!port_->HasRoom()) return;
  port_->Send({.headers = frame, .bytes = frame.size()});
}

bool RoceThread::Turn(TimePoint now) {
  const size_t received = port_->Receive([&](std::span<const std::byte> frame) {
    if (!IsArp(frame)) return engine_.Receive(frame, now);
    if (const auto answer = arp_.Take(frame)) SendArp(*answer);
  });
  bool fed = false;
  for (RoceClient* client : clients_) fed |= client->Feed();
  const size_t sent = engine_.Transmit(*port_, now, kBudget);
  port_->Flush();
  return received > 0 || sent > 0 || fed;
}

void RoceThread::Loop() {
  ::prctl(PR_SET_NAME, "roce");
  ::prctl(PR_SET_TIMERSLACK, 1000);
  while (!stop_) {
    RunCommands();
    const TimePoint now = Clock::now();
    if (Turn(now)) {
      last_active_ = now;
    } else if (now - last_active_ > kSpin) {
      Sleep(now);
    }
  }
}

void RoceThread::Sleep(TimePoint now) {
  sleeping_ = true;
  std::atomic_thread_fence(std::memory_order_seq_cst);
  bool work = stop_ || commanded_;
  for (RoceClient* client : clients_) work |= client->Feed();
  if (!work) {
    Duration length = now - last_active_ < kShortSleeps ? Duration(kShortSleep) : kLongSleep;
    if (clients_.empty()) length = kUnusedSleep;
    if (const TimePoint timer = engine_.NextTimer(); timer < now + length)
      length = std::max(timer - now, Duration::zero());
    const timespec time = {0, static_cast<long>(std::chrono::nanoseconds(length).count())};
    pollfd poller = {wake_.get(), POLLIN, 0};
    if (::ppoll(&poller, 1, &time, nullptr) > 0) {
      eventfd_t value = 0;
      (void)::eventfd_read(wake_.get(), &value);
    }
  }
  sleeping_ = false;
}

absl::StatusOr<roce::MacAddress> RoceThread::Resolve(uint32_t ip, Deadline deadline) {
  while (true) {
    std::optional<roce::MacAddress> found;
    Run([&](roce::Engine&) {
      const roce::ArpFrame question = arp_.Ask(ip);
      found = arp_.Find(ip);
      if (found) return;
      SendArp(question);
      port_->Flush();
    });
    const TimePoint again = std::min(deadline.at(), Clock::now() + kArpRepeat);
    while (!found && Clock::now() < again) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      Run([&](roce::Engine&) { found = arp_.Find(ip); });
    }
    if (found) return *found;
    if (deadline.Passed()) {
      return absl::DeadlineExceededError(absl::StrCat("nobody at ", port_->name(), " has address ",
                                                      roce::IpText(ip), " (ARP was not answered)"));
    }
  }
}

}  // namespace starling::transport
