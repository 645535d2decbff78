#include "checkpoint/sent_pages.h"

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "checkpoint/zero_page.h"

namespace starling::checkpoint {

void SentPages::Add(const PageRun& run) {
  spaces_[run.space].Assign(run.address / kPageSize, run.pages, {});
}

void SentPages::Remove(const PageRun& run) {
  const auto found = spaces_.find(run.space);
  if (found != spaces_.end()) found->second.Erase(run.address / kPageSize, run.pages);
}

std::vector<SentPages::Piece> SentPages::Cut(const PageRun& run) const {
  std::vector<Piece> pieces;
  const auto found = spaces_.find(run.space);
  if (found == spaces_.end()) {
    pieces.push_back({run, false});
    return pieces;
  }
  found->second.ForEachPiece(
      run.address / kPageSize, run.pages, [&](uint64_t first, uint64_t count, const Sent* sent) {
        pieces.push_back({{run.space, first * kPageSize, count}, sent != nullptr});
      });
  return pieces;
}

std::vector<PageRun> SentPages::Of(const AddressSpace& space) const {
  std::vector<PageRun> runs;
  const auto found = spaces_.find(space);
  if (found == spaces_.end()) return runs;
  runs.reserve(found->second.run_count());
  found->second.ForEach([&](const RunMap<Sent>::Run& run) {
    runs.push_back({space, run.first * kPageSize, run.count});
  });
  return runs;
}

std::vector<AddressSpace> SentPages::Spaces() const {
  std::vector<AddressSpace> spaces;
  for (const auto& [space, pages] : spaces_) spaces.push_back(space);
  return spaces;
}

absl::Status SendFrozen(const FrozenMemory& memory, const PageRun& run, PageSink& sink,
                        RoundReport& report) {
  for (uint64_t done = 0; done < run.pages;) {
    ASSIGN_OR_RETURN(const std::span<std::byte> room, sink.Acquire(run.pages - done));
    const PageRun part{run.space, run.address + done * kPageSize, room.size() / kPageSize};
    if (absl::Status status = memory.Read(run.space, part.address, room); !status.ok()) {
      sink.Discard();
      return Annotate(status, "a page of the frozen component");
    }
    if (AllZero(room)) {
      sink.Discard();
      RETURN_IF_ERROR(sink.PutZero(part));
      report.pages_zero += part.pages;
    } else {
      RETURN_IF_ERROR(sink.Put(part));
      report.pages_sent += part.pages;
    }
    done += part.pages;
  }
  return absl::OkStatus();
}

namespace {

// One run that CRIU takes for unchanged; its parts are added to `settled`.
absl::Status SettleRun(const PageRun& run, const SentPages& sent, const FrozenMemory& memory,
                       PageSink& sink, RoundReport& report, FinalList& settled) {
  const auto settle = [&](const PageRun& part) -> absl::Status {
    for (const SentPages::Piece& piece : sent.Cut(part)) {
      settled.entries.push_back({piece.run, piece.sent});
      if (piece.sent) continue;
      RETURN_IF_ERROR(Annotate(SendFrozen(memory, piece.run, sink, report),
                               "a page that is mapped but was never sent"));
      report.pages_unchanged -= piece.run.pages;
    }
    return absl::OkStatus();
  };
  // Looked for before the run is cut: a huge page may have been sent in part.
  ASSIGN_OR_RETURN(const std::vector<PageRun> zeros, memory.HugeZeroPages(run));
  uint64_t at = run.address;
  for (const PageRun& zero : zeros) {
    if (zero.address > at) {
      RETURN_IF_ERROR(settle({run.space, at, (zero.address - at) / kPageSize}));
    }
    RETURN_IF_ERROR(sink.PutZero(zero));
    settled.entries.push_back({zero, true});
    report.pages_zero += zero.pages;
    report.pages_unchanged -= zero.pages;
    at = zero.address + zero.pages * kPageSize;
  }
  const uint64_t end = run.address + run.pages * kPageSize;
  if (at < end) RETURN_IF_ERROR(settle({run.space, at, (end - at) / kPageSize}));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<FinalList> SettleHoles(const FinalList& list, const SentPages& sent,
                                      LateFrozenMemory& frozen, PageSink& sink,
                                      RoundReport& report) {
  ASSIGN_OR_RETURN(const FrozenMemory* memory, frozen.Get());
  FinalList settled;
  for (const FinalList::Entry& entry : list.entries) {
    if (!entry.in_arena_before) {
      settled.entries.push_back(entry);
      continue;
    }
    if (memory != nullptr) {
      RETURN_IF_ERROR(SettleRun(entry.run, sent, *memory, sink, report, settled));
      continue;
    }
    for (const SentPages::Piece& piece : sent.Cut(entry.run)) {
      if (!piece.sent) {
        return absl::FailedPreconditionError(absl::StrFormat(
            "%u pages from %#x on of process %u are mapped but were never sent, and the "
            "component's memory cannot be looked at",
            piece.run.pages, piece.run.address, piece.run.space.id));
      }
      settled.entries.push_back({piece.run, true});
    }
  }
  return settled;
}

}  // namespace starling::checkpoint
