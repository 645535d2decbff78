#include "checkpoint/lazy_pages.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <shared_mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "checkpoint/page_stream.h"

namespace starling::checkpoint {
namespace {

using std::chrono::milliseconds;

// CRIU's words, from criu/uffd.c: its socket, and what it says last on it.
constexpr char kSocketName[] = "lazy-pages.socket";
constexpr int32_t kFinished = 0x52535446;
constexpr timeval kCriuTimeout = {10, 0};

// Threads that serve faults: of components with more faults at once than one can answer.
constexpr int kServers = 3;
// Between two passes for pages that have arrived: at least this long, and so many times as long as
// a pass takes, since each goes through the whole list for what may be a few pages.
constexpr milliseconds kLookForArrivals{50};
constexpr int kPauseOfPass = 8;
// The component's own work comes first.
constexpr int kFillNice = 19;
// Between two passes where the kernel waits for an event to be read first.
constexpr milliseconds kAgain{1};

}  // namespace

absl::StatusOr<std::unique_ptr<LazyPages>> LazyPages::Create(UniqueFd arena, LazyIndex index,
                                                             Guard guard) {
  struct stat info;
  if (::fstat(arena.get(), &info) != 0) return ErrnoStatus("look at the arena");
  const auto bytes = static_cast<uint64_t>(info.st_size);
  for (const auto& [pid, process] : index.processes) {
    const auto outside = process.pages.FindIf([&](const RunMap<SlotValue>::Run& run) {
      return run.value.slot + run.count > bytes / kPageSize;
    });
    if (outside) {
      return absl::DataLossError(absl::StrFormat(
          "the page at %#x of process %u is said to wait beyond the end of the arena",
          outside->first * kPageSize, pid));
    }
  }
  void* base = ::mmap(nullptr, std::max<uint64_t>(bytes, kPageSize), PROT_READ | PROT_WRITE,
                      MAP_SHARED, arena.get(), 0);
  if (base == MAP_FAILED) return ErrnoStatus("map the arena");
  std::unique_ptr<LazyPages> lazy(new LazyPages(std::move(arena), static_cast<std::byte*>(base),
                                                bytes, std::move(index), std::move(guard)));
  lazy->epoll_.Reset(::epoll_create1(EPOLL_CLOEXEC));
  for (UniqueFd* fd : {&lazy->stop_, &lazy->arrived_}) {
    fd->Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    epoll_event event = {EPOLLIN, {.ptr = fd}};
    if (!lazy->epoll_ || !*fd ||
        ::epoll_ctl(lazy->epoll_.get(), EPOLL_CTL_ADD, fd->get(), &event) != 0) {
      return ErrnoStatus("make the events of a restore on demand");
    }
  }
  return lazy;
}

LazyPages::LazyPages(UniqueFd arena, std::byte* base, uint64_t bytes, LazyIndex index, Guard guard)
    : fd_(std::move(arena)),
      bytes_(bytes),
      index_(std::move(index)),
      guard_(std::move(guard)),
      arena_{.base = base, .missing = MissingSlots(std::exchange(index_.missing, {}))} {}

LazyPages::~LazyPages() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  const uint64_t one = 1;
  (void)!::write(stop_.get(), &one, sizeof(one));
  for (std::thread& thread : serving_) thread.join();
  if (filling_.joinable()) filling_.join();
  ::munmap(arena_.base, std::max<uint64_t>(bytes_, kPageSize));
}

absl::Status LazyPages::Listen(int images_dir) {
  listener_.Reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!listener_) return ErrnoStatus("make a socket");
  // The folder's own path may be longer than a socket's can be.
  const std::string path = absl::StrCat("/proc/self/fd/", images_dir, "/", kSocketName);
  (void)::unlinkat(images_dir, kSocketName, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(listener_.get(), 1) != 0) {
    return ErrnoStatus(absl::StrCat("listen on ", kSocketName));
  }
  epoll_event event = {EPOLLIN, {.ptr = &listener_}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, listener_.get(), &event) != 0) {
    return ErrnoStatus("wait for CRIU's connection");
  }
  const std::lock_guard lock(mutex_);
  ServeUntilStopped();
  return absl::OkStatus();
}

// Under mutex_.
void LazyPages::ServeUntilStopped() {
  ++servers_;
  serving_.emplace_back([this] {
    ServeLoop();
    if (--servers_ > 0) return;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
    }
    Finish();
  });
}

