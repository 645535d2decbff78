#include "runtime/migration/lane_writer.h"

#include <lz4.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "checkpoint/arena.h"

namespace starling::migration {

using checkpoint::kPageSize;
using checkpoint::PageRun;
using checkpoint::SlotRun;

namespace {

// A target that does not take what was written for this long is given up.
constexpr auto kStuck = std::chrono::seconds(30);
// Unanswered batches at most: what was put is remembered until the target has checked it.
constexpr size_t kMostOutstanding = 256;
constexpr size_t kAskEvery = kMostOutstanding / 2;
// One batch in so many is searched for repeated pages, and as many in a row when it had them.
constexpr uint64_t kSampleCopies = 32;
// Packed batches that have not shrunk below this share go as they are.
constexpr double kWorthPacking = 0.9;
// Runs of fewer pages than this on average are scattered: a write for each would be acknowledged
// one by one.
constexpr uint64_t kScatteredPages = 4;

}  // namespace

LaneWriter::LaneWriter(std::unique_ptr<SealedChannel> channel, ArenaSlots& slots, RingShare ring,
                       const SlabPool& pool, bool compress, std::function<void()> progress,
                       GrantedTo granted, KnownBy known_by)
    : channel_(std::move(channel)),
      arena_(slots),
      ring_(std::move(ring)),
      pool_(pool),
      progress_(std::move(progress)),
      granted_(granted),
      known_by_(known_by),
      chooser_(compress && pool.packed && !ring_.slots.empty()),
      ring_used_(ring_.slots.size()) {}

absl::StatusOr<std::unique_ptr<LaneWriter>> LaneWriter::Create(
    transport::Fabric& fabric, std::unique_ptr<SealedChannel> channel, ArenaSlots& slots,
    RingShare ring, const SlabPool& pool, bool compress, std::function<void()> progress,
    GrantedTo granted, KnownBy known_by) {
  if (channel->sealed() && ring.slots.empty())
    return absl::InternalError("a sealed connection needs a share of the landing ring");
  if (!channel->sealed() && known_by == KnownBy::kTag)
    return absl::InternalError("a plain connection has no tags");
  if (!ring.slots.empty() && ring.slot_bytes < pool.slab_bytes) {
    return absl::DataLossError(absl::StrCat("the target's ring has slots of ", ring.slot_bytes,
                                            " bytes, and slabs have ", pool.slab_bytes));
  }
  std::unique_ptr<LaneWriter> writer(new LaneWriter(std::move(channel), slots, std::move(ring),
                                                    pool, compress, std::move(progress), granted,
                                                    known_by));
  const size_t bytes = pool.slab_bytes * pool.slabs * (pool.packed ? 2 : 1);
  void* const memory =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return ErrnoStatus(absl::StrCat("allocate ", bytes, " bytes of slabs"));
  writer->memory_ = {static_cast<std::byte*>(memory), bytes};
  ASSIGN_OR_RETURN(writer->region_, fabric.Register(writer->memory_, transport::Access::kLocal));
  for (size_t i = 0; i < pool.slabs; ++i) {
    Slab& slab = writer->slabs_.emplace_back();
    slab.memory = writer->memory_.subspan(i * pool.slab_bytes, pool.slab_bytes);
    if (pool.packed) {
      slab.packed = writer->memory_.subspan((pool.slabs + i) * pool.slab_bytes, pool.slab_bytes);
    }
  }
  return writer;
}

LaneWriter::~LaneWriter() {
  // Nothing is under way from the region when it goes.
  channel_->connection().Shutdown();
  if (memory_.empty()) return;
  region_.reset();
  ::munmap(memory_.data(), memory_.size());
}

bool LaneWriter::Full() const {
  return pool_.slab_bytes - used_ < kPageSize || batch_.runs.size() >= kMaxBatchRuns;
}

absl::Status LaneWriter::WaitForSlab() {
  if (free_) return absl::OkStatus();
  const uint64_t message = slabs_[current_].message;
  if (message > 0) {
    const TimePoint start = Clock::now();
    RETURN_IF_ERROR(channel_->connection().WaitCompleted(message, Deadline::After(kStuck)));
    const TimePoint now = Clock::now();
    waited_ += now - start;
    chooser_.Observe(now, bytes_sent(), waited_);
  }
  free_ = true;
  return absl::OkStatus();
}

absl::StatusOr<std::span<std::byte>> LaneWriter::Acquire(size_t pages) {
  if (Full()) RETURN_IF_ERROR(SendBatch());
  RETURN_IF_ERROR(WaitForSlab());
  const size_t room = (pool_.slab_bytes - used_) / kPageSize;
  return slabs_[current_].memory.subspan(used_, std::min(pages, room) * kPageSize);
}

void LaneWriter::BeginBatch() {
  if (begun_) return;
  begun_ = true;
  begin_ = used_;
  known_.clear();
  if (channel_->sealed()) {
    batch_.encoding = Encoding::kRing;
    if (chooser_.Compress()) batch_.encoding = Encoding::kRingLz4;
  } else {
    batch_.encoding = Encoding::kInPlace;
    if (scattered_ && pool_.packed && !ring_.slots.empty()) batch_.encoding = Encoding::kRing;
    if (chooser_.Compress()) batch_.encoding = Encoding::kRingLz4;
  }
  copies_ =
      batch_.encoding == Encoding::kInPlace && (copies_worth_ > 0 || batches_ % kSampleCopies == 0);
  if (copies_worth_ > 0) --copies_worth_;
  ++batches_;
}

std::optional<uint64_t> LaneWriter::FindCopy(std::span<const std::byte> page, uint64_t hash) const {
  const std::span<std::byte> slab = slabs_[current_].memory;
  for (const Known& known : known_) {
    if (known.hash == hash &&
        std::memcmp(slab.data() + known.offset, page.data(), kPageSize) == 0) {
      return known.slot;
    }
  }
  return std::nullopt;
}

absl::Status LaneWriter::PutAll(std::span<const PageRun> runs) {
  uint64_t pages = 0;
  for (const PageRun& run : runs) pages += run.pages;
  if (pages == 0 || !free_ || pages * kPageSize > pool_.slab_bytes - used_) {
    return absl::InternalError(absl::StrCat(pages, " pages were put that were not acquired"));
  }
  scattered_ = pages < kScatteredPages * runs.size();
  for (const PageRun& run : runs) RETURN_IF_ERROR(Place(run));
  if (progress_) progress_();
  return absl::OkStatus();
}

absl::Status LaneWriter::Place(const PageRun& run) {
  ASSIGN_OR_RETURN(const std::vector<SlotRun> placed, arena_.Assign(run));
  counts_.pages += run.pages;
  for (const SlotRun& piece : placed) {
    RETURN_IF_ERROR(PlacePiece({run.space, piece.address, piece.pages}, piece.slot));
  }
  return absl::OkStatus();
}

absl::Status LaneWriter::PlacePiece(const PageRun& run, uint64_t slot) {
  const std::span<std::byte> slab = slabs_[current_].memory;
  // Pieces that differ in content become runs of their own; what is not searched for copies is one.
  for (uint64_t done = 0; done < run.pages;) {
    if (batch_.runs.size() >= kMaxBatchRuns) {
      RETURN_IF_ERROR(Send(/*answer=*/false, /*keep_slab=*/true));
    }
    BeginBatch();
    BatchRun entry;
    entry.run = {run.space, run.address + done * kPageSize, run.pages - done};
    entry.slot = slot + done;
    if (copies_) {
      const std::span<const std::byte> page = slab.subspan(used_, kPageSize);
      const uint64_t hash = checkpoint::HashPages(page);
      if (const auto from = FindCopy(page, hash)) {
        entry.run.pages = 1;
        entry.content = BatchRun::Content::kCopy;
        entry.from = *from;
        ++counts_.repeated_pages;
        copies_worth_ = kSampleCopies;
      } else {
        known_.push_back({hash, used_, entry.slot});
        entry.run.pages = 1;
        entry.hash = hash;
      }
    } else if (known_by_ == KnownBy::kHash) {
      entry.hash = checkpoint::HashPages(slab.subspan(used_, entry.run.pages * kPageSize));
    }
    if (!channel_->sealed() && std::exchange(damage_, false)) slab[used_] ^= std::byte{1};
    if (entry.content == BatchRun::Content::kBytes && batch_.encoding == Encoding::kInPlace) {
      RETURN_IF_ERROR(WriteInPlace(entry.slot, entry.run.pages, used_));
    }
    done += entry.run.pages;
    used_ += entry.run.pages * kPageSize;
    batch_.runs.push_back(entry);
  }
  return absl::OkStatus();
}

absl::Status LaneWriter::PutZero(const PageRun& run) {
  arena_.Zero(run);
  counts_.zero_pages += run.pages;
  if (batch_.runs.size() >= kMaxBatchRuns) RETURN_IF_ERROR(SendBatch());
  BeginBatch();
  BatchRun entry;
  entry.run = run;
  entry.content = BatchRun::Content::kZero;
  batch_.runs.push_back(entry);
  return absl::OkStatus();
}

absl::StatusOr<Granted> LaneWriter::Chunk(const ArenaSlots::Piece& piece) {
  if (granted_ == GrantedTo::kSource) return Granted{piece.address, piece.rkey};
  while (piece.chunk >= granted_chunks_.size()) {
    const size_t before = granted_chunks_.size();
    RETURN_IF_ERROR(AskFor({false, static_cast<uint32_t>(before), kMaxGrantedChunks}));
    if (granted_chunks_.size() == before) {
      return absl::DataLossError(
          absl::StrCat("the target grants nothing of chunk ", before, " of its arena"));
    }
  }
  const Granted& chunk = granted_chunks_[piece.chunk];
  return Granted{chunk.address + piece.offset, chunk.key};
}

absl::StatusOr<Granted> LaneWriter::Ring() {
  if (granted_ == GrantedTo::kSource) return Granted{ring_.address, ring_.rkey};
  if (granted_ring_.empty()) RETURN_IF_ERROR(AskFor({true, 0, 0}));
  if (granted_ring_.empty()) return absl::DataLossError("the target grants nothing of its ring");
  return granted_ring_.front();
}

// Seldom: once for each chunk of the arena.
absl::Status LaneWriter::AskFor(const GrantRequest& request) {
  RETURN_IF_ERROR(channel_->Send(EncodeGrantRequest(request), Deadline::After(kStuck)).status());
  while (true) {
    ASSIGN_OR_RETURN(const std::string bytes, channel_->Receive(Deadline::After(kStuck)));
    if (!IsGrants(bytes)) {
      RETURN_IF_ERROR(TakeAnswer(bytes));
      continue;
    }
    ASSIGN_OR_RETURN(const Grants grants, DecodeGrants(bytes));
    if (grants.first_chunk != request.first_chunk || grants.chunks.size() > request.chunks ||
        (!grants.ring.empty() && !request.ring)) {
      return absl::DataLossError("the target grants what it was not asked for");
    }
    granted_chunks_.insert(granted_chunks_.end(), grants.chunks.begin(), grants.chunks.end());
    if (request.ring) granted_ring_ = grants.ring;
    return absl::OkStatus();
  }
}

absl::Status LaneWriter::WriteInPlace(uint64_t slot, uint64_t pages, size_t slab_offset) {
  const auto offset =
      static_cast<size_t>(slabs_[current_].memory.data() - memory_.data()) + slab_offset;
  for (uint64_t done = 0; done < pages;) {
    ASSIGN_OR_RETURN(const ArenaSlots::Piece piece, arena_.Locate(slot + done, pages - done));
    ASSIGN_OR_RETURN(const Granted to, Chunk(piece));
    RETURN_IF_ERROR(channel_->connection().Write(*region_, offset + done * kPageSize,
                                                 piece.pages * kPageSize, to.address, to.key,
                                                 Deadline::After(kStuck)));
    done += piece.pages;
  }
  return absl::OkStatus();
}

absl::Status LaneWriter::WriteAllInPlace() {
  batch_.encoding = Encoding::kInPlace;
  size_t at = begin_;
  for (const BatchRun& run : batch_.runs) {
    if (run.content != BatchRun::Content::kBytes) continue;
    RETURN_IF_ERROR(WriteInPlace(run.slot, run.run.pages, at));
    at += run.run.pages * kPageSize;
  }
  return absl::OkStatus();
}

absl::Status LaneWriter::WaitForRingSlot(uint32_t& slot) {
  const TimePoint start = Clock::now();
  RETURN_IF_ERROR(Await(ring_used_[ring_next_], Deadline::After(kStuck)));
  waited_ += Clock::now() - start;
  slot = ring_.slots[ring_next_];
  ring_used_[ring_next_] = batch_.sequence;
  ring_next_ = (ring_next_ + 1) % ring_.slots.size();
  return absl::OkStatus();
}

// Compresses and seals what the batch has in the slab, as it was chosen, and writes it into the
// ring: in one piece, however scattered its pages are.
absl::Status LaneWriter::Pack() {
  Slab& slab = slabs_[current_];
  const std::span<std::byte> in = slab.memory.subspan(begin_, used_ - begin_);
  // Where it lies in the slab, so that the batches of one slab do not touch one another's.
  std::span<std::byte> out = in;
  if (batch_.encoding == Encoding::kRingLz4) {
    const std::span<std::byte> packed = slab.packed.subspan(begin_, in.size());
    const TimePoint start = Clock::now();
    const int got = LZ4_compress_default(
        reinterpret_cast<const char*>(in.data()), reinterpret_cast<char*>(packed.data()),
        static_cast<int>(in.size()), static_cast<int>(packed.size()));
    // It gives up where the output would be longer.
    const size_t size = got > 0 ? static_cast<size_t>(got) : in.size();
    chooser_.Compressed(in.size(), size, Clock::now() - start);
    if (static_cast<double>(size) < kWorthPacking * static_cast<double>(in.size())) {
      out = packed.first(size);
      counts_.packed_in += in.size();
      counts_.packed_out += size;
    } else if (channel_->sealed()) {
      batch_.encoding = Encoding::kRing;
    } else {
      return WriteAllInPlace();
    }
  }
  if (channel_->sealed()) {
    // Where it lies: a second place would cost more than the cipher. What is refused is read again.
    RETURN_IF_ERROR(channel_->SealPages(batch_.sequence, out, out, batch_.tag));
    if (std::exchange(damage_, false)) out[0] ^= std::byte{1};
  }
  if (batch_.encoding == Encoding::kRing && !channel_->sealed()) {
    counts_.staged_pages += in.size() / kPageSize;
  }
  ASSIGN_OR_RETURN(const Granted ring, Ring());
  RETURN_IF_ERROR(WaitForRingSlot(batch_.ring_slot));
  batch_.packed_bytes = static_cast<uint32_t>(out.size());
  batch_.answer = true;  // that gives the slot of the ring back
  return channel_->connection().Write(*region_, static_cast<size_t>(out.data() - memory_.data()),
                                      out.size(),
                                      ring.address + uint64_t{batch_.ring_slot} * ring_.slot_bytes,
                                      ring.key, Deadline::After(kStuck));
}

absl::Status LaneWriter::SendBatch() {
  if (batch_.runs.empty()) return absl::OkStatus();
  return Send(/*answer=*/false, /*keep_slab=*/false);
}

absl::Status LaneWriter::Send(bool answer, bool keep_slab) {
  batch_.answer = answer || (batch_.sequence + 1) % kAskEvery == 0;
  ++batch_.sequence;
  if (outstanding_.size() >= kMostOutstanding) {
    RETURN_IF_ERROR(Await(outstanding_.front().sequence, Deadline::After(kStuck)));
  }
  if (batch_.encoding != Encoding::kInPlace && used_ > begin_) {
    RETURN_IF_ERROR(Pack());
  } else {
    batch_.encoding = Encoding::kInPlace;
  }
  ASSIGN_OR_RETURN(const uint64_t message,
                   channel_->Send(EncodeBatch(batch_), Deadline::After(kStuck)));
  Outstanding& sent = outstanding_.emplace_back();
  sent.sequence = batch_.sequence;
  sent.runs.reserve(batch_.runs.size());
  for (const BatchRun& run : batch_.runs) {
    // A run that follows the one before is remembered with it.
    if (!sent.runs.empty() && sent.runs.back().space == run.run.space &&
        sent.runs.back().address + sent.runs.back().pages * kPageSize == run.run.address) {
      sent.runs.back().pages += run.run.pages;
    } else {
      sent.runs.push_back(run.run);
    }
  }
  const uint64_t sequence = batch_.sequence;
  batch_ = Batch();
  batch_.sequence = sequence;
  begun_ = false;
  slabs_[current_].message = std::max(slabs_[current_].message, message);
  if (keep_slab) return absl::OkStatus();
  current_ = (current_ + 1) % slabs_.size();
  free_ = false;
  used_ = 0;
  return absl::OkStatus();
}

absl::Status LaneWriter::Await(uint64_t sequence, Deadline deadline) {
  while (answered_ < sequence) {
    ASSIGN_OR_RETURN(const std::string bytes, channel_->Receive(deadline));
    RETURN_IF_ERROR(TakeAnswer(bytes));
  }
  return absl::OkStatus();
}

absl::Status LaneWriter::TakeAnswer(absl::string_view bytes) {
  ASSIGN_OR_RETURN(const Answer answer, DecodeAnswer(bytes));
  if (answer.sequence <= answered_ || answer.sequence > batch_.sequence) {
    return absl::DataLossError(absl::StrCat("the target answered for batch ", answer.sequence,
                                            " after ", answered_, " of ", batch_.sequence));
  }
  answered_ = answer.sequence;
  while (!outstanding_.empty() && outstanding_.front().sequence <= answered_) {
    const Outstanding& batch = outstanding_.front();
    if (std::find(answer.refused.begin(), answer.refused.end(), batch.sequence) !=
        answer.refused.end()) {
      for (const PageRun& run : batch.runs) counts_.resent_pages += run.pages;
      refused_.insert(refused_.end(), batch.runs.begin(), batch.runs.end());
    }
    outstanding_.pop_front();
  }
  return absl::OkStatus();
}

absl::Status LaneWriter::AskForAnswer() {
  // The slab of an empty batch has not been waited for.
  return Send(/*answer=*/true, /*keep_slab=*/batch_.runs.empty());
}

absl::Status LaneWriter::WaitForAnswer(Deadline deadline, std::vector<PageRun>& refused) {
  RETURN_IF_ERROR(Await(batch_.sequence, deadline));
  refused.insert(refused.end(), refused_.begin(), refused_.end());
  refused_.clear();
  return absl::OkStatus();
}

std::vector<PageRun> LaneWriter::Unanswered() const {
  std::vector<PageRun> runs = refused_;
  for (const Outstanding& batch : outstanding_)
    runs.insert(runs.end(), batch.runs.begin(), batch.runs.end());
  for (const BatchRun& run : batch_.runs) runs.push_back(run.run);
  return runs;
}

}  // namespace starling::migration
