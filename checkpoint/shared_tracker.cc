#include "checkpoint/shared_tracker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace starling::checkpoint {
namespace {

// Ranges of one process that are kept for a reader that does not list: 16 bytes each. Beyond them
// all of it counts as written.
constexpr size_t kMostRanges = size_t{1} << 18;

}  // namespace

class SharedTracker::Reader : public Tracker {
 public:
  explicit Reader(std::shared_ptr<SharedTracker> shared)
      : shared_(std::move(shared)),
        name_(shared_->tracker_->name()),
        exact_(shared_->tracker_->exact()),
        goes_on_(shared_->tracker_->goes_on()) {}
  ~Reader() override {
    const std::lock_guard lock(shared_->mutex_);
    std::erase(shared_->readers_, this);
    if (shared_->readers_.empty()) shared_->tracker_.reset();
  }

  const char* name() const override { return name_; }
  bool exact() const override { return exact_; }
  bool goes_on() const override { return goes_on_; }

  absl::StatusOr<MemoryChanges> List() override { return shared_->List(*this, Way::kRunning); }
  absl::StatusOr<MemoryChanges> ListLast() override { return shared_->List(*this, Way::kLast); }
  absl::StatusOr<MemoryChanges> ListFrozen() override { return shared_->List(*this, Way::kFrozen); }

  void Forget() override {
    const std::lock_guard lock(shared_->mutex_);
    ForgetOwn();
    // A first list needs no freeze.
    if (shared_->readers_.size() == 1) shared_->tracker_->Forget();
  }

  void Sent(const AddressSpace&, uint64_t, std::span<const std::byte>) override {}

 private:
  friend class SharedTracker;
  // What other readers' lists had of a process since the last one of this.
  struct Kept {
    bool all = false;
    std::vector<PageRange> changed;
  };

  void ForgetOwn() {
    known_.Clear();
    kept_.clear();
  }

  // A list of another reader's.
  void Keep(const MemoryChanges& changes) {
    absl::btree_map<AddressSpace, Kept> kept;
    for (const ProcessChanges& process : changes.processes) {
      const AddressSpace& space = process.memory->space();
      Kept& one = kept[space];
      if (const auto before = kept_.find(space); before != kept_.end()) {
        one = std::move(before->second);
      }
      one.all = one.all || process.is_new;
      if (!one.all) one.changed = Unite(one.changed, process.changed);
      one.all = one.all || one.changed.size() > kMostRanges;
      if (one.all) one.changed = {};
    }
    // A process that has ended is new to the tracker should its space come back.
    kept_ = std::move(kept);
  }

  // A list of its own, which is made complete.
  void Complete(MemoryChanges& changes) {
    for (ProcessChanges& process : changes.processes) {
      const auto kept = kept_.find(process.memory->space());
      const bool known = !known_.Learn(*process.memory);
      process.is_new = process.is_new || !known || (kept != kept_.end() && kept->second.all);
      if (process.is_new) {
        process.changed = process.resident;
      } else if (kept != kept_.end()) {
        process.changed = Unite(process.changed, kept->second.changed);
      }
    }
    known_.Keep(changes.processes);
    kept_.clear();
    exact_ = shared_->tracker_->exact();
  }

  const std::shared_ptr<SharedTracker> shared_;
  const char* const name_;
  bool exact_;  // as of its last list
  const bool goes_on_;
  KnownProcesses known_;  // of its lists
  absl::btree_map<AddressSpace, Kept> kept_;
};

absl::StatusOr<std::unique_ptr<Tracker>> SharedTracker::Join(absl::string_view name,
                                                             const Make& make) {
  const std::lock_guard lock(mutex_);
  if (!alone_.expired()) {
    return absl::FailedPreconditionError(
        "what it writes is found by CRIU's pre-dumps, which do it for one reader");
  }
  if (tracker_ != nullptr && tracker_->name() != name) {
    return absl::FailedPreconditionError(absl::StrCat("what it writes is found by ",
                                                      tracker_->name(), " already, and not by ",
                                                      name, ": the kernel has one mark for both"));
  }
  if (tracker_ == nullptr) tracker_ = make();
  auto reader = std::make_unique<Reader>(shared_from_this());
  readers_.push_back(reader.get());
  return reader;
}

absl::StatusOr<std::shared_ptr<void>> SharedTracker::Alone() {
  const std::lock_guard lock(mutex_);
  if (!readers_.empty() || !alone_.expired()) {
    return absl::FailedPreconditionError(
        "CRIU's pre-dumps find what it writes for one reader, and there is another one already");
  }
  auto alone = std::make_shared<char>();
  alone_ = alone;
  return alone;
}

void SharedTracker::ForgetAll() {
  if (tracker_ != nullptr) tracker_->Forget();
  for (Reader* const reader : readers_) reader->ForgetOwn();
}

void SharedTracker::Forget() {
  const std::lock_guard lock(mutex_);
  ForgetAll();
}

std::unique_lock<std::recursive_mutex> SharedTracker::Hold() { return std::unique_lock(mutex_); }

absl::StatusOr<MemoryChanges> SharedTracker::List(Reader& reader, Way way) {
  const std::lock_guard lock(mutex_);
  absl::StatusOr<MemoryChanges> changes = way == Way::kRunning  ? tracker_->List()
                                          : way == Way::kFrozen ? tracker_->ListFrozen()
                                                                : tracker_->ListLast();
  if (!changes.ok()) {
    // Marks may have been cleared that no list has.
    ForgetAll();
    return changes;
  }
  for (Reader* const other : readers_) {
    if (other != &reader) other->Keep(*changes);
  }
  reader.Complete(*changes);
  // Nothing is tracked from here on.
  if (way == Way::kLast || (way == Way::kFrozen && !tracker_->goes_on())) ForgetAll();
  return changes;
}

}  // namespace starling::checkpoint