void LazyPages::ServeLoop() {
  while (true) {
    epoll_event events[16];
    const int count = ::epoll_wait(epoll_.get(), events, std::size(events), -1);
    for (int i = 0; i < count; ++i) {
      void* const what = events[i].data.ptr;
      if (what == &stop_) return;
      if (what == &arrived_) {
        ServeArrivals();
      } else if (what == &listener_) {
        criu_.Reset(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        listener_.Reset();  // it comes once
        (void)::setsockopt(criu_.get(), SOL_SOCKET, SO_RCVTIMEO, &kCriuTimeout,
                           sizeof(kCriuTimeout));
        epoll_event event = {EPOLLIN, {.ptr = &criu_}};
        (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, criu_.get(), &event);
      } else if (what == &criu_) {
        const absl::Status heard = HearCriu();
        const std::lock_guard lock(mutex_);
        if (!heard.ok()) failed_.Update(heard);
        if (!heard.ok() || criu_finished_) {
          criu_finished_ = true;
          criu_.Reset();
        }
        changed_.notify_all();
      } else {
        static_cast<LazySpace*>(what)->Serve();
      }
    }
  }
}

absl::Status LazyPages::HearCriu() {
  int32_t word;
  const ssize_t got = ::recv(criu_.get(), &word, sizeof(word), MSG_WAITALL);
  if (got < 0) return ErrnoStatus("hear CRIU's next process");
  if (got == 0 || (got == sizeof(word) && word == kFinished)) {
    const std::lock_guard lock(mutex_);
    criu_finished_ = true;
    return absl::OkStatus();
  }
  if (got != sizeof(word)) return absl::DataLossError("CRIU's word on a process is cut");
  // A zombie's pid, negated: it has no memory, and no descriptor follows.
  if (word < 0) return absl::OkStatus();
  char dummy;
  iovec piece = {&dummy, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message = {};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  if (::recvmsg(criu_.get(), &message, MSG_CMSG_CLOEXEC) < 0) {
    return ErrnoStatus("take over a process's memory from CRIU");
  }
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS ||
      header->cmsg_len != CMSG_LEN(sizeof(int))) {
    return absl::DataLossError(absl::StrCat("CRIU sent no userfaultfd for process ", word));
  }
  int fd;
  std::memcpy(&fd, CMSG_DATA(header), sizeof(fd));
  const auto pid = static_cast<uint64_t>(word);
  const auto waiting = index_.processes.find(pid);
  if (waiting == index_.processes.end()) return Adopt(pid, UniqueFd(fd), {}, {});
  return Adopt(pid, UniqueFd(fd), waiting->second.pages, waiting->second.recent);
}

absl::Status LazyPages::Adopt(uint64_t pid, UniqueFd uffd, RunMap<SlotValue> pages,
                              std::vector<LazyMapping> recent) {
  const int fd = uffd.get();
  if (::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK) != 0) {
    return ErrnoStatus("make a userfaultfd non-blocking");
  }
  if (guard_.hold) RETURN_IF_ERROR(guard_.hold(fd));
  LazySpace::Owner owner;
  owner.forked = [this, pid](UniqueFd child, RunMap<SlotValue> waiting) {
    arena_.shared = true;
    ++adopting_;
    const absl::Status adopted = Adopt(pid, std::move(child), std::move(waiting), {});
    --adopting_;
    if (!adopted.ok()) Fail(adopted);
  };
  owner.failed = [this](absl::Status status) { Fail(std::move(status)); };
  const std::lock_guard lock(mutex_);
  LazySpace& space = spaces_.emplace_back(pid, std::move(uffd), std::move(pages), std::move(recent),
                                          arena_, std::move(owner));
  epoll_event event = {EPOLLIN, {.ptr = &space}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return ErrnoStatus("wait for a process's faults");
  }
  return absl::OkStatus();
}

void LazyPages::ServeArrivals() {
  uint64_t times;
  (void)!::read(arrived_.get(), &times, sizeof(times));
  std::vector<LazySpace*> spaces;
  {
    const std::lock_guard lock(mutex_);
    for (LazySpace& space : spaces_) spaces.push_back(&space);
  }
  for (LazySpace* space : spaces) {
    if (space->ServeFaults()) space->Serve();
  }
}

