#include "runtime/migration/lane_receiver.h"

#include <lz4.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/migration/batch.h"
#include "runtime/migration/stream_keys.h"

namespace starling::migration {

using checkpoint::kPageSize;

namespace {

constexpr auto kAcceptTimeout = std::chrono::seconds(5);
constexpr auto kAnswerTimeout = std::chrono::seconds(10);
// Data connections of one migration at most.
constexpr uint32_t kMaxConnections = 16;
// What a source may ask for as a ring.
constexpr uint64_t kMaxRingBytes = 256u << 20;

// Binding a window takes a work request of our own side only.
constexpr auto kGrantTimeout = std::chrono::seconds(5);

}  // namespace

LaneReceiver::LaneReceiver(transport::Fabric& fabric, Options options,
                           std::unique_ptr<checkpoint::Arena> arena)
    : fabrics_{&fabric}, options_(std::move(options)), arena_(std::move(arena)) {
  if (!options_.grant_by_connection) return;
  fabrics_.insert(fabrics_.end(), options_.rails.begin(), options_.rails.end());
  // All or none, so that a report can say which.
  windows_ = std::all_of(fabrics_.begin(), fabrics_.end(), [](const transport::Fabric* rail) {
    return rail == nullptr || rail->windows();
  });
  by_connection_ = windows_ || fabrics_.size() > 1;
}

v1::ArenaChunk LaneReceiver::Describe(const Rails& rails) const {
  v1::ArenaChunk chunk;
  chunk.set_address(rails.front()->remote_address());
  if (!by_connection_) chunk.set_rkey(rails.front()->remote_key());
  chunk.set_bytes(rails.front()->span().size());
  return chunk;
}

absl::StatusOr<LaneReceiver::Rails> LaneReceiver::Register(std::span<std::byte> memory) const {
  Rails rails;
  for (transport::Fabric* const fabric : fabrics_) {
    std::unique_ptr<transport::MemoryRegion>& region = rails.emplace_back();
    if (fabric == nullptr) continue;
    ASSIGN_OR_RETURN(region, fabric->Register(memory, windows_ ? transport::Access::kWindow
                                                               : transport::Access::kRemoteWrite));
  }
  return rails;
}

absl::StatusOr<std::unique_ptr<LaneReceiver>> LaneReceiver::Create(transport::Fabric& fabric,
                                                                   Options options) {
  const RingOptions& ring = options.ring;
  if (ring.slot_bytes > kMaxRingBytes || ring.slots > kMaxRingBytes / kPageSize ||
      ring.slots * ring.slot_bytes > kMaxRingBytes || ring.slot_bytes % kPageSize != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a landing ring of ", ring.slots, " slots of ", ring.slot_bytes,
        " bytes was asked for; whole pages and ", kMaxRingBytes, " bytes in all are the most"));
  }
  if (options.by_tag && options.keys.empty())
    return absl::InvalidArgumentError("a plain stream has no tags that could stand for hashes");
  checkpoint::Arena::Options arena_options;
  arena_options.name = "starling-arena";
  arena_options.chunk_bytes = kArenaChunkBytes;
  arena_options.max_bytes = options.max_arena_bytes;
  arena_options.images_dir = options.images_dir;
  ASSIGN_OR_RETURN(std::unique_ptr<checkpoint::Arena> arena,
                   checkpoint::Arena::Create(arena_options));
  auto receiver =
      std::unique_ptr<LaneReceiver>(new LaneReceiver(fabric, std::move(options), std::move(arena)));
  RETURN_IF_ERROR(receiver->Grow(receiver->options_.arena_bytes).status());
  RETURN_IF_ERROR(receiver->MakeRing());
  return receiver;
}

absl::Status LaneReceiver::MakeRing() {
  const uint64_t bytes = options_.ring.slots * options_.ring.slot_bytes;
  if (bytes == 0) return absl::OkStatus();
  void* const memory =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    return ErrnoStatus(absl::StrCat("allocate a ring of ", bytes, " bytes"));
  ring_memory_ = {static_cast<std::byte*>(memory), bytes};
  ASSIGN_OR_RETURN(ring_, Register(ring_memory_));
  return absl::OkStatus();
}

LaneReceiver::~LaneReceiver() {
  (void)Close();
  if (!ring_memory_.empty()) ::munmap(ring_memory_.data(), ring_memory_.size());
}

