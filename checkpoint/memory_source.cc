#include "checkpoint/memory_source.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/capture.h"
#include "checkpoint/criu_images.h"

namespace starling::checkpoint {
namespace {

constexpr char kFinal[] = "final";
constexpr char kParent[] = "parent";

// What a rate limit lets through at once: a quarter of a second's worth, so that the wire's own
// pace is smoothed and not chopped.
constexpr double kBurstSeconds = 0.25;
// Pages whose content is remembered, 8 bytes for each; those beyond are sent whenever they may have
// changed.
constexpr uint64_t kMostHashes = uint64_t{8} << 20;
// Runs of recently written pages that the final list names at most: beyond them it is no hint.
constexpr size_t kMostRecentRuns = 4096;

// Two lists that have so many times more pages in common than chance would have it know hot pages.
constexpr double kMoreThanChance = 2;

// Of a round, sent between two looks at whether to list again, in pages.
constexpr uint64_t kPartPages = 8192;
// How fast it is written to is only known from a second list. That comes when so many times as long
// as the first took has passed.
constexpr double kFirstAgain = 4;

}  // namespace

double ListAgainAfter_s(double cost_s, uint64_t resident, double written_per_s) {
  return std::sqrt(2 * cost_s * static_cast<double>(resident) / std::max(written_per_s, 1e-3));
}

std::vector<PageRange> HotPages(const std::vector<PageRange>& changed,
                                const std::vector<PageRange>& before, uint64_t resident) {
  std::vector<PageRange> both = Intersect(changed, before);
  const double chance = static_cast<double>(CountPages(changed)) *
                        static_cast<double>(CountPages(before)) /
                        static_cast<double>(std::max<uint64_t>(1, resident));
  if (static_cast<double>(CountPages(both)) < kMoreThanChance * chance) both.clear();
  return both;
}

MemorySource::MemorySource(Options options, std::unique_ptr<Tracker> tracker, CriuDumper dumper,
                           FrozenMemoryOpener memory)
    : options_(std::move(options)),
      tracker_(std::move(tracker)),
      dumper_(std::move(dumper)),
      memory_(std::move(memory)),
      stream_(options_.version, options_.folder),
      rate_limit_(options_.max_rate ? options_.max_rate() : options_.max_rate_bytes_per_s),
      rate_(rate_limit_, rate_limit_ * kBurstSeconds),
      hashes_(kMostHashes) {}

std::string MemorySource::final_images() const {
  return absl::StrCat(stream_.folder(), "/", kFinal);
}

void MemorySource::Forget() {
  tracker_->Forget();
  writes_ = Writes();
  renewed_.clear();
  renewed_now_.clear();
  sent_.Clear();
  hashes_.Clear();
  recent_.clear();
}

void MemorySource::ForgetSentByOthers(const FinalList& list) {
  for (const FinalList::Entry& entry : list.entries) {
    if (entry.in_arena_before) continue;
    sent_.Remove(entry.run);
    hashes_.Erase(entry.run);
  }
  recent_.clear();
}

Duration MemorySource::Pause(uint64_t bytes) {
  if (options_.max_rate) {
    const double limit = options_.max_rate();
    if (limit != rate_limit_) rate_ = TokenBucket(limit, limit * kBurstSeconds);
    rate_limit_ = limit;
  }
  return rate_.Take(bytes, Clock::now());
}

absl::StatusOr<RoundReport> MemorySource::Round(PageSink& sink) {
  const TimePoint started = Clock::now();
  RoundReport report;
  absl::StatusOr<MemoryChanges> changes = tracker_->List();
  report.listing = Clock::now() - started;
  absl::Status status = changes.status();
  if (status.ok()) {
    report.paused = changes->paused;
    Learn(*changes, started, report.listing);
    round_listed_ = started;
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
    hashes_.Erase(run);
  }
  return absl::OkStatus();
}

void MemorySource::Learn(const MemoryChanges& changes, TimePoint began, Duration took) {
  uint64_t resident = 0, changed = 0;
  for (const ProcessChanges& process : changes.processes) {
    resident += CountPages(process.resident);
    // Others have everything as written, which says nothing of how fast they write.
    if (!process.is_new && process.watched) changed += CountPages(process.changed);
  }
  writes_.known = writes_.listed != TimePoint{};
  if (writes_.known) {
    writes_.written_per_s =
        static_cast<double>(changed) / std::max(1e-3, Seconds(began - writes_.listed));
  }
  writes_.listed = began;
  writes_.cost = took;
  writes_.resident = resident;
}

absl::Status MemorySource::ListAgain(const AddressSpace& space, std::span<const PageRange> unsent,
                                     RoundReport& report) {
  const TimePoint began = Clock::now();
  const double cost_s = Seconds(writes_.cost);
  const double due_s = writes_.known
                           ? ListAgainAfter_s(cost_s, writes_.resident, writes_.written_per_s)
                           : kFirstAgain * cost_s;
  if (Seconds(began - writes_.listed) < due_s) return absl::OkStatus();
  ASSIGN_OR_RETURN(const MemoryChanges changes, tracker_->List());
  for (const ProcessChanges& process : changes.processes) {
    const AddressSpace& of = process.memory->space();
    if (process.is_new) {
      renewed_now_.insert(of);
      continue;
    }
    std::vector<PageRange> written = Intersect(process.changed, SentRanges(of));
    if (of == space) written = Subtract(written, unsent);
    std::vector<PageRange>& again = recent_[of].again;
    again = Unite(again, written);
  }
  const Duration took = Clock::now() - began;
  Learn(changes, began, took);
  report.listing += took;
  report.paused += changes.paused;
  ++report.lists;
  return absl::OkStatus();
}

absl::Status MemorySource::Send(const MemoryChanges& changes, bool frozen, PageSink& sink,
                                RoundReport& report) {
  renewed_ = std::exchange(renewed_now_, {});
  for (const AddressSpace& space : sent_.Spaces()) {
    const auto has = [&](const ProcessChanges& p) { return p.memory->space() == space; };
    if (std::any_of(changes.processes.begin(), changes.processes.end(), has)) continue;
    RETURN_IF_ERROR(PutGone(space, SentRanges(space), sink));
    sent_.Drop(space);
    hashes_.Drop(space);
    recent_.erase(space);
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
  Recent& recent = recent_[space];
  const bool is_new = process.is_new || renewed_.contains(space);
  if (is_new) {
    recent = Recent();
    hashes_.Drop(space);
  }
  const std::vector<PageRange> changed = Unite(process.changed, std::exchange(recent.again, {}));
  // A tracker knows what was written; what was never sent, or was gone for a while, we know.
  const std::vector<PageRange> stale = Unite(changed, recent.deferred);
  std::vector<PageRange> unchanged = Subtract(process.resident, stale);
  if (is_new) {
    unchanged.clear();
  } else {
    unchanged = Intersect(unchanged, sent);
  }
  report.pages_unchanged += CountPages(unchanged);
  std::vector<PageRange> ranges = Subtract(process.resident, unchanged);
  if (!frozen) {
    const bool tells = tracker_->knows_writes() && process.watched && !is_new;
    recent.deferred.clear();
    if (tells) {
      recent.deferred =
          Intersect(HotPages(changed, recent.changed, CountPages(process.resident)), sent);
      ranges = Subtract(ranges, recent.deferred);
      report.pages_deferred += CountPages(Intersect(recent.deferred, process.resident));
    }
    // The first list of a process has everything, which says nothing of how often it is written.
    recent.changed.clear();
    if (tells) recent.changed = changed;
  }
  if (frozen && tracker_->knows_writes() && process.watched && !is_new) {
    Remember(space, Intersect(changed, recent.changed));
    Remember(space, Subtract(changed, recent.changed));
    Remember(space, Subtract(recent.changed, changed));
  }
  CaptureOptions capture;
  capture.threads = options_.threads;
  capture.frozen = frozen;
  // Where the tracker cannot tell which pages were written, those that are as they were sent stay.
  capture.hash = !tracker_->exact() || !process.watched;
  if (capture.hash || !tracker_->knows_writes()) {
    capture.wanted = [&](const CaptureOptions::Read& page) {
      tracker_->Sent(space, page.address, page.bytes);
      if (page.hash == 0) return true;
      if (hashes_.Find(space, page.address) == page.hash) return false;
      hashes_.Set(space, page.address, page.hash);
      return true;
    };
  }
  if (!frozen) {
    capture.pace = [this](uint64_t bytes, Duration worked) {
      const Duration pause = Pause(bytes);
      return options_.hold_back ? std::max(pause, options_.hold_back(bytes, worked)) : pause;
    };
  }
  // What was written since the last list comes first.
  std::vector<PageRange> written;
  if (frozen && !is_new) written = Intersect(ranges, changed);
  const bool lists = !frozen && tracker_->knows_writes() && process.watched;
  const auto send = [&](const std::vector<PageRange>& part) -> absl::Status {
    if (part.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const Captured captured, Capture(*process.memory, part, sink, capture));
    for (const PageRange& range : captured.sent) sent_.Add({space, range.address, range.pages});
    for (const PageRange& range : captured.zero) sent_.Add({space, range.address, range.pages});
    report.pages_unchanged += CountPages(captured.kept);
    report.held_back += captured.paced;
    report.pages_sent += CountPages(captured.sent);
    report.pages_zero += CountPages(captured.zero);
    if (lists) {
      const double share = static_cast<double>(CountPages(captured.sent)) /
                           static_cast<double>(std::max<uint64_t>(1, writes_.resident));
      report.listed_after +=
          std::chrono::duration_cast<Duration>((writes_.listed - round_listed_) * share);
    }
    return PutGone(space, captured.gone, sink);
  };
  RETURN_IF_ERROR(send(written));
  RangeQueue unsent(Subtract(ranges, written));
  while (!unsent.empty()) {
    RETURN_IF_ERROR(send(unsent.Take(lists ? kPartPages : ~uint64_t{0})));
    if (lists && !unsent.empty()) RETURN_IF_ERROR(ListAgain(space, unsent.left(), report));
  }
  return absl::OkStatus();
}

void MemorySource::Remember(const AddressSpace& space, const std::vector<PageRange>& ranges) {
  for (const PageRange& range : ranges) {
    if (written_last_.size() == kMostRecentRuns) return;
    written_last_.push_back({space, range.address, range.pages});
  }
}

void MemorySource::Resend(std::span<const PageRun> runs) {
  for (const PageRun& run : runs) {
    sent_.Remove(run);
    hashes_.Erase(run);
  }
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
  written_last_.clear();
  const TimePoint started = Clock::now();
  report = RoundReport();
  const bool goes_on = options_.goes_on && tracker_->goes_on();
  absl::StatusOr<MemoryChanges> changes = goes_on ? tracker_->ListFrozen() : tracker_->ListLast();
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
    PageSink& to = held_back_ != nullptr ? *held_back_ : sink;
    RETURN_IF_ERROR(Annotate(Send(*changes, /*frozen=*/true, to, report), "final round"));
    ASSIGN_OR_RETURN(const std::vector<PageRun> refused,
                     to.Flush(Deadline::After(options_.flush_timeout)));
    // CRIU will list them as unchanged, and they are found to be missing then.
    Resend(refused);
    for (const PageRun& run : refused) report.pages_resent += run.pages;
    report.sending = Clock::now() - began;
    return absl::OkStatus();
  };
  const auto has_parent = [](const AddressSpace& space) {
    return space.kind == AddressSpace::Kind::kProcess;
  };
  LateFrozenMemory memory(memory_);
  absl::StatusOr<PageServerResult> result =
      stream_.Serve(kFinal, dumper_.dump, has_parent, sink, &memory, before);
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
    Resend(result->distrusted);
    list = SettleHoles(result->list, sent_, memory, sink, settled);
    report.pages_sent += settled.pages_sent;
    report.pages_zero += settled.pages_zero;
  }
  if (list.ok()) list->recent = std::exchange(written_last_, {});
  if (goes_on && list.ok()) {
    ForgetSentByOthers(result->list);
  } else {
    // Nothing is tracked any more: should the component go on here, all is to be sent again.
    Forget();
  }
  RETURN_IF_ERROR(Annotate(result.status(), "final dump"));
  RETURN_IF_ERROR(Annotate(list.status(), "final dump"));
  report.elapsed = Clock::now() - started;
  if (::unlink(absl::StrCat(final_images(), "/parent").c_str()) != 0 && errno != ENOENT) {
    return ErrnoStatus("remove the skeleton's link to its parent");
  }
  return list;
}

}  // namespace starling::checkpoint
