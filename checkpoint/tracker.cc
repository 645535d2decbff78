#include "checkpoint/tracker.h"

#include "base/status.h"

namespace starling::checkpoint {

bool KnownProcesses::Learn(const ProcessMemory& process) {
  const std::pair<pid_t, uint64_t> identity{process.pid(), process.started()};
  const auto [known, fresh] = started_.try_emplace(process.space(), identity);
  if (fresh || known->second == identity) return fresh;
  known->second = identity;
  return true;
}

void KnownProcesses::Keep(std::span<const ProcessChanges> processes) {
  absl::btree_map<AddressSpace, std::pair<pid_t, uint64_t>> kept;
  for (const ProcessChanges& process : processes) {
    const auto known = started_.find(process.memory->space());
    if (known != started_.end()) kept.insert(*known);
  }
  started_ = std::move(kept);
}

absl::Status ListResident(ProcessChanges& process, std::vector<ResidentRange>& scanned) {
  ASSIGN_OR_RETURN(const std::vector<Mapping> mappings, process.memory->TrackedMappings());
  ASSIGN_OR_RETURN(scanned, process.memory->Resident(mappings));
  process.resident.clear();
  for (const ResidentRange& range : scanned) Append(process.resident, range.range);
  return absl::OkStatus();
}

}  // namespace starling::checkpoint
