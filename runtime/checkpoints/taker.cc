#include "runtime/checkpoints/taker.h"

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "base/units.h"
#include "predictor/rate_estimator.h"
#include "runtime/migration/images.h"
#include "runtime/migration/make_source.h"
#include "runtime/migration/plan.h"
#include "runtime/preflight/host_facts.h"

namespace starling::checkpoints {

using checkpoint::kBlockBytes;
using checkpoint::kPageSize;

namespace {

// A call to the component's own keeper that starts nothing slow.
constexpr auto kKeeperTimeout = std::chrono::seconds(10);
// For the folder of images.
constexpr absl::string_view kWay = "checkpoint";
// Beyond what the component uses now: it may grow while it is copied.
constexpr double kArenaSlack = 1.125;
constexpr size_t kMostImageBytes = size_t{1} << 30;
// Copied at once by each thread.
constexpr size_t kRoomPages = 256;
constexpr auto kRateMemory = std::chrono::seconds(5);

// Cuts pages that come one after the other into blocks at multiples of kBlockBytes.
class BlockWriter {
 public:
  BlockWriter(checkpoint::StoreWriter& writer, std::vector<checkpoint::StoredRun>& runs)
      : writer_(writer), runs_(runs) {}

  absl::Status Add(checkpoint::PageRun run, std::span<const std::byte> bytes) {
    RETURN_IF_ERROR(Continue(run, /*zero=*/false));
    while (!bytes.empty()) {
      const uint64_t end = next_ + (kBlockBytes - next_ % kBlockBytes);
      const auto part = static_cast<size_t>(std::min<uint64_t>(bytes.size(), end - next_));
      block_.insert(block_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(part));
      bytes = bytes.subspan(part);
      next_ += part;
      runs_.back().run.pages += part / kPageSize;
      if (next_ == end) RETURN_IF_ERROR(Flush());
    }
    return absl::OkStatus();
  }

  absl::Status AddZero(const checkpoint::PageRun& run) {
    RETURN_IF_ERROR(Continue(run, /*zero=*/true));
    runs_.back().run.pages += run.pages;
    next_ += run.pages * kPageSize;
    return absl::OkStatus();
  }

  absl::Status Flush() {
    if (block_.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const uint32_t chunk, writer_.Put(block_));
    runs_.back().chunks.push_back(chunk);
    block_.clear();
    return absl::OkStatus();
  }