std::optional<v1::ArenaChunk> LaneReceiver::ring() const {
  std::lock_guard lock(mutex_);
  if (ring_.empty()) return std::nullopt;
  return Describe(ring_);
}

std::vector<v1::ArenaChunk> LaneReceiver::chunks() const {
  std::lock_guard lock(mutex_);
  std::vector<v1::ArenaChunk> chunks;
  for (const Rails& rails : regions_) chunks.push_back(Describe(rails));
  return chunks;
}

absl::StatusOr<std::vector<v1::ArenaChunk>> LaneReceiver::Grow(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  if (closed_) return absl::FailedPreconditionError("the arena is closed");
  std::vector<v1::ArenaChunk> added;
  for (uint64_t granted = 0; granted < bytes;) {
    ASSIGN_OR_RETURN(const std::span<std::byte> chunk, arena_->AddChunk());
    ASSIGN_OR_RETURN(Rails rails, Register(chunk));
    added.push_back(Describe(rails));
    regions_.push_back(std::move(rails));
    granted += chunk.size();
  }
  return added;
}

absl::Status LaneReceiver::Accept(uint32_t number, std::unique_ptr<transport::Incoming> incoming,
                                  uint32_t attempt, size_t rail) {
  std::unique_ptr<Lane> lane = std::make_unique<Lane>();
  lane->attempt = attempt;
  lane->rail = rail;
  if (rail >= fabrics_.size() || fabrics_[rail] == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(
        "data connection ", number, " came over rail ", rail, ", which was not granted"));
  }
  std::unique_ptr<Lane> lost;
  {
    std::lock_guard lock(mutex_);
    const auto known = lanes_.find(number);
    if (closed_ || number >= kMaxConnections ||
        (known == lanes_.end() ? attempt != 0 : attempt <= known->second->attempt)) {
      return absl::FailedPreconditionError(absl::StrCat(
          "data connection ", number, ", attempt ", attempt, " was refused: each of the first ",
          kMaxConnections, " comes before the restore, and again only in the place of a lost one"));
    }
    if (!options_.keys.empty() && number >= options_.keys.size()) {
      return absl::FailedPreconditionError(
          absl::StrCat("there is no key for data connection ", number));
    }
    if (known != lanes_.end()) {
      // Its place is kept, with the attempt that is used up and what it ended with meanwhile.
      lost = std::exchange(known->second, std::make_unique<Lane>());
      known->second->attempt = attempt;
      known->second->ended = absl::UnavailableError("it was lost, and not made again");
      if (lost->channel != nullptr) lost->channel->connection().Shutdown();
    }
  }
  // Before the source is answered: then nothing lands here any more but over the new connection.
  if (lost != nullptr) {
    if (lost->thread.joinable()) lost->thread.join();
    lost.reset();
  }
  ASSIGN_OR_RETURN(std::unique_ptr<transport::Connection> connection,
                   incoming->Accept(Deadline::After(kAcceptTimeout)));
  ChannelKeys keys;
  if (!options_.keys.empty()) {
    ASSIGN_OR_RETURN(keys, KeysOfAttempt(options_.keys[number], attempt));
  }
  ASSIGN_OR_RETURN(lane->channel, SealedChannel::Create(std::move(connection),
                                                        options_.keys.empty() ? nullptr : &keys,
                                                        /*source=*/false));
  if (attempt > 0) {
    spdlog::info("data connection {} came again: {}", number,
                 lane->channel->connection().description());
  }
  std::lock_guard lock(mutex_);
  if (closed_) return absl::FailedPreconditionError("the arena is closed");
  Lane& serving = *lane;
  lanes_[number] = std::move(lane);
  serving.thread = std::thread([this, &serving] { Serve(serving); });
  return absl::OkStatus();
}

void LaneReceiver::Serve(Lane& lane) {
  while (true) {
    const absl::StatusOr<std::string> message = lane.channel->Receive(Deadline::Never());
    absl::Status status = message.status();
    if (status.ok()) status = Apply(*message, lane);
    if (status.ok()) continue;
    if (lane.channel->connection().refused_peer()) {
      if (options_.refused) options_.refused(status.message());
    } else {
      TellRefused(status);
    }
    std::lock_guard lock(mutex_);
    if (!closed_) {
      lane.ended = status;
      spdlog::warn("data connection {}: {}", lane.channel->connection().description(),
                   status.ToString());
    }
    lane.channel->connection().Shutdown();
    return;
  }
}

