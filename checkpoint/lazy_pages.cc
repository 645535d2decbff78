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

// Given at once on a fault: what is near is soon wanted too.
constexpr uint64_t kPagesOnFault = 16;
// Given at once in the background, while a fault in the same process waits: short enough to be no
// more than a fault's own time.
constexpr uint64_t kPagesInBackground = 64;
// The component's own work comes first.
constexpr int kFillNice = 19;
// Between two tries where the kernel waits for an event to be read first.
constexpr milliseconds kAgain{1};
// A mapping that stays unknown for so many tries was never registered.
constexpr int kUnknownTries = 2000;

}  // namespace

struct LazyPages::Space {
  uint64_t pid = 0;  // of the process that CRIU restored; a fork keeps its parent's
  UniqueFd uffd;
  mutable std::mutex mutex;  // guards what follows, and the order of events and copies
  RunMap<SlotValue> pages;
  uint64_t next = 0;  // page where the background fill goes on
  int unknown_tries = 0;
};

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
  lazy->stop_.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!lazy->epoll_ || !lazy->stop_) return ErrnoStatus("make the events of a restore on demand");
  epoll_event event = {EPOLLIN, {.ptr = &lazy->stop_}};
  if (::epoll_ctl(lazy->epoll_.get(), EPOLL_CTL_ADD, lazy->stop_.get(), &event) != 0) {
    return ErrnoStatus("wait for the end of a restore on demand");
  }
  return lazy;
}

LazyPages::LazyPages(UniqueFd arena, std::byte* base, uint64_t bytes, LazyIndex index, Guard guard)
    : arena_(std::move(arena)),
      base_(base),
      bytes_(bytes),
      index_(std::move(index)),
      guard_(std::move(guard)) {}

LazyPages::~LazyPages() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  const uint64_t one = 1;
  (void)!::write(stop_.get(), &one, sizeof(one));
  if (serving_.joinable()) serving_.join();
  if (filling_.joinable()) filling_.join();
  ::munmap(base_, std::max<uint64_t>(bytes_, kPageSize));
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
  serving_ = std::thread([this] { ServeLoop(); });
  return absl::OkStatus();
}

