#include "runtime/migration/resuming_lane.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"

namespace starling::migration {

using checkpoint::kPageSize;
using checkpoint::PageRun;

namespace {

// One attempt at a new connection: the first is short, and later ones take as much longer each, up
// to the most. A cancel waits for it.
constexpr auto kFirstTry = std::chrono::seconds(1);
constexpr auto kLongestTry = std::chrono::seconds(3);
// Between two, where the first fails at once, as without a route to the target.
constexpr Duration kPause = std::chrono::milliseconds(250);
// So many come one pause after the other.
constexpr int kSoonAgain = 60;
// Refusals in a row that say that the target does not know the migration any more. One may have
// another reason: somebody used that number.
constexpr int kRefusals = 3;
// An attempt's number is a byte of the connection request.
constexpr uint32_t kMostAttempts = 255;

// Retries were used up, or one end has gone. What a peer says against the protocol, a deadline, and
// our own Shutdown() are something else.
bool Lost(const absl::Status& status) { return absl::IsUnavailable(status); }

}  // namespace

std::vector<PageRun> Merge(std::vector<PageRun> runs) {
  std::sort(runs.begin(), runs.end(), [](const PageRun& a, const PageRun& b) {
    return std::tie(a.space, a.address) < std::tie(b.space, b.address);
  });
  std::vector<PageRun> merged;
  for (const PageRun& run : runs) {
    const uint64_t end = run.address + run.pages * kPageSize;
    if (!merged.empty() && merged.back().space == run.space &&
        merged.back().address + merged.back().pages * kPageSize >= run.address) {
      PageRun& last = merged.back();
      last.pages = std::max(last.pages, (end - last.address) / kPageSize);
    } else {
      merged.push_back(run);
    }
  }
  return merged;
}

absl::StatusOr<std::unique_ptr<ResumingLane>> ResumingLane::Create(Open open, Duration patience,
                                                                   Deadline deadline) {
  std::unique_ptr<ResumingLane> lane(new ResumingLane(std::move(open), patience));
  ASSIGN_OR_RETURN(lane->writer_, lane->open_(0, deadline));
  return lane;
}

template <typename Operation>
absl::Status ResumingLane::Do(Operation operation, std::span<const PageRun> put) {
  RETURN_IF_ERROR(failed_);
  const absl::Status status = operation(*writer_);
  if (status.ok() || !Lost(status)) return status;
  return Resume(status, put);
}

absl::StatusOr<std::span<std::byte>> ResumingLane::Acquire(size_t pages) {
  while (true) {
    RETURN_IF_ERROR(failed_);
    absl::StatusOr<std::span<std::byte>> room = writer_->Acquire(pages);
    if (room.ok() || !Lost(room.status())) return room;
    RETURN_IF_ERROR(Resume(room.status(), {}));
  }
}

absl::Status ResumingLane::PutAll(std::span<const PageRun> runs) {
  return Do([&](LaneWriter& writer) { return writer.PutAll(runs); }, runs);
}

absl::Status ResumingLane::PutZero(const PageRun& run) {
  return Do([&](LaneWriter& writer) { return writer.PutZero(run); }, {&run, 1});
}

absl::Status ResumingLane::SendBatch() {
  return Do([](LaneWriter& writer) { return writer.SendBatch(); }, {});
}

absl::Status ResumingLane::AskForAnswer() {
  // Of a connection that was made meanwhile nothing is left to be asked for.
  return Do([](LaneWriter& writer) { return writer.AskForAnswer(); }, {});
}

absl::Status ResumingLane::WaitForAnswer(Deadline deadline, std::vector<PageRun>& refused) {
  RETURN_IF_ERROR(
      Do([&](LaneWriter& writer) { return writer.WaitForAnswer(deadline, refused); }, {}));
  refused.insert(refused.end(), refused_.begin(), refused_.end());
  refused_.clear();
  return absl::OkStatus();
}

void ResumingLane::DamageNextPage() {
  if (writer_ != nullptr) writer_->DamageNextPage();
}

absl::Status ResumingLane::Resume(const absl::Status& why, std::span<const PageRun> put) {
  if (patience_ <= Duration::zero()) return why;
  {
    // A connection that our own Shutdown() ended is not made again.
    const std::lock_guard lock(mutex_);
    if (shut_down_) return why;
  }
  std::vector<PageRun> unanswered = writer_->Unanswered();
  unanswered.insert(unanswered.end(), put.begin(), put.end());
  unanswered = Merge(std::move(unanswered));
  uint64_t pages = 0;
  for (const PageRun& run : unanswered) pages += run.pages;
  refused_.insert(refused_.end(), unanswered.begin(), unanswered.end());
  before_ += writer_->counts();
  before_.resent_pages += pages;
  spdlog::warn("a data connection was lost and is made again; {} pages were not answered for: {}",
               pages, why.ToString());
  // The old one goes first: nothing of it is under way when pages are sent again.
  std::unique_ptr<LaneWriter> old;
  {
    const std::lock_guard lock(mutex_);
    bytes_before_ += writer_->bytes_sent();
    old = std::move(writer_);
  }
  old.reset();
  absl::StatusOr<std::unique_ptr<LaneWriter>> made = Reopen(why);
  const std::lock_guard lock(mutex_);
  if (made.ok() && shut_down_) made = absl::CancelledError("the stream was shut down");
  if (!made.ok()) {
    failed_ = made.status();
    return failed_;
  }
  writer_ = *std::move(made);
  ++resumed_;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<LaneWriter>> ResumingLane::Reopen(const absl::Status& why) {
  const Deadline patience = Deadline::After(patience_);
  // Later ones no faster than that there are attempts left until the end.
  const Duration later = std::max(kPause, patience_ / std::max(1u, kMostAttempts - attempt_));
  int refusals = 0;
  absl::Status last = absl::UnavailableError("no more attempts are left");
  for (int tries = 1; attempt_ < kMostAttempts; ++tries) {
    const Duration left = patience.Left();
    absl::StatusOr<std::unique_ptr<LaneWriter>> made = open_(
        ++attempt_, Deadline::After(std::min<Duration>({left, kFirstTry * tries, kLongestTry})));
    if (made.ok()) {
      spdlog::info("a data connection was made again, at attempt {}", attempt_);
      return made;
    }
    last = made.status();
    refusals = absl::IsPermissionDenied(last) ? refusals + 1 : 0;
    if (refusals == kRefusals || patience.Passed()) break;
    std::unique_lock lock(mutex_);
    if (ended_.wait_for(lock, tries < kSoonAgain ? kPause : later, [this] { return shut_down_; }))
      return absl::CancelledError("the stream was shut down");
  }
  return absl::Status(
      why.code(), absl::StrCat(why.message(), "; it could not be made again: ", last.message()));
}

LaneCounts ResumingLane::counts() const {
  LaneCounts all = before_;
  if (writer_ != nullptr) all += writer_->counts();
  return all;
}

uint64_t ResumingLane::bytes_sent() const {
  const std::lock_guard lock(mutex_);
  return bytes_before_ + (writer_ != nullptr ? writer_->bytes_sent() : 0);
}

void ResumingLane::Shutdown() {
  const std::lock_guard lock(mutex_);
  shut_down_ = true;
  if (writer_ != nullptr) writer_->Shutdown();
  ended_.notify_all();
}

}  // namespace starling::migration
