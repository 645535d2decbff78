#include "checkpoint/memory_source.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/criu_images.h"
#include "checkpoint/zero_page.h"

namespace starling::checkpoint {
namespace {

constexpr char kFinal[] = "final";
constexpr char kParent[] = "parent";

// Asked of the sink at once, in pages.
constexpr uint64_t kMostPages = 1024;
// What a rate limit lets through at once: a quarter of a second's worth, so that the wire's own
// pace is smoothed and not chopped.
constexpr double kBurstSeconds = 0.25;

}  // namespace

MemorySource::MemorySource(Options options, std::unique_ptr<Tracker> tracker, CriuDumper dumper,
                           FrozenMemoryOpener memory)
    : options_(std::move(options)),
      tracker_(std::move(tracker)),
      dumper_(std::move(dumper)),
      memory_(std::move(memory)),
      stream_(options_.version, options_.folder),
      rate_(options_.max_rate_bytes_per_s, options_.max_rate_bytes_per_s * kBurstSeconds) {}

std::string MemorySource::final_images() const {
  return absl::StrCat(stream_.folder(), "/", kFinal);
}

void MemorySource::Forget() {
  tracker_->Forget();
  sent_.Clear();
}

absl::StatusOr<RoundReport> MemorySource::Round(PageSink& sink) {
  const TimePoint started = Clock::now();
  RoundReport report;
  absl::StatusOr<MemoryChanges> changes = tracker_->List();
  report.listing = Clock::now() - started;
  absl::Status status = changes.status();
  if (status.ok()) {
    report.paused = changes->paused;
    status = Send(*changes, /*frozen=*/false, sink, report);
  }
  if (!status.ok()) {
    Forget();
    return Annotate(status, "pre-copy round");
  }
  report.elapsed = Clock::now() - started;
  report.sending = report.elapsed - report.listing;
  return report;
}

std::vector<PageRange> MemorySource::SentRanges(const AddressSpace& space) const {
  std::vector<PageRange> ranges;
  for (const PageRun& run : sent_.Of(space)) Append(ranges, {run.address, run.pages});
  return ranges;
}

absl::Status MemorySource::PutGone(const AddressSpace& space, std::span<const PageRange> ranges,
                                   PageSink& sink) {
  for (const PageRange& range : ranges) {
    const PageRun run{space, range.address, range.pages};
    RETURN_IF_ERROR(sink.PutZero(run));
    sent_.Remove(run);
  }
  return absl::OkStatus();
}

absl::Status MemorySource::Send(const MemoryChanges& changes, bool frozen, PageSink& sink,
                                RoundReport& report) {
  for (const AddressSpace& space : sent_.Spaces()) {
    const auto has = [&](const ProcessChanges& p) { return p.memory->space() == space; };
    if (std::any_of(changes.processes.begin(), changes.processes.end(), has)) continue;
    RETURN_IF_ERROR(PutGone(space, SentRanges(space), sink));
    sent_.Drop(space);
  }
  for (const ProcessChanges& process : changes.processes) {
    RETURN_IF_ERROR(SendProcess(process, frozen, sink, report));
  }
  return absl::OkStatus();
}

absl::Status MemorySource::SendProcess(const ProcessChanges& process, bool frozen, PageSink& sink,
                                       RoundReport& report) {
  const AddressSpace& space = process.memory->space();
  report.processes_unwatched += !process.watched;
  const std::vector<PageRange> sent = SentRanges(space);
  RETURN_IF_ERROR(PutGone(space, Subtract(sent, process.resident), sink));
  // A tracker knows what was written; what was never sent, or was gone for a while, we know.
  std::vector<PageRange> unchanged = Subtract(process.resident, process.changed);
  if (process.is_new) {
    unchanged.clear();
  } else {
    unchanged = Subtract(unchanged, Subtract(unchanged, sent));
  }
  report.pages_unchanged += CountPages(unchanged);
  std::vector<PageRange> ranges = Subtract(process.resident, unchanged);
  // Ranges are cut off at the front as they are sent.
  size_t first = 0;
  while (first < ranges.size()) {
    const uint64_t before = report.pages_sent;
    ASSIGN_OR_RETURN(uint64_t done, SendFront(*process.memory, std::span(ranges).subspan(first),
                                              frozen, sink, report));
    if (!frozen) {
      const uint64_t bytes = (report.pages_sent - before) * kPageSize;
      std::this_thread::sleep_for(rate_.Take(bytes, Clock::now()));
    }
    for (; done > 0 && done >= ranges[first].pages; ++first) done -= ranges[first].pages;
    if (done > 0) {
      ranges[first].address += done * kPageSize;
      ranges[first].pages -= done;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> MemorySource::SendFront(const ProcessMemory& memory,
                                                 std::span<const PageRange> ranges, bool frozen,
                                                 PageSink& sink, RoundReport& report) {
  // No more than is needed is asked for, and no more than is given is read.
  uint64_t wanted = 0;
  for (const PageRange& range : ranges) {
    wanted += range.pages;
    if (wanted >= kMostPages) break;
  }
  ASSIGN_OR_RETURN(const std::span<std::byte> room, sink.Acquire(std::min(wanted, kMostPages)));
  const uint64_t pages = room.size() / kPageSize;
  std::vector<PageRange> part;
  for (uint64_t taken = 0; taken < pages;) {
    const PageRange& range = ranges[part.size()];
    part.push_back({range.address, std::min(range.pages, pages - taken)});
    taken += part.back().pages;
  }
  absl::Status status = memory.Read(part, room, there_);

  // What is not zero is moved together at the front of the room.
  const AddressSpace& space = memory.space();
  std::vector<PageRange> zeros;
  std::vector<PageRange> gone;
  std::vector<PageRange> full;
  uint64_t page = 0;
  uint64_t kept = 0;
  for (const PageRange& range : part) {
    if (!status.ok()) break;
    for (uint64_t i = 0; i < range.pages; ++i, ++page) {
      const uint64_t address = range.address + i * kPageSize;
      const std::span<std::byte> bytes = room.subspan(page * kPageSize, kPageSize);
      if (!there_[page]) {
        if (frozen) {
          status = absl::DataLossError(absl::StrFormat(
              "page %#x of process %u exists and cannot be read", address, space.id));
          break;
        }
        Append(gone, {address, 1});
        continue;
      }
      tracker_->Sent(space, address, bytes);
      if (AllZero(bytes)) {
        Append(zeros, {address, 1});
        continue;
      }
      if (kept != page) std::memcpy(room.data() + kept * kPageSize, bytes.data(), kPageSize);
      ++kept;
      Append(full, {address, 1});
    }
  }
  if (!status.ok() || full.empty()) {
    sink.Discard();
    RETURN_IF_ERROR(status);
  } else {
    pieces_.clear();
    for (const PageRange& range : full) pieces_.push_back({space, range.address, range.pages});
    RETURN_IF_ERROR(sink.PutAll(pieces_));
    for (const PageRun& run : pieces_) sent_.Add(run);
    report.pages_sent += kept;
  }
  for (const PageRange& range : zeros) {
    const PageRun run{space, range.address, range.pages};
    RETURN_IF_ERROR(sink.PutZero(run));
    sent_.Add(run);
    report.pages_zero += run.pages;
  }
  RETURN_IF_ERROR(PutGone(space, gone, sink));
  return pages;
}

absl::Status MemorySource::Stage() {
  const std::string parent = absl::StrCat(stream_.folder(), "/", kParent);
  RETURN_IF_ERROR(MakeDirectories(parent, 0700));
  RETURN_IF_ERROR(
      WriteFileAtomic(absl::StrCat(parent, "/inventory.img"), EncodeParentInventory(), 0600));
  ASSIGN_OR_RETURN(CriuWork work, stream_.Open(kFinal, kParent));
  RETURN_IF_ERROR(Annotate(dumper_.stage(std::move(work)), "final dump"));
  staged_ = true;
  return absl::OkStatus();
}

absl::StatusOr<FinalList> MemorySource::Final(PageSink& sink, RoundReport& report) {
  if (!staged_) RETURN_IF_ERROR(Stage());
  staged_ = false;
  const TimePoint started = Clock::now();
  report = RoundReport();
  absl::StatusOr<MemoryChanges> changes = tracker_->ListLast();
  if (!changes.ok()) {
    Forget();
    return Annotate(changes.status(), "final round");
  }
  report.listing = Clock::now() - started;
  // CRIU stops the tree and looks around while we read; it changes none of the pages in the list
  // without telling, since all are clean now. The same page may come from us and then from it, and
  // only what has landed before stays below what comes after.
  const auto before = [&]() -> absl::Status {
    const TimePoint began = Clock::now();
    RETURN_IF_ERROR(Annotate(Send(*changes, /*frozen=*/true, sink, report), "final round"));
    RETURN_IF_ERROR(sink.Flush(Deadline::After(options_.flush_timeout)));
    report.sending = Clock::now() - began;
    return absl::OkStatus();
  };
  const auto has_parent = [](const AddressSpace& space) {
    return space.kind == AddressSpace::Kind::kProcess;
  };
  absl::StatusOr<PageServerResult> result =
      stream_.Serve(kFinal, dumper_.dump, has_parent, sink, before);
  absl::StatusOr<FinalList> list = absl::AbortedError("no list");
  if (result.ok()) {
    report.pages_from_criu = result->report.pages_sent;
    report.pages_sent += result->report.pages_sent;
    report.pages_zero += result->report.pages_zero;
    for (const FinalList::Entry& entry : result->list.entries) {
      if (entry.run.space.kind == AddressSpace::Kind::kSharedMemory && !entry.in_arena_before) {
        report.pages_shared += entry.run.pages;
      }
    }
    RoundReport settled;
    settled.pages_unchanged = result->report.pages_unchanged;
    list = SettleHoles(result->list, sent_, memory_, sink, settled);
    report.pages_sent += settled.pages_sent;
    report.pages_zero += settled.pages_zero;
  }
  // Nothing is tracked any more: should the component go on here, all is to be sent again.
  Forget();
  RETURN_IF_ERROR(Annotate(result.status(), "final dump"));
  RETURN_IF_ERROR(Annotate(list.status(), "final dump"));
  report.elapsed = Clock::now() - started;
  if (::unlink(absl::StrCat(final_images(), "/parent").c_str()) != 0 && errno != ENOENT) {
    return ErrnoStatus("remove the skeleton's link to its parent");
  }
  return list;
}

}  // namespace starling::checkpoint
