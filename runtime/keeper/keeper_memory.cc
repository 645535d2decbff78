#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/hold_points.h"
#include "runtime/keeper/keeper.h"
#include "runtime/keeper/protocol.h"
#include "runtime/keeper/slow_operation.h"

// The part of the keeper that gives a restored component its memory on demand.

namespace starling::keeper {

absl::Status Keeper::ServeLazily(const std::string& images_dir, UniqueFd arena) {
  const std::string path = absl::StrCat(images_dir, "/", kLazyIndex);
  ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  absl::StatusOr<checkpoint::LazyIndex> index = checkpoint::DecodeLazyIndex(bytes);
  if (!index.ok()) return Annotate(index.status(), path);
  // The namespace's first process holds the userfaultfds too, and ends the component when this
  // keeper is gone: it never reads zeros for pages that nobody serves any more.
  checkpoint::LazyPages::Guard guard;
  guard.hold = [this](int uffd) {
    const std::lock_guard lock(sandbox_mutex_);
    return sandbox_->Hold(uffd, Deadline::After(kQuick));
  };
  guard.release = [this] {
    const std::lock_guard lock(sandbox_mutex_);
    const absl::Status released = sandbox_->Release(Deadline::After(kQuick));
    // It has ended, and everything with it.
    return absl::IsUnavailable(released) ? absl::OkStatus() : released;
  };
  guard.failed = [this](const absl::Status& status) {
    spdlog::critical("{}: ended, since its memory cannot be put in place: {}", options_.spec.name(),
                     status.ToString());
    (void)cgroup_->Kill();
  };
  guard.before_fill = [hold = HoldPoints(options_.run_dir)] { hold.At("keeper-fill"); };
  ASSIGN_OR_RETURN(auto lazy, checkpoint::LazyPages::Create(std::move(arena), *std::move(index),
                                                            std::move(guard)));
  ASSIGN_OR_RETURN(const UniqueFd folder, OpenFile(images_dir, O_RDONLY | O_DIRECTORY));
  RETURN_IF_ERROR(lazy->Listen(folder.get()));
  const std::lock_guard lock(mutex_);
  lazy_ = std::move(lazy);
  return absl::OkStatus();
}

checkpoint::LazyPages* Keeper::lazy() {
  const std::lock_guard lock(mutex_);
  return lazy_.get();
}

absl::Status Keeper::WaitFilled(Deadline deadline) {
  checkpoint::LazyPages* const lazy = this->lazy();
  if (lazy == nullptr) return absl::OkStatus();
  lazy->Fill();
  return lazy->WaitFilled(deadline);
}

absl::StatusOr<checkpoint::LazyPages*> Keeper::NeedLazy() {
  checkpoint::LazyPages* const lazy = this->lazy();
  if (lazy == nullptr) {
    return absl::FailedPreconditionError("this component was not restored on demand");
  }
  return lazy;
}

absl::StatusOr<std::vector<UniqueFd>> Keeper::FindMissing() {
  ASSIGN_OR_RETURN(checkpoint::LazyPages* const lazy, NeedLazy());
  const std::vector<checkpoint::SlotRange> missing = lazy->Missing();
  std::vector<UniqueFd> fds;
  fds.emplace_back(::fcntl(lazy->arena(), F_DUPFD_CLOEXEC, 0));
  fds.emplace_back(::memfd_create("starling-missing", MFD_CLOEXEC));
  if (!fds[0] || !fds[1]) return ErrnoStatus("hand over the arena");
  static_assert(sizeof(checkpoint::SlotRange) == 2 * sizeof(uint64_t));
  RETURN_IF_ERROR(
      WriteAll(fds[1].get(), missing.data(), missing.size() * sizeof(checkpoint::SlotRange)));
  if (::lseek(fds[1].get(), 0, SEEK_SET) != 0) return ErrnoStatus("rewind a memory file");
  return fds;
}

absl::StatusOr<v1::WantedSlots> Keeper::TakeWanted(Duration wait) {
  ASSIGN_OR_RETURN(checkpoint::LazyPages* const lazy, NeedLazy());
  v1::WantedSlots wanted;
  for (const checkpoint::SlotRange& range : lazy->TakeWanted(Deadline::After(wait))) {
    v1::Slots& to = *wanted.add_slots();
    to.set_first(range.first);
    to.set_count(range.count);
  }
  const std::lock_guard lock(mutex_);
  if (exited_) return absl::UnavailableError("the component has ended");
  wanted.set_over(lazy->filled());
  return wanted;
}

absl::Status Keeper::Arrived(const v1::Arrived& arrived) {
  ASSIGN_OR_RETURN(checkpoint::LazyPages* const lazy, NeedLazy());
  std::vector<checkpoint::SlotRange> ranges;
  for (const v1::Slots& slots : arrived.slots()) ranges.push_back({slots.first(), slots.count()});
  lazy->Arrived(ranges);
  return absl::OkStatus();
}

absl::Status Keeper::Lose(const v1::Lose& lose) {
  ASSIGN_OR_RETURN(checkpoint::LazyPages* const lazy, NeedLazy());
  lazy->Lose(absl::UnavailableError(lose.reason()));
  return absl::OkStatus();
}

}  // namespace starling::keeper
