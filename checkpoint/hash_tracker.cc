#define XXH_INLINE_ALL
#include <xxhash.h>

#include "absl/container/btree_map.h"
#include "base/status.h"
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
      if (process.is_new) hashes_.erase(process.memory->space());
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
    hashes_.clear();
  }

  // Of what was sent, not of what was listed: between the two it may have changed, and may change
  // back.
  void Sent(const AddressSpace& space, uint64_t address,
            std::span<const std::byte> bytes) override {
    Hashes& hashes = hashes_[space];
    for (size_t at = 0; at < bytes.size(); at += kPageSize) {
      const uint64_t page = (address + at) / kPageSize;
      std::unique_ptr<Block>& block = hashes[page / kBlockPages];
      if (!block) block = std::make_unique<Block>();
      (*block)[page % kBlockPages] = HashOf(bytes.data() + at);
    }
  }

 private:
  static constexpr size_t kBlockPages = 512;
  using Block = std::array<uint64_t, kBlockPages>;  // 0: not known
  using Hashes = absl::btree_map<uint64_t, std::unique_ptr<Block>>;

  static uint64_t HashOf(const std::byte* page) {
    const uint64_t hash = XXH3_64bits(page, kPageSize);
    return hash == 0 ? 1 : hash;
  }

  static uint64_t Known(const Hashes& hashes, uint64_t page) {
    const auto block = hashes.find(page / kBlockPages);
    return block == hashes.end() ? 0 : (*block->second)[page % kBlockPages];
  }

  absl::Status Compare(ProcessChanges& process) {
    const auto found = hashes_.find(process.memory->space());
    if (found == hashes_.end()) {
      process.changed = process.resident;
      return absl::OkStatus();
    }
    const Hashes& hashes = found->second;
    std::vector<std::byte> bytes(kReadPages * kPageSize);
    std::vector<bool> there;
    for (const PageRange& range : process.resident) {
      for (uint64_t done = 0; done < range.pages;) {
        const PageRange part{range.address + done * kPageSize,
                             std::min<uint64_t>(range.pages - done, kReadPages)};
        const std::span<std::byte> room(bytes.data(), part.pages * kPageSize);
        RETURN_IF_ERROR(process.memory->Read({&part, 1}, room, there));
        for (uint64_t i = 0; i < part.pages; ++i) {
          const uint64_t page = part.address / kPageSize + i;
          if (there[i] && Known(hashes, page) == HashOf(room.data() + i * kPageSize)) continue;
          Append(process.changed, {page * kPageSize, 1});
        }
        done += part.pages;
      }
    }
    return absl::OkStatus();
  }

  const std::string cgroup_;
  KnownProcesses known_;
  absl::btree_map<AddressSpace, Hashes> hashes_;
};

}  // namespace

std::unique_ptr<Tracker> MakeHashTracker(std::string cgroup) {
  return std::make_unique<HashTracker>(std::move(cgroup));
}

}  // namespace starling::checkpoint
