#include "runtime/migration/lane_sink.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/migration/stream_keys.h"

namespace starling::migration {

using checkpoint::PageRun;

namespace {

constexpr auto kTellEvery = std::chrono::milliseconds(500);
// How long a rail is waited for at first where there is another.
constexpr auto kFirstReach = std::chrono::seconds(2);
// One that is filled while another is on its way.
constexpr int kFewestSlabs = 2;

}  // namespace

LaneOptions LaneOptionsFrom(const Config::Data& data) {
  return {data.queue_pairs,           data.slab_bytes, data.slabs,
          data.compression == "auto", Duration{},      {}};
}

absl::StatusOr<std::shared_ptr<LaneSink>> LaneSink::Connect(
    transport::Fabric& fabric, const LaneOptions& options, const v1::ReserveResponse& granted,
    ArenaSlots::Grow grow, const StreamKeys& keys, Deadline deadline) {
  auto sink = std::shared_ptr<LaneSink>(new LaneSink(std::move(grow)));
  for (const v1::ArenaChunk& chunk : granted.chunks()) {
    RETURN_IF_ERROR(sink->slots_.AddChunk(chunk));
  }
  sink->sealed_ = !keys.empty();
  if (sink->sealed_ && keys.size() < static_cast<size_t>(options.queue_pairs)) {
    return absl::InternalError("fewer keys than data connections");
  }
  const auto lanes = static_cast<uint32_t>(options.queue_pairs);
  const uint32_t share = granted.ring_slots() / lanes;
  SlabPool pool;
  pool.slab_bytes = options.slab_bytes;
  pool.slabs = static_cast<size_t>(std::max(kFewestSlabs, options.slabs / options.queue_pairs));
  pool.packed = share > 0 && options.compress;
  ASSIGN_OR_RETURN(const Endpoint first, ParseEndpoint(granted.data_address()));
  sink->rails_.push_back({&fabric, first, 0});
  const auto further = static_cast<size_t>(granted.rail_addresses_size());
  for (size_t i = 0; i < std::min(further, options.rails.size()); ++i) {
    const std::string& address = granted.rail_addresses(static_cast<int>(i));
    if (options.rails[i] == nullptr || address.empty()) continue;
    ASSIGN_OR_RETURN(const Endpoint peer, ParseEndpoint(address));
    sink->rails_.push_back({options.rails[i], peer, i + 1});
  }
  for (uint32_t i = 0; i < lanes; ++i) {
    RingShare ring;
    ring.address = granted.ring().address();
    ring.rkey = granted.ring().rkey();
    ring.slot_bytes = granted.ring_slots() > 0 ? granted.ring().bytes() / granted.ring_slots() : 0;
    for (uint32_t slot = 0; slot < share; ++slot) ring.slots.push_back(i * share + slot);
    const std::optional<ChannelKeys> key =
        sink->sealed_ ? std::optional(keys[i]) : std::optional<ChannelKeys>();
    const GrantedTo to =
        granted.grant_by_connection() ? GrantedTo::kConnection : GrantedTo::kSource;
    const KnownBy by = sink->sealed_ && granted.by_tag() ? KnownBy::kTag : KnownBy::kHash;
    const auto open = [i, key, ring, pool, to, by, token = granted.token(),
                       compress = options.compress, s = sink.get()](
                          uint32_t attempt,
                          Deadline until) -> absl::StatusOr<std::unique_ptr<LaneWriter>> {
      std::string shown = token + static_cast<char>(i);
      if (attempt > 0) shown += static_cast<char>(attempt);
      ASSIGN_OR_RETURN(auto reached, s->Reach(i, attempt, shown, until));
      auto& [connection, over] = reached;
      ChannelKeys used;
      if (key) {
        ASSIGN_OR_RETURN(used, KeysOfAttempt(*key, attempt));
      }
      ASSIGN_OR_RETURN(std::unique_ptr<SealedChannel> channel,
                       SealedChannel::Create(std::move(connection), key ? &used : nullptr,
                                             /*source=*/true));
      return LaneWriter::Create(
          *over, std::move(channel), s->slots_, ring, pool, compress, [s] { s->Tell(); }, to, by);
    };
    ASSIGN_OR_RETURN(std::unique_ptr<ResumingLane> writer,
                     ResumingLane::Create(open, options.patience, deadline));
    sink->lanes_.push_back(writer.get());
    sink->writers_.push_back(std::move(writer));
  }
  return sink;
}

LaneSink::~LaneSink() = default;

absl::StatusOr<std::pair<std::unique_ptr<transport::Connection>, transport::Fabric*>>
LaneSink::Reach(uint32_t lane, uint32_t attempt, const std::string& shown, Deadline deadline) {
  absl::Status last;
  // Later ones come soon again, each with a number of its own.
  const size_t tries = attempt == 0 ? rails_.size() : 1;
  for (size_t i = 0; i < tries; ++i) {
    const Rail& rail = rails_[(lane + attempt + i) % rails_.size()];
    const Deadline until = i + 1 < tries
                               ? Deadline::After(std::min<Duration>(deadline.Left(), kFirstReach))
                               : deadline;
    absl::StatusOr<std::unique_ptr<transport::Connection>> connection =
        rail.fabric->Connect(rail.peer.address, rail.peer.port, shown, until);
    if (connection.ok()) return std::pair(*std::move(connection), rail.fabric);
    last = connection.status();
    spdlog::warn("data connection {} over rail {}, attempt {}: {}", lane, rail.number, attempt,
                 last.ToString());
  }
  return last;
}

absl::Status LaneSink::NextIfFull() {
  if (!Current().Full()) return absl::OkStatus();
  RETURN_IF_ERROR(Current().SendBatch());
  turn_ = (turn_ + 1) % writers_.size();
  return absl::OkStatus();
}

absl::StatusOr<std::span<std::byte>> LaneSink::Acquire(size_t pages) {
  RETURN_IF_ERROR(NextIfFull());
  return Current().Acquire(pages);
}

absl::Status LaneSink::PutAll(std::span<const PageRun> runs) { return Current().PutAll(runs); }

absl::Status LaneSink::PutZero(const PageRun& run) {
  RETURN_IF_ERROR(NextIfFull());
  return Current().PutZero(run);
}

absl::StatusOr<std::vector<PageRun>> LaneSink::Flush(Deadline deadline) {
  for (auto& writer : writers_) RETURN_IF_ERROR(writer->AskForAnswer());
  std::vector<PageRun> refused;
  for (auto& writer : writers_) RETURN_IF_ERROR(writer->WaitForAnswer(deadline, refused));
  slots_.Recycle();
  std::lock_guard lock(mutex_);
  if (progress_) progress_(bytes_sent());
  return refused;
}

void LaneSink::SetProgress(std::function<void(uint64_t)> progress) {
  std::lock_guard lock(mutex_);
  progress_ = std::move(progress);
}

void LaneSink::Tell() {
  std::lock_guard lock(mutex_);
  const TimePoint now = Clock::now();
  if (!progress_ || now - told_ < kTellEvery) return;
  told_ = now;
  progress_(bytes_sent());
}

LaneCounts LaneSink::counts() const {
  LaneCounts all;
  for (const auto& writer : writers_) all += writer->counts();
  return all;
}

uint64_t LaneSink::resumed() const {
  uint64_t resumed = 0;
  for (const auto& writer : writers_) resumed += writer->resumed();
  return resumed;
}

uint64_t LaneSink::bytes_sent() const {
  uint64_t bytes = 0;
  for (const auto& writer : writers_) bytes += writer->bytes_sent();
  return bytes;
}

void LaneSink::Shutdown() {
  for (const auto& writer : writers_) writer->Shutdown();
}

}  // namespace starling::migration
