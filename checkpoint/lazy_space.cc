#include "checkpoint/lazy_space.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "checkpoint/page_stream.h"

namespace starling::checkpoint {
namespace {

// Given at once on a fault: what is near is soon wanted too.
constexpr uint64_t kPagesOnFault = 16;
// Given at once in the background, while a fault in the same process waits: short enough to be no
// more than a fault's own time.
constexpr uint64_t kPagesInBackground = 64;
// Behind a fault, these come before all else in the background.
constexpr uint64_t kPagesNearFault = 256;
// Ranges looked at in one go: nobody is served meanwhile.
constexpr int kLooksAtOnce = 256;
// Beyond all of them.
constexpr uint64_t kNoPage = ~uint64_t{0};
// Between two tries where the kernel waits for an event to be read first.
constexpr std::chrono::milliseconds kAgain{1};
// A mapping that stays unknown for so many tries was never registered.
constexpr int kUnknownTries = 2000;

}  // namespace

LazySpace::LazySpace(uint64_t pid, UniqueFd uffd, RunMap<SlotValue> pages,
                     std::vector<LazyMapping> recent, LazyArena& arena, Owner owner)
    : pid_(pid),
      uffd_(std::move(uffd)),
      arena_(arena),
      owner_(std::move(owner)),
      pages_(std::move(pages)),
      recent_(std::move(recent)) {}

void LazySpace::Serve() {
  while (true) {
    bool read;
    {
      ++waiting_for_gate_;
      const std::unique_lock gate(gate_);
      --waiting_for_gate_;
      uffd_msg message;
      read = ::read(uffd_.get(), &message, sizeof(message)) == sizeof(message);
      if (read) OnMessage(message);
    }
    const bool again = ServeFaults();
    if (read) continue;
    if (!again) return;
    std::this_thread::sleep_for(kAgain);
  }
}

void LazySpace::OnMessage(const uffd_msg& message) {
  std::unique_lock lock(mutex_);
  switch (message.event) {
    case UFFD_EVENT_PAGEFAULT:
      ++faults_seen_;
      faults_.push_back(message.arg.pagefault.address);
      break;
    case UFFD_EVENT_FORK: {
      RunMap<SlotValue> pages = pages_;
      lock.unlock();
      owner_.forked(UniqueFd(static_cast<int>(message.arg.fork.ufd)), std::move(pages));
      break;
    }
    case UFFD_EVENT_REMAP: {
      const uint64_t from = message.arg.remap.from / kPageSize;
      const uint64_t to = message.arg.remap.to / kPageSize;
      const uint64_t count = message.arg.remap.len / kPageSize;
      const auto moved = pages_.Erase(from, count);
      pages_.Erase(to, count);
      for (const auto& run : moved) {
        pages_.Assign(run.first - from + to, run.count, run.value);
      }
      break;
    }
    case UFFD_EVENT_REMOVE:
    case UFFD_EVENT_UNMAP:
      pages_.Erase(message.arg.remove.start / kPageSize,
                   (message.arg.remove.end - message.arg.remove.start) / kPageSize);
      break;
    default:
      break;
  }
}

// After every event too: what is touched may have moved, or be gone.
bool LazySpace::ServeFaults() {
  const uint64_t arrivals = arena_.missing.arrivals();
  std::vector<uint64_t> faults;
  {
    const std::lock_guard lock(mutex_);
    faults.swap(faults_);
  }
  if (faults.empty()) return false;
  bool again = false;
  std::vector<uint64_t> left;
  {
    const std::shared_lock gate(gate_);
    for (const uint64_t address : faults) {
      const Fault fault = OnFault(address);
      if (fault != Fault::kDone) left.push_back(address);
      again = again || fault == Fault::kLater;
    }
  }
  const std::lock_guard lock(mutex_);
  faults_.insert(faults_.end(), left.begin(), left.end());
  // Whoever was told of what has arrived meanwhile has not seen those that are only now back.
  return again || (!left.empty() && arena_.missing.arrivals() != arrivals);
}

LazySpace::Fault LazySpace::OnFault(uint64_t address) {
  const uint64_t page = address / kPageSize;
  if (const std::optional<Run> waits = Find(page)) {
    const uint64_t slot = waits->value.slot;
    const uint64_t near = std::min(waits->count, kPagesOnFault);
    const uint64_t count = arena_.missing.Present(slot, near);
    if (count == 0) {
      arena_.missing.Want(slot, near);
      // It may have arrived in between.
      if (arena_.missing.Present(slot, 1) == 0) return Fault::kMissing;
      return Fault::kLater;
    }
    const Given given = Give(page, count, slot);
    const std::lock_guard lock(mutex_);
    if (given == Given::kDone) on_fault_ += count;
    near_ = page + count;
    near_left_ = kPagesNearFault;
    return given == Given::kLater || given == Given::kUnknown ? Fault::kLater : Fault::kDone;
  }
  uffdio_zeropage zero = {{page * kPageSize, kPageSize}, 0, 0};
  if (::ioctl(uffd_.get(), UFFDIO_ZEROPAGE, &zero) == 0) return Fault::kDone;
  if (errno == EAGAIN) return Fault::kLater;
  // There already (given since it was asked for), or no longer mapped: it may look again.
  uffdio_range range = {page * kPageSize, kPageSize};
  (void)::ioctl(uffd_.get(), UFFDIO_WAKE, &range);
  return Fault::kDone;
}

std::optional<LazySpace::Run> LazySpace::Find(uint64_t page) const {
  const std::lock_guard lock(mutex_);
  return pages_.Find(page);
}

bool LazySpace::GiveFirst(uint64_t page) {
  const std::shared_lock gate(gate_);
  const std::optional<Run> waits = Find(page);
  return !waits || (arena_.missing.Present(waits->value.slot, 1) == 1 &&
                    Give(page, 1, waits->value.slot) == Given::kDone);
}

LazySpace::Given LazySpace::Give(uint64_t page, uint64_t count, uint64_t slot) {
  const auto strike = [&](uint64_t given) {
    {
      const std::lock_guard lock(mutex_);
      pages_.Erase(page, given);
    }
    if (!arena_.shared)
      (void)::madvise(arena_.base + slot * kPageSize, given * kPageSize, MADV_REMOVE);
    page += given;
    slot += given;
    count -= given;
  };
  uint64_t most = count;
  while (count > 0) {
    const uint64_t part = std::min(count, most);
    uffdio_copy copy = {page * kPageSize,
                        reinterpret_cast<uint64_t>(arena_.base + slot * kPageSize),
                        part * kPageSize, 0, 0};
    const int error = ::ioctl(uffd_.get(), UFFDIO_COPY, &copy) == 0 ? 0 : errno;
    if (copy.copy > 0) strike(static_cast<uint64_t>(copy.copy) / kPageSize);
    if (error == 0 || (error == EAGAIN && copy.copy > 0)) continue;
    if (error == EEXIST) {
      // Given on a fault of the kernel's own making meanwhile.
      uffdio_range range = {page * kPageSize, kPageSize};
      (void)::ioctl(uffd_.get(), UFFDIO_WAKE, &range);
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
      const std::lock_guard lock(mutex_);
      pages_.Clear();
      return Given::kGone;
    }
    owner_.failed(ErrnoStatus(
        error, absl::StrFormat("give the page at %#x of process %u", page * kPageSize, pid_)));
    return Given::kFailed;
  }
  const std::lock_guard lock(mutex_);
  unknown_tries_ = 0;
  return Given::kDone;
}

LazySpace::Run LazySpace::NextToFill() {
  // It counts as given, whatever becomes of it: what could not be given comes in the next pass.
  const auto pass_over = [](Run run, uint64_t* page) {
    run.count = std::min(run.count, kPagesInBackground);
    *page = run.first + run.count;
    return run;
  };
  while (near_left_ > 0) {
    const uint64_t end = near_ + near_left_;
    const auto run = arena_.missing.FindPresent(pages_, &near_, end);
    const Run next = run ? pass_over(*run, &near_) : Run{};
    near_left_ = end - near_;
    if (run) return next;
  }
  for (int looks = 0; looks < kLooksAtOnce && next_recent_ < recent_.size(); ++looks) {
    LazyMapping& range = recent_[next_recent_];
    const uint64_t end = range.first + range.count;
    const auto run = arena_.missing.FindPresent(pages_, &range.first, end);
    const Run next = run ? pass_over(*run, &range.first) : Run{};
    range.count = end - range.first;
    if (range.count == 0) ++next_recent_;
    if (run) return next;
  }
  if (next_recent_ < recent_.size()) return {};
  const auto run = arena_.missing.FindPresent(pages_, &next_, kNoPage);
  return run ? pass_over(*run, &next_) : Run{};
}

bool LazySpace::FillSome(Pass& pass) {
  while (waiting_for_gate_ > 0) std::this_thread::yield();
  const std::shared_lock gate(gate_);
  Run run;
  {
    const std::lock_guard lock(mutex_);
    run = NextToFill();
    if (run.count == 0) {
      if (next_ != kNoPage) return false;
      next_ = 0;
      pass.left = pass.left || !pages_.empty();
      return true;
    }
  }
  const Given given = Give(run.first, run.count, run.value.slot);
  const std::lock_guard lock(mutex_);
  if (given == Given::kDone) in_background_ += run.count;
  if (given == Given::kUnknown && ++unknown_tries_ > kUnknownTries) {
    owner_.failed(absl::InternalError(
        absl::StrFormat("the page at %#x of process %u waits for a mapping that nobody serves",
                        run.first * kPageSize, pid_)));
  }
  pass.blocked = pass.blocked || given == Given::kLater || given == Given::kUnknown;
  return false;
}

LazySpace::Stats LazySpace::stats() const {
  Stats stats;
  {
    const std::lock_guard lock(mutex_);
    stats.pages_left = pages_.key_count();
  }
  stats.pages_on_fault = on_fault_;
  stats.pages_in_background = in_background_;
  stats.faults = faults_seen_;
  return stats;
}

}  // namespace starling::checkpoint
