// Of Arena: a second one that is kept as the first was at one moment.

#include <cstring>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "checkpoint/arena.h"

namespace starling::checkpoint {

void Arena::KeepChanges() {
  const std::lock_guard lock(mutex_);
  if (keeps_changes_) return;
  keeps_changes_ = true;
  // What landed before counts as changed.
  owners_.ForEach(
      [this](const RunMap<Owner>::Run& run) { changed_.Assign(run.first, run.count, {}); });
}

absl::StatusOr<uint64_t> Arena::CatchUp(Arena& from) {
  const std::scoped_lock lock(mutex_, from.mutex_);
  if (!from.keeps_changes_ || from.chunk_slots_ != chunk_slots_ || from.promised_.key_count() > 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "an arena of chunks of ", chunk_slots_, " slots cannot follow one of ", from.chunk_slots_,
        " that ", from.keeps_changes_ ? "is not whole" : "does not keep its changes"));
  }
  while (slots_ < from.slots_) RETURN_IF_ERROR(AddChunkLocked().status());
  uint64_t pages = 0;
  from.changed_.ForEach([&](const RunMap<Missing>::Run& run) {
    std::memcpy(base_ + run.first * kPageSize, from.base_ + run.first * kPageSize,
                run.count * kPageSize);
    pages += run.count;
  });
  hashes_ = from.hashes_;
  hashed_ = from.hashed_;
  spaces_ = from.spaces_;
  names_ = from.names_;
  owners_ = from.owners_;
  from.changed_.Clear();
  return pages;
}

}  // namespace starling::checkpoint