void LaneReceiver::TellRefused(const absl::Status& status) const {
  // Other errors are the connection's own.
  if (options_.refused &&
      (absl::IsDataLoss(status) || absl::IsInvalidArgument(status) || absl::IsOutOfRange(status)))
    options_.refused(status.message());
}

absl::StatusOr<Granted> LaneReceiver::GrantTo(Lane& lane, const Rails& rails) const {
  const transport::MemoryRegion& region = *rails[lane.rail];
  if (!windows_) return Granted{region.remote_address(), region.remote_key()};
  ASSIGN_OR_RETURN(const uint32_t key,
                   lane.channel->connection().Grant(region, transport::Access::kRemoteWrite,
                                                    Deadline::After(kGrantTimeout)));
  return Granted{region.remote_address(), key};
}

absl::Status LaneReceiver::AnswerGrants(absl::string_view message, Lane& lane) {
  ASSIGN_OR_RETURN(const GrantRequest request, DecodeGrantRequest(message));
  if (!by_connection_) return absl::DataLossError("grants were asked for that came before");
  Grants grants;
  if (request.ring && !ring_.empty()) {
    if (lane.ring.empty()) {
      ASSIGN_OR_RETURN(lane.ring.emplace_back(), GrantTo(lane, ring_));
    }
    grants.ring = lane.ring;
  }
  grants.first_chunk = request.first_chunk;
  // One after the other from the first on, so that nothing is granted twice.
  const uint32_t end = request.first_chunk + request.chunks;
  while (lane.chunks.size() < end) {
    const Rails* rails = nullptr;
    {
      std::lock_guard lock(mutex_);
      if (lane.chunks.size() < regions_.size()) rails = &regions_[lane.chunks.size()];
    }
    if (rails == nullptr) break;
    ASSIGN_OR_RETURN(const Granted granted, GrantTo(lane, *rails));
    lane.chunks.push_back(granted);
  }
  for (size_t i = request.first_chunk; i < end && i < lane.chunks.size(); ++i)
    grants.chunks.push_back(lane.chunks[i]);
  return lane.channel->Send(EncodeGrants(grants), Deadline::After(kAnswerTimeout)).status();
}

absl::Status LaneReceiver::Apply(absl::string_view message, Lane& lane) {
  if (IsGrantRequest(message)) return AnswerGrants(message, lane);
  ASSIGN_OR_RETURN(const Batch batch, DecodeBatch(message));
  if (batch.sequence != ++lane.sequence) {
    return absl::DataLossError(
        absl::StrCat("batch ", batch.sequence, " came instead of ", lane.sequence));
  }
  // One that does not check is told to the source, which sends its pages again.
  if (const absl::Status landed = Land(batch, lane); !landed.ok()) {
    spdlog::warn("data connection {}: batch {}: {}", lane.channel->connection().description(),
                 batch.sequence, landed.ToString());
    TellRefused(landed);
    if (lane.answer.refused.empty()) lane.answer.error = std::string(landed.message());
    lane.answer.refused.push_back(batch.sequence);
    if (lane.answer.refused.size() > kMaxRefused) return landed;
  }
  if (!batch.answer) return absl::OkStatus();
  lane.answer.sequence = batch.sequence;
  const std::string answer = EncodeAnswer(lane.answer);
  lane.answer = Answer();
  return lane.channel->Send(answer, Deadline::After(kAnswerTimeout)).status();
}

// All of a batch or nothing counts: what of it has landed when a part is refused comes again.
absl::Status LaneReceiver::Land(const Batch& batch, Lane& lane) {
  if (lane.channel->sealed() && batch.encoding == Encoding::kInPlace) {
    for (const BatchRun& run : batch.runs) {
      if (run.content == BatchRun::Content::kZero) continue;
      return absl::DataLossError("pages came unsealed on a sealed connection");
    }
  }
  absl::Status status;
  if (batch.encoding != Encoding::kInPlace) status = Unpack(batch, lane);
  for (const BatchRun& run : batch.runs) {
    if (!status.ok()) return status;
    switch (run.content) {
      case BatchRun::Content::kBytes:
        if (options_.by_tag && run.hash != 0)
          return absl::DataLossError("pages came with a hash where their tag stands for it");
        status = arena_->Place(run.run, run.slot,
                               options_.by_tag ? std::nullopt : std::optional(run.hash));
        break;
      case BatchRun::Content::kZero:
        status = arena_->PlaceZero(run.run);
        break;
      case BatchRun::Content::kCopy:
        status = PlaceCopy(run);
        break;
    }
  }
  return status;
}