 private:
  absl::Status Continue(const checkpoint::PageRun& run, bool zero) {
    if (!runs_.empty() && runs_.back().run.space == run.space && runs_.back().zero == zero &&
        next_ == run.address && runs_.back().run.pages > 0) {
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(Flush());
    runs_.push_back({{run.space, run.address, 0}, zero, {}});
    next_ = run.address;
    return absl::OkStatus();
  }

  checkpoint::StoreWriter& writer_;
  std::vector<checkpoint::StoredRun>& runs_;
  std::vector<std::byte> block_;
  uint64_t next_ = 0;  // address of the page to come
};

}  // namespace

Taker::Taker(agent::Host& host, std::shared_ptr<agent::Copy> copy, v1::CheckpointAbout about,
             v1::CheckpointRequest request)
    : host_(host),
      hold_(host.config.run_dir),
      copy_(std::move(copy)),
      about_(std::move(about)),
      request_(std::move(request)) {}

Taker::~Taker() {
  if (!images_.empty()) (void)RemoveTree(images_);
}

void Taker::AddPhase(absl::string_view name, Duration took) {
  v1::PhaseTime* phase = response_.add_phases();
  phase->set_name(std::string(name));
  phase->set_seconds(Seconds(took));
}

absl::StatusOr<v1::CheckpointResponse> Taker::Run() {
  const TimePoint begun = Clock::now();
  RETURN_IF_ERROR(Prepare());
  if (const absl::Status copied = Rounds(); !copied.ok()) {
    // A tracker may have failed while it had the component frozen.
    (void)copy_->CancelCriu(Deadline::After(kKeeperTimeout));
    (void)LetRun();
    return Annotate(copied, "checkpoint");
  }
  RETURN_IF_ERROR(Instant());
  RETURN_IF_ERROR(Store());
  response_.set_total_s(Seconds(Clock::now() - begun));
  return response_;
}

absl::Status Taker::Prepare() {
  if (!request_.key_file().empty()) {
    ASSIGN_OR_RETURN(key_, checkpoint::StoreKey::Read(request_.key_file()));
  }
  checkpoint::StoreWriter::Options store;
  store.folder = request_.folder();
  store.key = key_ ? &*key_ : nullptr;
  store.belongs = [this](const std::string& about) -> absl::Status {
    v1::CheckpointAbout other;
    if (other.ParseFromString(about) && other.spec().name() == about_.spec().name()) {
      return absl::OkStatus();
    }
    return absl::FailedPreconditionError(
        absl::StrCat(request_.folder(), " has checkpoints of component ", other.spec().name(),
                     ": give each component a folder of its own"));
  };
  ASSIGN_OR_RETURN(writer_, checkpoint::StoreWriter::Begin(store));
  for (const std::string& damaged : writer_->damaged()) {
    host_.Event(about_.spec().name(), "checkpoint-damaged", damaged);
    response_.add_warnings(absl::StrCat(damaged, "; it was left alone"));
  }

  ASSIGN_OR_RETURN(const keeper::v1::Status status, copy_->Status(Deadline::After(kKeeperTimeout)));
  cgroup_ = status.cgroup();
  uint64_t resident = 0;
  if (auto current = ReadFile(absl::StrCat(cgroup_, "/memory.current")); current.ok()) {
    resident = std::strtoull(current->c_str(), nullptr, 10);
  }
  const auto needed = static_cast<uint64_t>(static_cast<double>(resident) * kArenaSlack);
  if (const uint64_t free = preflight::MemoryAvailable("/sys/fs/cgroup"); needed > free) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a checkpoint of ", about_.spec().name(), " needs ", FormatBytes(needed),
                     " of memory until it is written, and host ", host_.config.host, " has ",
                     FormatBytes(free)));
  }
  RETURN_IF_ERROR(migration::WaitUntilWhole(*copy_,
                                            Deadline::After(host_.config.migration.step_timeout),
                                            [] { return absl::OkStatus(); }));

  images_ = migration::ImagesPath(host_.config.run_dir, about_.spec().name(), kWay);
  RETURN_IF_ERROR(RemoveTree(images_));
  RETURN_IF_ERROR(MakeDirectories(images_, 0700));
  ASSIGN_OR_RETURN(arena_, checkpoint::Arena::Create({.name = "checkpoint"}));
  const int threads = host_.config.migration.capture_threads;
  sink_ =
      std::make_unique<checkpoint::LocalSink>(*arena_, kRoomPages, static_cast<size_t>(threads));
  dumps_ = std::make_unique<migration::KeeperDumps>(copy_, host_.config.migration.step_timeout);
  migration::SourceParts parts;
  ASSIGN_OR_RETURN(parts.tracker,
                   migration::ChooseTracker(host_.config.migration.tracker,
                                            migration::FactsFor(cgroup_, *host_.criu)));
  parts.criu = host_.criu->version;
  parts.folder = images_;
  parts.cgroup = cgroup_;
  parts.threads = threads;
  parts.step_timeout = host_.config.migration.step_timeout;
  parts.pre_dump = dumps_->PreDumper();
  parts.dumper = dumps_->Dumper();
  parts.freezer = [this](bool frozen) {
    const Deadline deadline = Deadline::After(host_.config.migration.freeze_timeout);
    return frozen ? copy_->Freeze(deadline, migration::kListTerm)
                  : copy_->Thaw(deadline, /*in_term=*/true);
  };
  ASSIGN_OR_RETURN(source_, migration::MakeSource(std::move(parts)));
  response_.set_tracker(source_->tracker_name());
  for (const std::string& path : about_.spec().ship()) {
    files_.emplace_back(path, writer_->seed(),
                        [this] { return checkpoint::WritableMappedFiles(cgroup_); });
  }
  return absl::OkStatus();
}

