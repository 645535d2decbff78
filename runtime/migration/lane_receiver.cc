#include "runtime/migration/lane_receiver.h"

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/migration/batch.h"

namespace starling::migration {
namespace {

constexpr auto kAcceptTimeout = std::chrono::seconds(5);
constexpr auto kAnswerTimeout = std::chrono::seconds(10);
// Data connections of one migration at most.
constexpr size_t kMaxConnections = 16;

v1::ArenaChunk Describe(const transport::MemoryRegion& region) {
  v1::ArenaChunk chunk;
  chunk.set_address(region.remote_address());
  chunk.set_rkey(region.remote_key());
  chunk.set_bytes(region.span().size());
  return chunk;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LaneReceiver>> LaneReceiver::Create(transport::Fabric& fabric,
                                                                   uint64_t bytes,
                                                                   const std::string& images_dir) {
  checkpoint::Arena::Options options;
  options.name = "starling-arena";
  options.chunk_bytes = 32u << 20;
  options.images_dir = images_dir;
  ASSIGN_OR_RETURN(std::unique_ptr<checkpoint::Arena> arena, checkpoint::Arena::Create(options));
  auto receiver = std::unique_ptr<LaneReceiver>(new LaneReceiver(fabric, std::move(arena)));
  RETURN_IF_ERROR(receiver->Grow(bytes).status());
  return receiver;
}

LaneReceiver::~LaneReceiver() { (void)Close(); }

std::vector<v1::ArenaChunk> LaneReceiver::chunks() const {
  std::lock_guard lock(mutex_);
  std::vector<v1::ArenaChunk> chunks;
  for (const auto& region : regions_) chunks.push_back(Describe(*region));
  return chunks;
}

absl::StatusOr<std::vector<v1::ArenaChunk>> LaneReceiver::Grow(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  if (closed_) return absl::FailedPreconditionError("the arena is closed");
  std::vector<v1::ArenaChunk> added;
  for (uint64_t granted = 0; granted < bytes;) {
    ASSIGN_OR_RETURN(const std::span<std::byte> chunk, arena_->AddChunk());
    ASSIGN_OR_RETURN(std::unique_ptr<transport::MemoryRegion> region,
                     fabric_.Register(chunk, transport::Access::kRemoteWrite));
    added.push_back(Describe(*region));
    regions_.push_back(std::move(region));
    granted += chunk.size();
  }
  return added;
}

absl::Status LaneReceiver::Accept(std::unique_ptr<transport::Incoming> incoming) {
  {
    std::lock_guard lock(mutex_);
    if (closed_ || connections_.size() >= kMaxConnections) {
      return absl::ResourceExhaustedError(
          absl::StrCat("a migration has at most ", kMaxConnections, " data connections"));
    }
  }
  ASSIGN_OR_RETURN(std::unique_ptr<transport::Connection> connection,
                   incoming->Accept(Deadline::After(kAcceptTimeout)));
  std::lock_guard lock(mutex_);
  transport::Connection& serving = *connections_.emplace_back(std::move(connection));
  threads_.emplace_back([this, &serving] { Serve(serving); });
  return absl::OkStatus();
}

void LaneReceiver::Serve(transport::Connection& connection) {
  uint64_t sequence = 0;
  // A batch that does not check makes every flush after it fail; what is behind it is still taken
  // off the wire.
  absl::Status refused;
  while (true) {
    const absl::StatusOr<std::string> message = connection.Receive(Deadline::Never());
    absl::Status status = message.status();
    if (status.ok()) status = Apply(*message, connection, sequence, refused);
    if (status.ok()) continue;
    std::lock_guard lock(mutex_);
    if (!closed_) {
      if (failed_.ok()) failed_ = status;
      spdlog::warn("data connection {}: {}", connection.description(), status.ToString());
    }
    return;
  }
}

absl::Status LaneReceiver::Apply(absl::string_view message, transport::Connection& connection,
                                 uint64_t& sequence, absl::Status& refused) {
  ASSIGN_OR_RETURN(const Batch batch, DecodeBatch(message));
  if (batch.sequence != ++sequence) {
    return absl::DataLossError(
        absl::StrCat("batch ", batch.sequence, " came instead of ", sequence));
  }
  for (const BatchRun& run : batch.runs) {
    const absl::Status placed =
        run.zero ? arena_->PlaceZero(run.run) : arena_->Place(run.run, run.slot, run.hash);
    if (!placed.ok() && refused.ok()) {
      refused = placed;
      spdlog::warn("data connection {}: {}", connection.description(), placed.ToString());
    }
  }
  if (!batch.flush) return absl::OkStatus();
  Answer answer;
  answer.sequence = batch.sequence;
  answer.ok = refused.ok();
  answer.error = std::string(refused.message());
  return connection.Send(EncodeAnswer(answer), Deadline::After(kAnswerTimeout)).status();
}

absl::Status LaneReceiver::Close() {
  std::vector<std::thread> threads;
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    for (auto& connection : connections_) connection->Shutdown();
    threads = std::move(threads_);
  }
  for (std::thread& thread : threads) thread.join();
  std::lock_guard lock(mutex_);
  connections_.clear();
  regions_.clear();
  return failed_;
}

}  // namespace starling::migration
