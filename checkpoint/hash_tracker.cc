#include "base/status.h"
#include "checkpoint/page_hashes.h"
#include "checkpoint/tracker.h"

namespace starling::checkpoint {
namespace {

// Pages read at once to be compared.
constexpr size_t kReadPages = 256;

class HashTracker : public Tracker {
 public:
  explicit HashTracker(std::string cgroup) : cgroup_(std::move(cgroup)) {}

  const char* name() const override { return "hash"; }
  bool knows_writes() const override { return false; }

  absl::StatusOr<MemoryChanges> List() override {
    MemoryChanges changes;
    ASSIGN_OR_RETURN(std::vector<std::unique_ptr<ProcessMemory>> processes, OpenProcesses(cgroup_));
    for (std::unique_ptr<ProcessMemory>& memory : processes) {
      ProcessChanges process;
      process.memory = std::move(memory);
      std::vector<ResidentRange> scanned;
      const absl::Status listed = ListResident(process, scanned);
      if (absl::IsNotFound(listed)) continue;
      RETURN_IF_ERROR(listed);
      process.is_new = known_.Learn(*process.memory);
      if (process.is_new) hashes_.Drop(process.memory->space());
      RETURN_IF_ERROR(Compare(process));
      changes.processes.push_back(std::move(process));
    }
    known_.Keep(changes.processes);
    return changes;
  }

  absl::StatusOr<MemoryChanges> ListLast() override {
    auto changes = List();
    if (changes.ok()) {
      for (const ProcessChanges& process : changes->processes) {
        RETURN_IF_ERROR(process.memory->ClearSoftDirty());
      }
    }
    Forget();
    return changes;
  }

  void Forget() override {
    known_.Clear();
    hashes_.Clear();
  }

  // Of what was sent, not of what was listed: between the two it may have changed, and may change
  // back.
  void Sent(const AddressSpace& space, uint64_t address,
            std::span<const std::byte> bytes) override {
    for (size_t at = 0; at < bytes.size(); at += kPageSize) {
      hashes_.Set(space, address + at, PageHashes::Of(bytes.subspan(at, kPageSize)));
    }
  }

 private:
  absl::Status Compare(ProcessChanges& process) {
    const AddressSpace& space = process.memory->space();
    if (!hashes_.Knows(space)) {
      process.changed = process.resident;
      return absl::OkStatus();
    }
    std::vector<std::byte> bytes(kReadPages * kPageSize);
    std::vector<bool> there;
    for (const PageRange& range : process.resident) {
      for (uint64_t done = 0; done < range.pages;) {
        const PageRange part{range.address + done * kPageSize,
                             std::min<uint64_t>(range.pages - done, kReadPages)};
        const std::span<std::byte> room(bytes.data(), part.pages * kPageSize);
        RETURN_IF_ERROR(process.memory->Read({&part, 1}, room, there));
        for (uint64_t i = 0; i < part.pages; ++i) {
          const uint64_t address = part.address + i * kPageSize;
          const uint64_t hash = PageHashes::Of(room.subspan(i * kPageSize, kPageSize));
          if (there[i] && hashes_.Find(space, address) == hash) continue;
          Append(process.changed, {address, 1});
        }
        done += part.pages;
      }
    }
    return absl::OkStatus();
  }

  const std::string cgroup_;
  KnownProcesses known_;
  PageHashes hashes_;
};

}  // namespace

std::unique_ptr<Tracker> MakeHashTracker(std::string cgroup) {
  return std::make_unique<HashTracker>(std::move(cgroup));
}

}  // namespace starling::checkpoint