absl::Status Taker::ListFiles(bool last) {
  for (checkpoint::FileTracker& tracker : files_) {
    checkpoint::FileTracker::Report report;
    RETURN_IF_ERROR(Annotate(tracker.List(
                                 last,
                                 [this](const std::string&, checkpoint::FileBlock& block,
                                        std::span<const std::byte> bytes) -> absl::Status {
                                   ASSIGN_OR_RETURN(block.tag, writer_->Put(bytes));
                                   return absl::OkStatus();
                                 },
                                 report),
                             "shipped files"));
  }
  return absl::OkStatus();
}

absl::Status Taker::Rounds() {
  const TimePoint start = Clock::now();
  migration::PlanLimits limits;
  limits.max_rounds = static_cast<uint32_t>(host_.config.migration.max_rounds);
  limits.max_blackout_s = Seconds(host_.config.migration.max_blackout);
  migration::RoundFacts facts;
  predictor::RateEstimator copied(kRateMemory);
  predictor::RateEstimator dirty(kRateMemory);
  TimePoint round_began = start;
  while (true) {
    const migration::Plan plan = PlanNextRound(facts, limits);
    if (!plan.another_round) break;
    const TimePoint previous_began = std::exchange(round_began, Clock::now());
    RETURN_IF_ERROR(ListFiles(/*last=*/false));
    const absl::StatusOr<checkpoint::RoundReport> round = source_->Round(*sink_);
    RETURN_IF_ERROR(Annotate(round.status(), absl::StrCat("round ", facts.rounds_done + 1)));
    RETURN_IF_ERROR(sink_->Flush(Deadline::After(host_.config.migration.step_timeout)).status());
    const Duration took = Clock::now() - round_began;
    facts.deferred_bytes = round->pages_deferred * kPageSize;
    const uint64_t bytes = round->pages_sent * kPageSize + facts.deferred_bytes;
    facts.previous_round_bytes = std::exchange(facts.last_round_bytes, bytes);
    facts.last_round_s = Seconds(took);
    copied.Add(static_cast<double>(bytes), took);
    // What the second and later rounds copy was written since the round before it began.
    if (facts.rounds_done >= 1) dirty.Add(static_cast<double>(bytes), round_began - previous_began);
    facts.link_bytes_per_s = copied.rate_per_s();
    facts.dirty_bytes_per_s = dirty.rate_per_s();
    ++facts.rounds_done;
  }
  response_.set_rounds(facts.rounds_done);
  RETURN_IF_ERROR(Annotate(source_->Stage(), "stage the dump"));
  AddPhase("rounds", Clock::now() - start);
  return absl::OkStatus();
}

absl::Status Taker::Instant() {
  const TimePoint frozen_at = Clock::now();
  absl::Status status = copy_->Freeze(Deadline::After(host_.config.migration.freeze_timeout));
  if (status.ok()) status = copy_->FenceUp(Deadline::After(kKeeperTimeout));
  if (status.ok()) status = Capture();
  if (!status.ok()) (void)copy_->CancelCriu(Deadline::After(kKeeperTimeout));
  const absl::Status running = LetRun();
  response_.set_held_s(Seconds(Clock::now() - frozen_at));
  RETURN_IF_ERROR(Annotate(status, "checkpoint"));
  return running;
}

absl::Status Taker::Capture() {
  hold_.At("checkpoint-capture");
  timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  about_.set_time(static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9);
  about_.set_log_tail(migration::ReadLogTail(about_.log_path()));
  // The files' last round beside the memory's: one waits for the disk, the other for CRIU.
  std::future<std::pair<absl::Status, Duration>> files = std::async(std::launch::async, [this] {
    const TimePoint start = Clock::now();
    absl::Status status = ListFiles(/*last=*/true);
    return std::make_pair(std::move(status), Clock::now() - start);
  });
  const TimePoint start = Clock::now();
  checkpoint::RoundReport round;
  absl::StatusOr<checkpoint::FinalList> final = source_->Final(*sink_, round);
  const Duration dumped = Clock::now() - start;
  const auto [listed, took] = files.get();
  RETURN_IF_ERROR(final.status());
  RETURN_IF_ERROR(listed);
  final_ = *std::move(final);
  for (v1::PhaseTime phase : dumps_->phases().phases()) {
    phase.set_name(absl::StrCat("dump: ", phase.name()));
    *response_.add_phases() = std::move(phase);
  }
  AddPhase("dump", dumped);
  if (!files_.empty()) AddPhase("files", took);
  return absl::OkStatus();
}