void LazyPages::ServeLoop() {
  while (true) {
    epoll_event events[16];
    const int count = ::epoll_wait(epoll_.get(), events, std::size(events), -1);
    for (int i = 0; i < count; ++i) {
      void* const what = events[i].data.ptr;
      if (what == &stop_) {
        {
          const std::lock_guard lock(mutex_);
          if (stopping_) return;
        }
        Finish();
        return;
      }
      if (what == &listener_) {
        criu_.Reset(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
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
        ServeSpace(*static_cast<Space*>(what));
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
  return Adopt(pid, UniqueFd(fd),
               waiting == index_.processes.end() ? RunMap<SlotValue>() : waiting->second.pages);
}

absl::Status LazyPages::Adopt(uint64_t pid, UniqueFd uffd, RunMap<SlotValue> pages) {
  const int fd = uffd.get();
  if (::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK) != 0) {
    return ErrnoStatus("make a userfaultfd non-blocking");
  }
  if (guard_.hold) RETURN_IF_ERROR(guard_.hold(fd));
  const std::lock_guard lock(mutex_);
  Space& space = spaces_.emplace_back();
  space.pid = pid;
  space.uffd = std::move(uffd);
  space.pages = std::move(pages);
  epoll_event event = {EPOLLIN, {.ptr = &space}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return ErrnoStatus("wait for a process's faults");
  }
  return absl::OkStatus();
}

// Events are read and acted on under the space's mutex: between the two no page may be given that
// the event is about.
void LazyPages::ServeSpace(Space& space) {
  std::vector<uint64_t> faults;
  while (true) {
    std::unique_lock lock(space.mutex);
    uffd_msg message;
    const ssize_t got = ::read(space.uffd.get(), &message, sizeof(message));
    if (got != sizeof(message)) {
      // All events are read: what had to wait for them can be given.
      std::vector<uint64_t> later;
      for (const uint64_t address : std::exchange(faults, {})) {
        if (!OnFault(space, address)) later.push_back(address);
      }
      lock.unlock();
      if (later.empty()) return;
      faults = std::move(later);
      std::this_thread::sleep_for(kAgain);
      continue;
    }
    switch (message.event) {
      case UFFD_EVENT_PAGEFAULT:
        ++faults_;
        if (!OnFault(space, message.arg.pagefault.address)) {
          faults.push_back(message.arg.pagefault.address);
        }
        break;
      case UFFD_EVENT_FORK: {
        forked_ = true;
        ++adopting_;
        RunMap<SlotValue> pages = space.pages;
        lock.unlock();
        const absl::Status adopted =
            Adopt(space.pid, UniqueFd(static_cast<int>(message.arg.fork.ufd)), std::move(pages));
        --adopting_;
        if (!adopted.ok()) Fail(adopted);
        break;
      }
      case UFFD_EVENT_REMAP: {
        const uint64_t from = message.arg.remap.from / kPageSize;
        const uint64_t to = message.arg.remap.to / kPageSize;
        const uint64_t count = message.arg.remap.len / kPageSize;
        const auto moved = space.pages.Erase(from, count);
        space.pages.Erase(to, count);
        for (const auto& run : moved) {
          space.pages.Assign(run.first - from + to, run.count, run.value);
        }
        break;
      }
      case UFFD_EVENT_REMOVE:
      case UFFD_EVENT_UNMAP:
        space.pages.Erase(message.arg.remove.start / kPageSize,
                          (message.arg.remove.end - message.arg.remove.start) / kPageSize);
        break;
      default:
        break;
    }
  }
}

bool LazyPages::OnFault(Space& space, uint64_t address) {
  const uint64_t page = address / kPageSize;
  const auto waits = space.pages.Find(page);
  if (waits) {
    const uint64_t count = std::min(waits->count, kPagesOnFault);
    const uint64_t before = space.pages.key_count();
    const Given given = Give(space, page, count, waits->value.slot);
    on_fault_ += before - space.pages.key_count();
    space.next = page + count;
    return given != Given::kLater && given != Given::kUnknown;
  }
  uffdio_zeropage zero = {{page * kPageSize, kPageSize}, 0, 0};
  if (::ioctl(space.uffd.get(), UFFDIO_ZEROPAGE, &zero) == 0) return true;
  if (errno == EAGAIN) return false;
  // There already (given since it was asked for), or no longer mapped: it may look again.
  uffdio_range range = {page * kPageSize, kPageSize};
  (void)::ioctl(space.uffd.get(), UFFDIO_WAKE, &range);
  return true;
}

LazyPages::Given LazyPages::Give(Space& space, uint64_t page, uint64_t count, uint64_t slot) {
  const auto strike = [&](uint64_t given) {
    space.pages.Erase(page, given);
    if (!forked_) (void)::madvise(base_ + slot * kPageSize, given * kPageSize, MADV_REMOVE);
    page += given;
    slot += given;
    count -= given;
  };
  uint64_t most = count;
  while (count > 0) {
    const uint64_t part = std::min(count, most);
    uffdio_copy copy = {page * kPageSize, reinterpret_cast<uint64_t>(base_ + slot * kPageSize),
                        part * kPageSize, 0, 0};
    const int error = ::ioctl(space.uffd.get(), UFFDIO_COPY, &copy) == 0 ? 0 : errno;
    if (copy.copy > 0) strike(static_cast<uint64_t>(copy.copy) / kPageSize);
    if (error == 0 || (error == EAGAIN && copy.copy > 0)) continue;
    if (error == EEXIST) {
      // Given on a fault of the kernel's own making meanwhile.
      uffdio_range range = {page * kPageSize, kPageSize};
      (void)::ioctl(space.uffd.get(), UFFDIO_WAKE, &range);
      strike(1);
      continue;
    }
    if (error == EAGAIN) return Given::kLater;
    if (error == ENOENT && part > 1) {
      // One copy goes into one mapping, and where those end only the component knows.
      most = part / 2;
      continue;
    }
    if (error == ENOENT) return Given::kUnknown;
    if (error == ESRCH) {
      space.pages.Clear();
      return Given::kGone;
    }
    Fail(ErrnoStatus(
        error, absl::StrFormat("give the page at %#x of process %u", page * kPageSize, space.pid)));
    return Given::kFailed;
  }
  space.unknown_tries = 0;
  return Given::kDone;
}

absl::Status LazyPages::Restored(Deadline deadline) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_until(lock, std::min(deadline.at(), Clock::now() + std::chrono::hours(1)),
                           [&] { return criu_finished_ || !failed_.ok(); })) {
    return absl::DeadlineExceededError("CRIU did not say that it has handed over all memory");
  }
  RETURN_IF_ERROR(failed_);
  for (const auto& [pid, process] : index_.processes) {
    const auto space = std::find_if(spaces_.begin(), spaces_.end(),
                                    [pid = pid](const Space& s) { return s.pid == pid; });
    if (space == spaces_.end()) {
      return absl::FailedPreconditionError(
          absl::StrCat("CRIU did not hand over the memory of process ", pid));
    }
    const std::lock_guard space_lock(space->mutex);
    for (const uint64_t page : process.mappings) {
      const auto waits = space->pages.Find(page);
      if (waits && Give(*space, page, 1, waits->value.slot) != Given::kDone) {
        return absl::FailedPreconditionError(absl::StrFormat(
            "CRIU did not register the mapping at %#x of process %u to be restored on demand",
            page * kPageSize, pid));
      }
    }
  }
  return absl::OkStatus();
}

void LazyPages::Fill() {
  const std::lock_guard lock(mutex_);
  if (fill_ || stopping_) return;
  fill_ = true;
  filling_ = std::thread([this] { FillLoop(); });
}

bool LazyPages::FillSome(Space& space, bool* blocked) {
  const std::lock_guard lock(space.mutex);
  auto run = space.pages.FindFrom(space.next);
  if (!run) run = space.pages.FindFrom(0);
  if (!run) return false;
  const uint64_t count = std::min(run->count, kPagesInBackground);
  const uint64_t before = space.pages.key_count();
  const Given given = Give(space, run->first, count, run->value.slot);
  in_background_ += before - space.pages.key_count();
  space.next = run->first + count;
  if (given == Given::kUnknown && ++space.unknown_tries > kUnknownTries) {
    Fail(absl::InternalError(
        absl::StrFormat("the page at %#x of process %u waits for a mapping that nobody serves",
                        run->first * kPageSize, space.pid)));
  }
  *blocked = *blocked || given == Given::kLater || given == Given::kUnknown;
  return given == Given::kDone;
}

void LazyPages::FillLoop() {
  (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kFillNice);
  if (guard_.before_fill) guard_.before_fill();
  while (true) {
    std::vector<Space*> spaces;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_ || failing_) return;
      for (Space& space : spaces_) spaces.push_back(&space);
    }
    bool given = false, blocked = false;
    for (Space* space : spaces) given = FillSome(*space, &blocked) || given;
    if (given) continue;
    if (blocked) {
      std::this_thread::sleep_for(kAgain);
      continue;
    }
    // A fork seen before its parent's last page was given is in the list, or is being put there.
    const std::lock_guard lock(mutex_);
    if (adopting_ == 0 && spaces_.size() == spaces.size()) break;
  }
  // The other thread ends it: it may be reading from the userfaultfds.
  const uint64_t one = 1;
  (void)!::write(stop_.get(), &one, sizeof(one));
}

void LazyPages::Finish() {
  if (guard_.release) {
    if (const absl::Status released = guard_.release(); !released.ok()) {
      // Whoever holds them still keeps faults coming that nobody would answer.
      Fail(released);
      return;
    }
  }
  const std::lock_guard lock(mutex_);
  for (Space& space : spaces_) space.uffd.Reset();
  filled_ = true;
  changed_.notify_all();
}

void LazyPages::Fail(absl::Status status) {
  if (guard_.failed) guard_.failed(status);
  failing_ = true;
  changed_.notify_all();
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
  for (const Space& space : spaces_) {
    const std::lock_guard space_lock(space.mutex);
    stats.pages_left += space.pages.key_count();
  }
  // Counted under a space's mutex, and so no earlier than the pages left were.
  stats.pages_on_fault = on_fault_;
  stats.pages_in_background = in_background_;
  stats.faults = faults_;
  return stats;
}

}  // namespace starling::checkpoint
