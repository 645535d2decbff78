#include "base/status.h"
#include "checkpoint/tracker.h"

namespace starling::checkpoint {
namespace {

// The time a component is held, whichever way out is taken.
class Pause {
 public:
  explicit Pause(const Freezer& freezer) : freezer_(freezer) {}
  ~Pause() { (void)End(); }

  absl::Status Begin() {
    began_ = Clock::now();
    frozen_ = true;
    return freezer_(true);
  }
  absl::Status End() {
    if (!frozen_) return absl::OkStatus();
    frozen_ = false;
    const absl::Status status = freezer_(false);
    took_ = Clock::now() - began_;
    return status;
  }
  Duration took() const { return took_; }

 private:
  const Freezer& freezer_;
  bool frozen_ = false;
  TimePoint began_;
  Duration took_{};
};

class SoftDirtyTracker : public Tracker {
 public:
  SoftDirtyTracker(std::string cgroup, Freezer freezer)
      : cgroup_(std::move(cgroup)), freezer_(std::move(freezer)) {}

  const char* name() const override { return "soft-dirty"; }
  // A transparent huge page has one bit for all of it. Once split, each page has its own; one that
  // the kernel makes anew meanwhile is sent whole when it is written, and split again.
  bool exact() const override { return splits_; }

  absl::StatusOr<MemoryChanges> List() override {
    if (first_) {
      // All of it is to be sent, and what is written while it is being listed is soft-dirty again.
      ASSIGN_OR_RETURN(MemoryChanges changes, Scan(/*clear_first=*/true));
      first_ = false;
      return changes;
    }
    Pause pause(freezer_);
    RETURN_IF_ERROR(pause.Begin());
    ASSIGN_OR_RETURN(MemoryChanges changes, Scan(/*clear_first=*/false));
    RETURN_IF_ERROR(pause.End());
    changes.paused = pause.took();
    return changes;
  }

  absl::StatusOr<MemoryChanges> ListLast() override {
    auto changes = Scan(/*clear_first=*/false);
    Forget();
    return changes;
  }

  absl::StatusOr<MemoryChanges> ListFrozen() override {
    auto changes = Scan(/*clear_first=*/false);
    if (changes.ok()) first_ = false;
    return changes;
  }
  bool goes_on() const override { return true; }

  void Forget() override {
    known_.Clear();
    first_ = true;
  }

  void Sent(const AddressSpace&, uint64_t, std::span<const std::byte>) override {}

 private:
  absl::StatusOr<MemoryChanges> Scan(bool clear_first) {
    MemoryChanges changes;
    ASSIGN_OR_RETURN(std::vector<std::unique_ptr<ProcessMemory>> processes, OpenProcesses(cgroup_));
    if (clear_first) {
      // Before: a write to one that is still whole makes all of its pages dirty.
      RETURN_IF_ERROR(Split(processes));
      RETURN_IF_ERROR(Clear(processes));
    }
    for (std::unique_ptr<ProcessMemory>& memory : processes) {
      ProcessChanges process;
      process.memory = std::move(memory);
      std::vector<ResidentRange> scanned;
      const absl::Status listed = ListResident(process, scanned);
      if (absl::IsNotFound(listed)) continue;
      RETURN_IF_ERROR(listed);
      // A forked child has its parent's bits: clean pages of it were never sent as its own.
      process.is_new = known_.Learn(*process.memory);
      for (const ResidentRange& range : scanned) {
        if (process.is_new || range.soft_dirty) Append(process.changed, range.range);
      }
      // Those that the kernel has made anew.
      if (!clear_first) Split(*process.memory, process.changed);
      changes.processes.push_back(std::move(process));
    }
    known_.Keep(changes.processes);
    if (clear_first) return changes;
    // After all have been read: processes may share memory with one another (vfork).
    for (const ProcessChanges& process : changes.processes) {
      const absl::Status cleared = process.memory->ClearSoftDirty();
      if (!absl::IsNotFound(cleared)) RETURN_IF_ERROR(cleared);
    }
    return changes;
  }

  absl::Status Split(std::span<const std::unique_ptr<ProcessMemory>> processes) {
    for (const auto& process : processes) {
      const auto mappings = process->TrackedMappings();
      if (absl::IsNotFound(mappings.status())) continue;
      RETURN_IF_ERROR(mappings.status());
      const auto resident = process->Resident(*mappings);
      if (absl::IsNotFound(resident.status())) continue;
      RETURN_IF_ERROR(resident.status());
      std::vector<PageRange> ranges;
      for (const ResidentRange& range : *resident) Append(ranges, range.range);
      Split(*process, ranges);
    }
    return absl::OkStatus();
  }

  void Split(const ProcessMemory& process, std::span<const PageRange> ranges) {
    if (splits_) splits_ = !absl::IsUnimplemented(process.SplitHugePages(ranges));
  }

  static absl::Status Clear(std::span<const std::unique_ptr<ProcessMemory>> processes) {
    for (const auto& process : processes) {
      const absl::Status cleared = process->ClearSoftDirty();
      if (!absl::IsNotFound(cleared)) RETURN_IF_ERROR(cleared);
    }
    return absl::OkStatus();
  }

  const std::string cgroup_;
  const Freezer freezer_;
  KnownProcesses known_;
  bool first_ = true;
  bool splits_ = true;  // the kernel splits huge pages
};

}  // namespace

std::unique_ptr<Tracker> MakeSoftDirtyTracker(std::string cgroup, Freezer freezer) {
  return std::make_unique<SoftDirtyTracker>(std::move(cgroup), std::move(freezer));
}

}  // namespace starling::checkpoint