// Both, whatever becomes of the first: the component is to run.
absl::Status Taker::LetRun() {
  absl::Status running = copy_->FenceDown(Deadline::After(kKeeperTimeout));
  running.Update(copy_->Thaw(Deadline::After(kKeeperTimeout)));
  if (!running.ok()) host_.Event(about_.spec().name(), "thaw-failed", running.message());
  return running;
}

absl::Status Taker::StoreMemory(checkpoint::StoredContent& content) {
  BlockWriter blocks(*writer_, content.memory);
  for (const checkpoint::FinalList::Entry& entry : final_.entries) {
    checkpoint::PageRun left = entry.run;
    if (left.pages == 0) {  // a space without any
      RETURN_IF_ERROR(blocks.Flush());
      content.memory.push_back({left, false, {}});
    }
    while (left.pages > 0) {
      const auto found = arena_->Find(left.space, left.address);
      if (!found) {
        return absl::FailedPreconditionError(
            absl::StrCat("the page at ", left.address, " of process or memory ", left.space.id,
                         " is part of the component, and was not copied"));
      }
      const checkpoint::PageRun part = {left.space, left.address,
                                        std::min(left.pages, found->pages)};
      if (found->slot == checkpoint::kZeroSlot) {
        RETURN_IF_ERROR(blocks.AddZero(part));
      } else {
        ASSIGN_OR_RETURN(const std::span<std::byte> bytes, arena_->Slots(found->slot, part.pages));
        RETURN_IF_ERROR(blocks.Add(part, bytes));
      }
      left.address += part.pages * kPageSize;
      left.pages -= part.pages;
    }
  }
  return blocks.Flush();
}

absl::Status Taker::StoreImages(checkpoint::StoredContent& content) {
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(source_->final_images(), error)) {
    const std::string name = item.path().filename().string();
    if (!item.is_regular_file(error) || item.is_symlink(error) ||
        !migration::IsSkeletonImage(name)) {
      continue;
    }
    ASSIGN_OR_RETURN(const std::string bytes, ReadFile(item.path().string(), kMostImageBytes));
    checkpoint::StoredImage image;
    image.name = name;
    ASSIGN_OR_RETURN(image.chunks, writer_->PutAll(bytes));
    content.images.push_back(std::move(image));
  }
  if (error) return ErrnoStatus(error.value(), "read the skeleton");
  return absl::OkStatus();
}

absl::Status Taker::Store() {
  const TimePoint start = Clock::now();
  checkpoint::StoredContent content;
  RETURN_IF_ERROR(StoreMemory(content));
  RETURN_IF_ERROR(StoreImages(content));
  for (const checkpoint::FileTracker& tracker : files_) {
    content.trees.push_back({tracker.root(), tracker.tree()});
  }
  content.about = about_.SerializeAsString();
  hold_.At("checkpoint-commit");
  ASSIGN_OR_RETURN(const checkpoint::StoreTotals totals,
                   writer_->Commit(std::move(content), request_.keep()));
  response_.set_number(writer_->number());
  response_.set_file(
      absl::StrCat(request_.folder(), "/", checkpoint::ManifestFileName(writer_->number())));
  response_.set_content_bytes(totals.content_bytes);
  response_.set_bytes_written(totals.bytes_written);
  response_.set_dropped(totals.dropped);
  response_.set_connections(about_.connections());
  AddPhase("store", Clock::now() - start);
  return absl::OkStatus();
}

}  // namespace starling::checkpoints
