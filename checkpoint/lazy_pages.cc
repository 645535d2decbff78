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

// Given at once on a fault: what is near is soon wanted too.
constexpr uint64_t kPagesOnFault = 16;
// Given at once in the background, while a fault in the same process waits: short enough to be no
// more than a fault's own time.
constexpr uint64_t kPagesInBackground = 64;
// Behind a fault, these come before all else in the background.
constexpr uint64_t kPagesNearFault = 256;
// Threads that serve faults: of components with more faults at once than one can answer.
constexpr int kServers = 3;
// Between two passes for pages that have arrived: at least this long, and so many times as long as
// a pass takes, since each goes through the whole list for what may be a few pages.
constexpr milliseconds kLookForArrivals{50};
constexpr int kPauseOfPass = 8;
// Runs looked at in one go: nobody is served meanwhile.
constexpr int kLooksAtOnce = 256;
// Beyond all of them.
constexpr uint64_t kNoPage = ~uint64_t{0};
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
  // Shared by those who give pages; held alone to read an event and act on it, so that no page is
  // given between the two that the event is about.
  std::shared_mutex gate;
  std::atomic<int> waiting_for_gate{0};  // to read; the background stands back for them
  mutable std::mutex mutex;              // guards what follows; taken under the gate
  RunMap<SlotValue> pages;
  std::vector<uint64_t> faults;  // addresses that were touched and not given yet
  std::vector<LazyMapping> recent;
  size_t next_recent = 0;
  uint64_t next = 0;       // page where the background goes on; 0: a new pass
  uint64_t near = 0;       // page behind the last fault
  uint64_t near_left = 0;  // pages from there on that come first
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
    : arena_(std::move(arena)),
      base_(base),
      bytes_(bytes),
      index_(std::move(index)),
      guard_(std::move(guard)),
      missing_(std::exchange(index_.missing, {})),
      none_missing_(missing_.empty()) {}

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
  const std::lock_guard lock(mutex_);
  Space& space = spaces_.emplace_back();
  space.pid = pid;
  space.uffd = std::move(uffd);
  space.pages = std::move(pages);
  space.recent = std::move(recent);
  epoll_event event = {EPOLLIN, {.ptr = &space}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return ErrnoStatus("wait for a process's faults");
  }
  return absl::OkStatus();
}

void LazyPages::ServeSpace(Space& space) {
  while (true) {
    bool read;
    {
      ++space.waiting_for_gate;
      const std::unique_lock gate(space.gate);
      --space.waiting_for_gate;
      uffd_msg message;
      read = ::read(space.uffd.get(), &message, sizeof(message)) == sizeof(message);
      if (read) OnMessage(space, message);
    }
    const bool again = ServeFaults(space);
    if (read) continue;
    if (!again) return;
    std::this_thread::sleep_for(kAgain);
  }
}

void LazyPages::ServeArrivals() {
  uint64_t times;
  (void)!::read(arrived_.get(), &times, sizeof(times));
  std::vector<Space*> spaces;
  {
    const std::lock_guard lock(mutex_);
    for (Space& space : spaces_) spaces.push_back(&space);
  }
  for (Space* space : spaces) {
    if (ServeFaults(*space)) ServeSpace(*space);
  }
}

