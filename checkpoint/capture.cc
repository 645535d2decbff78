#include "checkpoint/capture.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "checkpoint/page_hashes.h"
#include "checkpoint/zero_page.h"

namespace starling::checkpoint {
namespace {

// Read at once, in pages.
constexpr uint64_t kMostPages = 1024;
// What is worth a second thread, in pages for each thread.
constexpr uint64_t kPagesPerThread = 2048;

void SortAndJoin(std::vector<PageRange>& ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const PageRange& a, const PageRange& b) { return a.address < b.address; });
  std::vector<PageRange> joined;
  for (const PageRange& range : ranges) Append(joined, range);
  ranges = std::move(joined);
}

class Work {
 public:
  Work(const ProcessMemory& memory, std::vector<PageRange> ranges, const CaptureOptions& options)
      : memory_(memory), options_(options), queue_(std::move(ranges)) {}

  // One thread's part, through a lane of its own.
  void Run(PageLane& lane) {
    std::vector<bool> there;
    while (true) {
      std::vector<PageRange> taken;
      {
        std::lock_guard lock(mutex_);
        if (!failed_.ok() || queue_.empty()) return;
        taken = queue_.Take(kMostPages);
      }
      RangeQueue part(std::move(taken));
      while (!part.empty()) {
        const absl::Status status = SendFront(part, lane, there);
        if (!status.ok()) {
          std::lock_guard lock(mutex_);
          if (failed_.ok()) failed_ = status;
          return;
        }
      }
    }
  }

  absl::StatusOr<Captured> Result() && {
    RETURN_IF_ERROR(failed_);
    for (auto* ranges : {&all_.sent, &all_.zero, &all_.kept, &all_.gone}) SortAndJoin(*ranges);
    return std::move(all_);
  }

 private:
  // As much of `part` as the lane has room for.
  absl::Status SendFront(RangeQueue& part, PageLane& lane, std::vector<bool>& there) {
    ASSIGN_OR_RETURN(const std::span<std::byte> room, lane.Acquire(CountPages(part.left())));
    const std::vector<PageRange> now = part.Take(room.size() / kPageSize);
    Captured found;
    const TimePoint began = Clock::now();
    absl::Status status = memory_.Read(now, room, there);
    if (status.ok()) status = Sort(now, room, there, found);
    const Duration worked = Clock::now() - began;
    if (!status.ok() || found.sent.empty()) {
      lane.Discard();
      RETURN_IF_ERROR(status);
    } else {
      RETURN_IF_ERROR(lane.PutAll(Runs(found.sent)));
    }
    for (const PageRun& run : Runs(found.zero)) RETURN_IF_ERROR(lane.PutZero(run));
    Duration pause{};
    {
      std::lock_guard lock(mutex_);
      if (options_.pace) pause = options_.pace(CountPages(found.sent) * kPageSize, worked);
      const auto add = [](std::vector<PageRange>& to, const std::vector<PageRange>& more) {
        for (const PageRange& range : more) Append(to, range);
      };
      add(all_.sent, found.sent);
      add(all_.zero, found.zero);
      all_.paced += pause;
      add(all_.kept, found.kept);
      add(all_.gone, found.gone);
    }
    if (pause > Duration::zero()) std::this_thread::sleep_for(pause);
    return absl::OkStatus();
  }

  // Tells pages with content, of zeros and gone ones apart; moves those with content together at
  // the front of the room.
  absl::Status Sort(const std::vector<PageRange>& part, std::span<std::byte> room,
                    const std::vector<bool>& there, Captured& found) {
    uint64_t page = 0;
    uint64_t kept = 0;
    for (const PageRange& range : part) {
      for (uint64_t i = 0; i < range.pages; ++i, ++page) {
        const uint64_t address = range.address + i * kPageSize;
        const std::span<std::byte> bytes = room.subspan(page * kPageSize, kPageSize);
        if (!there[page]) {
          if (options_.frozen) {
            return absl::DataLossError(absl::StrFormat(
                "page %#x of process %u exists and cannot be read", address, memory_.space().id));
          }
          Append(found.gone, {address, 1});
          continue;
        }
        if (options_.wanted) {
          const uint64_t hash = options_.hash ? PageHashes::Of(bytes) : 0;
          std::lock_guard lock(mutex_);
          if (!options_.wanted({address, bytes, hash})) {
            Append(found.kept, {address, 1});
            continue;
          }
        }
        if (AllZero(bytes)) {
          Append(found.zero, {address, 1});
          continue;
        }
        if (kept != page) std::memcpy(room.data() + kept * kPageSize, bytes.data(), kPageSize);
        ++kept;
        Append(found.sent, {address, 1});
      }
    }
    return absl::OkStatus();
  }

  std::vector<PageRun> Runs(const std::vector<PageRange>& ranges) const {
    std::vector<PageRun> runs;
    runs.reserve(ranges.size());
    for (const PageRange& range : ranges) {
      runs.push_back({memory_.space(), range.address, range.pages});
    }
    return runs;
  }

  const ProcessMemory& memory_;
  const CaptureOptions& options_;
  std::mutex mutex_;  // guards all below, and the calls of options_
  RangeQueue queue_;
  absl::Status failed_;
  Captured all_;
};

}  // namespace

absl::StatusOr<Captured> Capture(const ProcessMemory& memory, std::vector<PageRange> ranges,
                                 PageSink& sink, const CaptureOptions& options) {
  const size_t worth = std::max<uint64_t>(1, CountPages(ranges) / kPagesPerThread);
  const std::span<PageLane* const> lanes = sink.lanes();
  const size_t threads =
      std::min({static_cast<size_t>(std::max(options.threads, 1)), worth, lanes.size()});
  Work work(memory, std::move(ranges), options);
  if (threads < 2) {
    work.Run(sink);
  } else {
    std::vector<std::jthread> others;
    for (size_t i = 1; i < threads; ++i) {
      others.emplace_back([&work, lane = lanes[i]] { work.Run(*lane); });
    }
    work.Run(*lanes[0]);
  }
  absl::StatusOr<Captured> captured = std::move(work).Result();
  if (captured.ok()) captured->paced /= static_cast<Duration::rep>(std::max<size_t>(threads, 1));
  return captured;
}

}  // namespace starling::checkpoint
