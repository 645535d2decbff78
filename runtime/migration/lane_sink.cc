#include "runtime/migration/lane_sink.h"

#include <sys/mman.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "checkpoint/arena.h"
#include "runtime/names.h"

namespace starling::migration {

using checkpoint::kPageSize;
using checkpoint::PageRun;
using checkpoint::SlotRun;

namespace {

// A target that does not take what was written for this long is given up.
constexpr auto kStuck = std::chrono::seconds(30);
// Room asked for at once when the arena is full, so that a growing component does not ask for every
// page.
constexpr uint64_t kGrowBytes = 32u << 20;
constexpr auto kTellEvery = std::chrono::milliseconds(100);

}  // namespace

LaneOptions LaneOptionsFrom(const Config::Data& data) {
  return {data.queue_pairs, data.slab_bytes, data.slabs};
}

absl::StatusOr<std::shared_ptr<LaneSink>> LaneSink::Connect(transport::Fabric& fabric,
                                                            const LaneOptions& options,
                                                            const v1::ReserveResponse& granted,
                                                            Grow grow, Deadline deadline) {
  auto sink = std::shared_ptr<LaneSink>(new LaneSink(options, std::move(grow)));
  sink->pool_bytes_ = options.slab_bytes * static_cast<size_t>(options.slabs);
  void* pool = ::mmap(nullptr, sink->pool_bytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pool == MAP_FAILED)
    return ErrnoStatus(absl::StrCat("allocate ", sink->pool_bytes_, " bytes of slabs"));
  sink->pool_ = static_cast<std::byte*>(pool);
  for (int i = 0; i < options.slabs; ++i) {
    Slab& slab = sink->slabs_.emplace_back();
    slab.memory = {sink->pool_ + static_cast<size_t>(i) * options.slab_bytes, options.slab_bytes};
    ASSIGN_OR_RETURN(slab.region, fabric.Register(slab.memory, transport::Access::kLocal));
  }
  for (const v1::ArenaChunk& chunk : granted.chunks()) RETURN_IF_ERROR(sink->AddChunk(chunk));
  ASSIGN_OR_RETURN(const Endpoint endpoint, ParseEndpoint(granted.data_address()));
  for (int i = 0; i < options.queue_pairs; ++i) {
    ASSIGN_OR_RETURN(std::unique_ptr<transport::Connection> connection,
                     fabric.Connect(endpoint.address, endpoint.port, granted.token(), deadline));
    sink->lanes_.push_back({std::move(connection), 0});
  }
  return sink;
}

LaneSink::~LaneSink() {
  lanes_.clear();
  slabs_.clear();
  if (pool_ != nullptr) ::munmap(pool_, pool_bytes_);
}

absl::Status LaneSink::AddChunk(const v1::ArenaChunk& chunk) {
  if (chunk.bytes() == 0 || chunk.bytes() % kPageSize != 0) {
    return absl::DataLossError(
        absl::StrCat("the target granted a chunk of ", chunk.bytes(), " bytes, not whole pages"));
  }
  const uint64_t first = chunks_.empty() ? 0 : chunks_.back().first_slot + chunks_.back().slots;
  chunks_.push_back({first, chunk.bytes() / kPageSize, chunk.address(), chunk.rkey()});
  slots_.SetCapacity(first + chunks_.back().slots);
  return absl::OkStatus();
}

absl::StatusOr<std::span<std::byte>> LaneSink::Acquire(size_t pages) {
  const size_t left = options_.slab_bytes - used_;
  if (left < kPageSize || batch_.runs.size() >= kMaxBatchRuns)
    RETURN_IF_ERROR(SendBatch(/*flush=*/false));
  Slab& slab = CurrentSlab();
  if (!current_free_) {
    if (slab.message > 0) {
      RETURN_IF_ERROR(
          lanes_[slab.lane].connection->WaitCompleted(slab.message, Deadline::After(kStuck)));
    }
    current_free_ = true;
  }
  const size_t room = (options_.slab_bytes - used_) / kPageSize;
  return slab.memory.subspan(used_, std::min(pages, room) * kPageSize);
}

absl::Status LaneSink::Put(const PageRun& run) {
  const size_t bytes = run.pages * kPageSize;
  if (bytes == 0 || bytes > options_.slab_bytes - used_) {
    return absl::InternalError(
        absl::StrCat("a run of ", run.pages, " pages was put that was not acquired"));
  }
  if (const uint64_t shortage = slots_.Shortage(run); shortage > 0) {
    ASSIGN_OR_RETURN(const std::vector<v1::ArenaChunk> more,
                     grow_(std::max(shortage * kPageSize, kGrowBytes)));
    for (const v1::ArenaChunk& chunk : more) RETURN_IF_ERROR(AddChunk(chunk));
  }
  ASSIGN_OR_RETURN(const std::vector<SlotRun> placed, slots_.Assign(run));
  for (const SlotRun& piece : placed) {
    const size_t piece_bytes = piece.pages * kPageSize;
    RETURN_IF_ERROR(WriteSlots(piece.slot, piece.pages, used_));
    BatchRun entry;
    entry.run = {run.space, piece.address, piece.pages};
    entry.slot = piece.slot;
    entry.hash = checkpoint::HashPages(CurrentSlab().memory.subspan(used_, piece_bytes));
    batch_.runs.push_back(entry);
    used_ += piece_bytes;
    if (batch_.runs.size() >= kMaxBatchRuns && &piece != &placed.back()) {
      RETURN_IF_ERROR(SendBatchWithinSlab());
    }
  }
  if (progress_ && Clock::now() - told_ > kTellEvery) {
    told_ = Clock::now();
    progress_(bytes_sent());
  }
  return absl::OkStatus();
}

absl::Status LaneSink::PutAll(std::span<const PageRun> runs) {
  for (const PageRun& run : runs) {
    if (batch_.runs.size() >= kMaxBatchRuns) RETURN_IF_ERROR(SendBatchWithinSlab());
    RETURN_IF_ERROR(Put(run));
  }
  return absl::OkStatus();
}

absl::Status LaneSink::SendBatchWithinSlab() {
  const size_t used = used_;
  const size_t slab = current_;
  const size_t lane = lane_;
  RETURN_IF_ERROR(SendBatch(/*flush=*/false));
  current_ = slab;
  lane_ = lane;
  used_ = used;
  current_free_ = true;
  return absl::OkStatus();
}

void LaneSink::Discard() {}

absl::Status LaneSink::PutZero(const PageRun& run) {
  slots_.Zero(run);
  if (batch_.runs.size() >= kMaxBatchRuns) RETURN_IF_ERROR(SendBatch(/*flush=*/false));
  BatchRun entry;
  entry.run = run;
  entry.zero = true;
  batch_.runs.push_back(entry);
  return absl::OkStatus();
}

// Slots are adjacent in the arena's numbering, but chunks are not adjacent in the peer's memory.
absl::Status LaneSink::WriteSlots(uint64_t slot, uint64_t pages, size_t slab_offset) {
  while (pages > 0) {
    auto chunk =
        std::upper_bound(chunks_.begin(), chunks_.end(), slot,
                         [](uint64_t wanted, const Chunk& c) { return wanted < c.first_slot; });
    if (chunk == chunks_.begin()) return absl::InternalError("a slot before the first chunk");
    --chunk;
    const uint64_t inside = slot - chunk->first_slot;
    const uint64_t now = std::min(pages, chunk->slots - inside);
    RETURN_IF_ERROR(lanes_[lane_].connection->Write(
        *CurrentSlab().region, slab_offset, now * kPageSize, chunk->address + inside * kPageSize,
        chunk->rkey, Deadline::After(kStuck)));
    slot += now;
    pages -= now;
    slab_offset += now * kPageSize;
  }
  return absl::OkStatus();
}

absl::Status LaneSink::SendBatch(bool flush) {
  if (batch_.runs.empty() && !flush) return absl::OkStatus();
  Lane& lane = lanes_[lane_];
  batch_.sequence = ++lane.sequence;
  batch_.flush = flush;
  ASSIGN_OR_RETURN(const uint64_t message,
                   lane.connection->Send(EncodeBatch(batch_), Deadline::After(kStuck)));
  batch_.runs.clear();
  Slab& slab = CurrentSlab();
  slab.lane = lane_;
  slab.message = message;
  current_ = (current_ + 1) % slabs_.size();
  current_free_ = false;
  used_ = 0;
  lane_ = (lane_ + 1) % lanes_.size();
  return absl::OkStatus();
}

absl::Status LaneSink::Flush(Deadline deadline) {
  RETURN_IF_ERROR(SendBatch(/*flush=*/false));
  for (size_t i = 0; i < lanes_.size(); ++i) RETURN_IF_ERROR(SendBatch(/*flush=*/true));
  for (Lane& lane : lanes_) {
    ASSIGN_OR_RETURN(const std::string bytes, lane.connection->Receive(deadline));
    ASSIGN_OR_RETURN(const Answer answer, DecodeAnswer(bytes));
    if (!answer.ok)
      return absl::DataLossError(
          absl::StrCat("the target refused what it was sent: ", answer.error));
    if (answer.sequence != lane.sequence) {
      return absl::DataLossError(
          absl::StrCat("the target answered batch ", answer.sequence, " for ", lane.sequence));
    }
  }
  slots_.Recycle();
  if (progress_) progress_(bytes_sent());
  return absl::OkStatus();
}

uint64_t LaneSink::bytes_sent() const {
  uint64_t bytes = 0;
  for (const Lane& lane : lanes_) bytes += lane.connection->bytes_sent();
  return bytes;
}

void LaneSink::Shutdown() {
  for (Lane& lane : lanes_) lane.connection->Shutdown();
}

}  // namespace starling::migration