absl::Status LazyPages::Restored(Deadline deadline) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_until(lock, std::min(deadline.at(), Clock::now() + std::chrono::hours(1)),
                           [&] { return criu_finished_ || !failed_.ok(); })) {
    return absl::DeadlineExceededError("CRIU did not say that it has handed over all memory");
  }
  RETURN_IF_ERROR(failed_);
  std::vector<LazySpace*> spaces;
  for (LazySpace& space : spaces_) spaces.push_back(&space);
  lock.unlock();
  for (const auto& [pid, process] : index_.processes) {
    const auto found = std::find_if(spaces.begin(), spaces.end(),
                                    [pid = pid](const LazySpace* s) { return s->pid() == pid; });
    if (found == spaces.end()) {
      return absl::FailedPreconditionError(
          absl::StrCat("CRIU did not hand over the memory of process ", pid));
    }
    for (const uint64_t page : process.mappings) {
      if (!(*found)->GiveFirst(page)) {
        return absl::FailedPreconditionError(absl::StrFormat(
            "CRIU did not register the mapping at %#x of process %u to be restored on demand",
            page * kPageSize, pid));
      }
    }
  }
  // Until here one thread has served: CRIU's socket is read by one.
  lock.lock();
  for (int i = 1; i < kServers; ++i) ServeUntilStopped();
  return absl::OkStatus();
}

void LazyPages::Fill() {
  const std::lock_guard lock(mutex_);
  if (fill_ || stopping_) return;
  fill_ = true;
  filling_ = std::thread([this] { FillLoop(); });
}

void LazyPages::FillLoop() {
  (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kFillNice);
  if (guard_.before_fill) guard_.before_fill();
  while (true) {
    const TimePoint began = Clock::now();
    std::vector<LazySpace*> spaces;
    {
      const std::lock_guard lock(mutex_);
      for (LazySpace& space : spaces_) spaces.push_back(&space);
    }
    LazySpace::Pass pass;
    for (std::vector<LazySpace*> open = spaces; !open.empty();) {
      {
        const std::lock_guard lock(mutex_);
        if (stopping_ || failing_) return;
      }
      std::erase_if(open, [&](LazySpace* space) { return space->FillSome(pass); });
    }
    if (pass.blocked) {
      std::this_thread::sleep_for(kAgain);
      continue;
    }
    std::unique_lock lock(mutex_);
    if (stopping_ || failing_) return;
    if (pass.left) {
      const Duration took = Clock::now() - began;
      changed_.wait_for(lock, std::max<Duration>(kLookForArrivals, kPauseOfPass * took),
                        [&] { return stopping_ || failing_ || arena_.missing.none(); });
      continue;
    }
    // A fork seen before its parent's last page was given is in the list, or is being put there.
    if (adopting_ == 0 && spaces_.size() == spaces.size()) break;
  }
  // The other threads end it: they may be reading from the userfaultfds.
  const uint64_t one = 1;
  (void)!::write(stop_.get(), &one, sizeof(one));
}

void LazyPages::Arrived(std::span<const SlotRange> slots) {
  arena_.missing.Arrived(slots);
  if (arena_.missing.none()) {
    const std::lock_guard lock(mutex_);
    changed_.notify_all();
  }
  const uint64_t one = 1;
  (void)!::write(arrived_.get(), &one, sizeof(one));
}

void LazyPages::Lose(absl::Status why) {
  if (!filled_) Fail(std::move(why));
}

// By the last of those who served.
void LazyPages::Finish() {
  if (guard_.release) {
    if (const absl::Status released = guard_.release(); !released.ok()) {
      // Whoever holds them still keeps faults coming that nobody would answer.
      Fail(released);
      return;
    }
  }
  const std::lock_guard lock(mutex_);
  for (LazySpace& space : spaces_) space.Close();
  filled_ = true;
  changed_.notify_all();
  arena_.missing.Clear();
}

void LazyPages::Fail(absl::Status status) {
  if (guard_.failed) guard_.failed(status);
  failing_ = true;
  changed_.notify_all();
  arena_.missing.End();
}

absl::Status LazyPages::WaitFilled(Deadline deadline) {
  std::unique_lock lock(mutex_);
  const auto done = [&] { return filled_ || failing_; };
  while (!done()) {
    if (deadline.Passed()) {
      return absl::DeadlineExceededError("the component's memory is still being put in place");
    }
    changed_.wait_for(lock, milliseconds(100), done);
  }
  return filled_ ? absl::OkStatus()
                 : absl::InternalError("the component's memory could not be put in place");
}

LazyPages::Stats LazyPages::stats() const {
  Stats stats;
  const std::lock_guard lock(mutex_);
  for (const LazySpace& space : spaces_) {
    const LazySpace::Stats of = space.stats();
    stats.pages_left += of.pages_left;
    stats.pages_on_fault += of.pages_on_fault;
    stats.pages_in_background += of.pages_in_background;
    stats.faults += of.faults;
  }
  stats.pages_missing = arena_.missing.count();
  return stats;
}

}  // namespace starling::checkpoint
