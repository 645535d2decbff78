#include <poll.h>
#include <sys/eventfd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "transport/verbs_queue_pair.h"

namespace starling::transport {
namespace {

// What ends one queue pair; null for everything else.
const char* EndsQueuePair(ibv_event_type type) {
  switch (type) {
    case IBV_EVENT_QP_FATAL:
      return "the device says that the queue pair failed";
    case IBV_EVENT_QP_REQ_ERR:
      return "the device says that the queue pair got a request that it cannot take";
    case IBV_EVENT_QP_ACCESS_ERR:
      return "the device says that the peer asked for memory that it was not granted";
    default:
      return nullptr;
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<VerbsEvents>> VerbsEvents::Watch(ibv_context* context) {
  RETURN_IF_ERROR(SetNonBlocking(context->async_fd));
  auto events = std::unique_ptr<VerbsEvents>(new VerbsEvents(context));
  events->stop_.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!events->stop_) return ErrnoStatus("eventfd");
  events->thread_ = std::thread([self = events.get()] { self->Run(); });
  return events;
}

VerbsEvents::~VerbsEvents() {
  if (!thread_.joinable()) return;
  (void)::eventfd_write(stop_.get(), 1);
  thread_.join();
}

void VerbsEvents::Add(VerbsQueuePair* queue_pair) {
  const std::lock_guard lock(mutex_);
  queue_pairs_.insert(queue_pair);
}

void VerbsEvents::Remove(VerbsQueuePair* queue_pair) {
  const std::lock_guard lock(mutex_);
  queue_pairs_.erase(queue_pair);
}

void VerbsEvents::Keep(EventChannel channel, CmId id) {
  const std::lock_guard lock(mutex_);
  kept_.emplace_back(std::move(channel), std::move(id));
}

void VerbsEvents::Run() {
  while (true) {
    pollfd pollers[] = {{context_->async_fd, POLLIN, 0}, {stop_.get(), POLLIN, 0}};
    if (::poll(pollers, std::size(pollers), -1) < 0 && errno != EINTR) return;
    if (pollers[1].revents != 0) return;
    if ((pollers[0].revents & POLLIN) == 0) {
      // The device has gone.
      if (pollers[0].revents != 0) return;
      continue;
    }
    ibv_async_event event = {};
    if (ibv_get_async_event(context_, &event) != 0) continue;
    Hear(event);
    // A queue pair is not destroyed before all its events were acknowledged.
    ibv_ack_async_event(&event);
  }
}

void VerbsEvents::Hear(const ibv_async_event& event) {
  const char* const device = ibv_get_device_name(context_->device);
  const char* const what = ibv_event_type_str(event.event_type);
  const std::lock_guard lock(mutex_);
  if (const char* const why = EndsQueuePair(event.event_type)) {
    for (VerbsQueuePair* const queue_pair : queue_pairs_) {
      if (queue_pair->number() != event.element.qp->qp_num) continue;
      spdlog::warn("{}: {}", queue_pair->description(), what);
      queue_pair->Fail(why);
    }
    return;
  }
  switch (event.event_type) {
    case IBV_EVENT_PORT_ERR:
      spdlog::warn("{}: port {} went down", device, event.element.port_num);
      for (VerbsQueuePair* const queue_pair : queue_pairs_) {
        if (queue_pair->made() && queue_pair->port() == event.element.port_num)
          queue_pair->Fail("its port went down");
      }
      return;
    case IBV_EVENT_DEVICE_FATAL:
      spdlog::error("{}: {}", device, what);
      for (VerbsQueuePair* const queue_pair : queue_pairs_) queue_pair->Fail("its device failed");
      return;
    case IBV_EVENT_PORT_ACTIVE:
      spdlog::info("{}: port {} is up", device, event.element.port_num);
      kept_.clear();
      return;
    default:
      spdlog::debug("{}: {}", device, what);
  }
}

}  // namespace starling::transport