absl::Status LaneReceiver::PlaceCopy(const BatchRun& run) {
  ASSIGN_OR_RETURN(const std::span<std::byte> from, arena_->Slots(run.from, run.run.pages));
  ASSIGN_OR_RETURN(const std::span<std::byte> to, arena_->Slots(run.slot, run.run.pages));
  std::memmove(to.data(), from.data(), to.size());
  return arena_->Place(run.run, run.slot, checkpoint::HashPages(to));
}

// From the ring into the arena.
absl::Status LaneReceiver::Unpack(const Batch& batch, Lane& lane) {
  const RingOptions& ring = options_.ring;
  if (batch.ring_slot >= ring.slots || batch.packed_bytes > ring.slot_bytes) {
    return absl::DataLossError(absl::StrCat("batch ", batch.sequence, " lies outside the ring"));
  }
  std::span<std::byte> bytes =
      ring_memory_.subspan(batch.ring_slot * ring.slot_bytes, batch.packed_bytes);
  // All pieces of the arena that it fills, checked before the first byte is written.
  std::vector<std::span<std::byte>> pieces;
  uint64_t size = 0;
  for (const BatchRun& run : batch.runs) {
    if (run.content != BatchRun::Content::kBytes) continue;
    ASSIGN_OR_RETURN(const std::span<std::byte> piece, arena_->Slots(run.slot, run.run.pages));
    pieces.push_back(piece);
    size += piece.size();
  }
  if (size > ring.slot_bytes) {
    return absl::DataLossError(absl::StrCat("batch ", batch.sequence, " unpacks to ", size,
                                            " bytes, more than a slot of the ring"));
  }
  if (lane.channel->sealed()) {
    // Straight to where they belong: what a refused batch leaves there comes again, like all of it.
    if (batch.encoding != Encoding::kRingLz4)
      return lane.channel->OpenPages(batch.sequence, bytes, pieces, batch.tag);
    lane.unsealed.resize(ring.slot_bytes);
    const std::span<std::byte> open = std::span(lane.unsealed).first(bytes.size());
    RETURN_IF_ERROR(lane.channel->OpenPages(batch.sequence, bytes, {{open}}, batch.tag));
    bytes = open;
  }
  if (batch.encoding == Encoding::kRingLz4) {
    lane.unpacked.resize(ring.slot_bytes);
    const int got = LZ4_decompress_safe(reinterpret_cast<const char*>(bytes.data()),
                                        reinterpret_cast<char*>(lane.unpacked.data()),
                                        static_cast<int>(bytes.size()), static_cast<int>(size));
    if (got < 0 || static_cast<uint64_t>(got) != size) {
      return absl::DataLossError(absl::StrCat("batch ", batch.sequence, " cannot be unpacked"));
    }
    bytes = std::span(lane.unpacked).first(size);
  }
  if (bytes.size() != size) {
    return absl::DataLossError(
        absl::StrCat("batch ", batch.sequence, " has ", bytes.size(), " bytes for runs of ", size));
  }
  for (const std::span<std::byte> piece : pieces) {
    std::memcpy(piece.data(), bytes.data(), piece.size());
    bytes = bytes.subspan(piece.size());
  }
  return absl::OkStatus();
}

absl::Status LaneReceiver::Close() {
  std::map<uint32_t, std::unique_ptr<Lane>> lanes;
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    lanes = std::move(lanes_);
    for (auto& [number, lane] : lanes) {
      if (lane->channel != nullptr) lane->channel->connection().Shutdown();
    }
  }
  for (auto& [number, lane] : lanes) {
    if (lane->thread.joinable()) lane->thread.join();
    if (failed_.ok()) failed_ = lane->ended;
  }
  lanes.clear();
  std::lock_guard lock(mutex_);
  regions_.clear();
  ring_.clear();
  return failed_;
}

}  // namespace starling::migration