void LazyPages::OnMessage(Space& space, const uffd_msg& message) {
  std::unique_lock lock(space.mutex);
  switch (message.event) {
    case UFFD_EVENT_PAGEFAULT:
      ++faults_;
      space.faults.push_back(message.arg.pagefault.address);
      break;
    case UFFD_EVENT_FORK: {
      forked_ = true;
      ++adopting_;
      RunMap<SlotValue> pages = space.pages;
      lock.unlock();
      const absl::Status adopted =
          Adopt(space.pid, UniqueFd(static_cast<int>(message.arg.fork.ufd)), std::move(pages), {});
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

// After every event too: what is touched may have moved, or be gone.
bool LazyPages::ServeFaults(Space& space) {
  const uint64_t arrivals = arrivals_;
  std::vector<uint64_t> faults;
  {
    const std::lock_guard lock(space.mutex);
    faults.swap(space.faults);
  }
  if (faults.empty()) return false;
  bool again = false;
  std::vector<uint64_t> left;
  {
    const std::shared_lock gate(space.gate);
    for (const uint64_t address : faults) {
      const Fault fault = OnFault(space, address);
      if (fault != Fault::kDone) left.push_back(address);
      again = again || fault == Fault::kLater;
    }
  }
  const std::lock_guard lock(space.mutex);
  space.faults.insert(space.faults.end(), left.begin(), left.end());
  // Whoever was told of what has arrived meanwhile has not seen those that are only now back.
  return again || (!left.empty() && arrivals_ != arrivals);
}

LazyPages::Fault LazyPages::OnFault(Space& space, uint64_t address) {
  const uint64_t page = address / kPageSize;
  std::optional<Run> waits;
  {
    const std::lock_guard lock(space.mutex);
    waits = space.pages.Find(page);
  }
  if (waits) {
    const uint64_t slot = waits->value.slot;
    const uint64_t near = std::min(waits->count, kPagesOnFault);
    const uint64_t count = Present(slot, near);
    if (count == 0) {
      Want(slot, near);
      // It may have arrived in between.
      if (Present(slot, 1) == 0) return Fault::kMissing;
      return Fault::kLater;
    }
    const Given given = Give(space, page, count, slot);
    const std::lock_guard lock(space.mutex);
    if (given == Given::kDone) on_fault_ += count;
    space.near = page + count;
    space.near_left = kPagesNearFault;
    return given == Given::kLater || given == Given::kUnknown ? Fault::kLater : Fault::kDone;
  }
  uffdio_zeropage zero = {{page * kPageSize, kPageSize}, 0, 0};
  if (::ioctl(space.uffd.get(), UFFDIO_ZEROPAGE, &zero) == 0) return Fault::kDone;
  if (errno == EAGAIN) return Fault::kLater;
  // There already (given since it was asked for), or no longer mapped: it may look again.
  uffdio_range range = {page * kPageSize, kPageSize};
  (void)::ioctl(space.uffd.get(), UFFDIO_WAKE, &range);
  return Fault::kDone;
}

uint64_t LazyPages::Present(uint64_t slot, uint64_t count) const {
  const std::lock_guard lock(missing_mutex_);
  const auto away = missing_.FindFrom(slot);
  return away ? std::min(count, away->first - slot) : count;
}

void LazyPages::Want(uint64_t slot, uint64_t count) {
  const std::lock_guard lock(missing_mutex_);
  const auto away = missing_.Find(slot);
  if (!away || !touched_.insert(slot).second) return;
  wanted_.push_back({slot, std::min(away->count, count)});
  wanted_changed_.notify_all();
}

LazyPages::Given LazyPages::Give(Space& space, uint64_t page, uint64_t count, uint64_t slot) {
  const auto strike = [&](uint64_t given) {
    {
      const std::lock_guard lock(space.mutex);
      space.pages.Erase(page, given);
    }
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
      const std::lock_guard lock(space.mutex);
      space.pages.Clear();
      return Given::kGone;
    }
    Fail(ErrnoStatus(
        error, absl::StrFormat("give the page at %#x of process %u", page * kPageSize, space.pid)));
    return Given::kFailed;
  }
  const std::lock_guard lock(space.mutex);
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
  std::vector<Space*> spaces;
  for (Space& space : spaces_) spaces.push_back(&space);
  lock.unlock();
  for (const auto& [pid, process] : index_.processes) {
    const auto found = std::find_if(spaces.begin(), spaces.end(),
                                    [pid = pid](const Space* s) { return s->pid == pid; });
    if (found == spaces.end()) {
      return absl::FailedPreconditionError(
          absl::StrCat("CRIU did not hand over the memory of process ", pid));
    }
    Space* const space = *found;
    for (const uint64_t page : process.mappings) {
      const std::shared_lock gate(space->gate);
      std::optional<Run> waits;
      {
        const std::lock_guard space_lock(space->mutex);
        waits = space->pages.Find(page);
      }
      if (waits && (Present(waits->value.slot, 1) == 0 ||
                    Give(*space, page, 1, waits->value.slot) != Given::kDone)) {
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

std::optional<LazyPages::Run> LazyPages::FindPresent(const Space& space, uint64_t* page,
                                                     uint64_t end) const {
  const std::lock_guard lock(missing_mutex_);
  for (int looks = 0; looks < kLooksAtOnce; ++looks) {
    auto run = space.pages.FindFrom(*page);
    if (!run || run->first >= end) {
      *page = end;
      return std::nullopt;
    }
    run->count = std::min(run->count, end - run->first);
    const auto away = missing_.FindFrom(run->value.slot);
    if (!away || away->first > run->value.slot) {
      if (away) run->count = std::min(run->count, away->first - run->value.slot);
      *page = run->first;
      return run;
    }
    *page = run->first + std::min(run->count, away->count);
  }
  return std::nullopt;
}

LazyPages::Run LazyPages::NextToFill(Space& space) const {
  // It counts as given, whatever becomes of it: what could not be given comes in the next pass.
  const auto pass_over = [](Run run, uint64_t* page) {
    run.count = std::min(run.count, kPagesInBackground);
    *page = run.first + run.count;
    return run;
  };
  while (space.near_left > 0) {
    const uint64_t end = space.near + space.near_left;
    const auto run = FindPresent(space, &space.near, end);
    const Run next = run ? pass_over(*run, &space.near) : Run{};
    space.near_left = end - space.near;
    if (run) return next;
  }
  for (int looks = 0; looks < kLooksAtOnce && space.next_recent < space.recent.size(); ++looks) {
    LazyMapping& range = space.recent[space.next_recent];
    const uint64_t end = range.first + range.count;
    const auto run = FindPresent(space, &range.first, end);
    const Run next = run ? pass_over(*run, &range.first) : Run{};
    range.count = end - range.first;
    if (range.count == 0) ++space.next_recent;
    if (run) return next;
  }
  if (space.next_recent < space.recent.size()) return {};
  const auto run = FindPresent(space, &space.next, kNoPage);
  return run ? pass_over(*run, &space.next) : Run{};
}

bool LazyPages::FillSome(Space& space, Pass& pass) {
  while (space.waiting_for_gate > 0) std::this_thread::yield();
  const std::shared_lock gate(space.gate);
  Run run;
  {
    const std::lock_guard lock(space.mutex);
    run = NextToFill(space);
    if (run.count == 0) {
      if (space.next != kNoPage) return false;
      space.next = 0;
      pass.left = pass.left || !space.pages.empty();
      return true;
    }
  }
  const Given given = Give(space, run.first, run.count, run.value.slot);
  const std::lock_guard lock(space.mutex);
  if (given == Given::kDone) in_background_ += run.count;
  if (given == Given::kUnknown && ++space.unknown_tries > kUnknownTries) {
    Fail(absl::InternalError(
        absl::StrFormat("the page at %#x of process %u waits for a mapping that nobody serves",
                        run.first * kPageSize, space.pid)));
  }
  pass.blocked = pass.blocked || given == Given::kLater || given == Given::kUnknown;
  return false;
}

void LazyPages::FillLoop() {
  (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kFillNice);
  if (guard_.before_fill) guard_.before_fill();
  while (true) {
    const TimePoint began = Clock::now();
    std::vector<Space*> spaces;
    {
      const std::lock_guard lock(mutex_);
      for (Space& space : spaces_) spaces.push_back(&space);
    }
    Pass pass;
    for (std::vector<Space*> open = spaces; !open.empty();) {
      {
        const std::lock_guard lock(mutex_);
        if (stopping_ || failing_) return;
      }
      std::erase_if(open, [&](Space* space) { return FillSome(*space, pass); });
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
                        [&] { return stopping_ || failing_ || none_missing_; });
      continue;
    }
    // A fork seen before its parent's last page was given is in the list, or is being put there.
    if (adopting_ == 0 && spaces_.size() == spaces.size()) break;
  }
  // The other threads end it: they may be reading from the userfaultfds.
  const uint64_t one = 1;
  (void)!::write(stop_.get(), &one, sizeof(one));
}

std::vector<SlotRange> LazyPages::MissingSlots() {
  const std::lock_guard lock(missing_mutex_);
  std::vector<SlotRange> slots;
  missing_.ForEach([&](const RunMap<Missing>::Run& run) {
    slots.push_back({run.first, run.count});
  });
  wanted_.clear();
  for (const uint64_t slot : touched_) {
    if (missing_.Find(slot)) wanted_.push_back({slot, 1});
  }
  wanted_changed_.notify_all();
  return slots;
}

std::vector<SlotRange> LazyPages::TakeWanted(Deadline deadline) {
  std::unique_lock lock(missing_mutex_);
  wanted_changed_.wait_until(lock, std::min(deadline.at(), Clock::now() + std::chrono::hours(1)),
                             [&] { return !wanted_.empty() || filled_ || failing_; });
  return std::exchange(wanted_, {});
}

void LazyPages::Arrived(std::span<const SlotRange> slots) {
  {
    const std::lock_guard lock(missing_mutex_);
    for (const SlotRange& run : slots) {
      missing_.Erase(run.first, run.count);
      touched_.erase(touched_.lower_bound(run.first), touched_.lower_bound(run.first + run.count));
    }
    none_missing_ = missing_.empty();
  }
  ++arrivals_;
  if (none_missing_) {
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
  for (Space& space : spaces_) space.uffd.Reset();
  filled_ = true;
  changed_.notify_all();
  const std::lock_guard missing(missing_mutex_);
  missing_.Clear();
  wanted_changed_.notify_all();
}

void LazyPages::Fail(absl::Status status) {
  if (guard_.failed) guard_.failed(status);
  const std::lock_guard lock(missing_mutex_);
  failing_ = true;
  changed_.notify_all();
  wanted_changed_.notify_all();
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
  {
    const std::lock_guard lock(missing_mutex_);
    stats.pages_missing = missing_.key_count();
  }
  stats.pages_on_fault = on_fault_;
  stats.pages_in_background = in_background_;
  stats.faults = faults_;
  return stats;
}

}  // namespace starling::checkpoint
