#include "runtime/migration/page_fetch.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/migration/lane_grants.h"
#include "runtime/migration/offer.h"
#include "runtime/migration/offered.h"
#include "runtime/names.h"

namespace starling::migration {

using checkpoint::kPageSize;
using checkpoint::SlotRange;

namespace {

// One read at most: short, since a page that somebody waits for comes only after the one under way.
constexpr uint64_t kReadPages = 32;
static_assert(kReadPages >= kPiecePages);
constexpr auto kReadTimeout = std::chrono::seconds(5);
constexpr auto kConnectTimeout = std::chrono::seconds(5);
// Between two attempts at a source that is not heard.
constexpr auto kAgain = std::chrono::milliseconds(200);
// How long the keeper is asked at once, and at most between two words to the source.
constexpr auto kTellEvery = std::chrono::milliseconds(500);
// Times that a piece is read that does not come through whole.
constexpr int kMostAttempts = 3;
// Times that the source is told of the end; it gives up by itself if it hears nothing.
constexpr int kLastWords = 5;

// Whatever the transport says, the next connection may do better.
absl::Status Again(const absl::Status& status) { return absl::UnavailableError(status.message()); }

// The source has answered, and what it has said it will say again.
bool Certain(const absl::Status& status) {
  return absl::IsNotFound(status) || absl::IsPermissionDenied(status) || absl::IsDataLoss(status) ||
         absl::IsUnimplemented(status) || absl::IsFailedPrecondition(status);
}

}  // namespace

// A connection to the source, and what its answer said of what is read over it.
struct PageFetch::Session {
  Offered offered;
  std::unique_ptr<transport::Connection> connection;

  // For what this connection may read, where that is granted by connection.
  absl::Status AskForGrants() {
    while (const std::optional<GrantRequest> question = offered.Question()) {
      const Deadline deadline = Deadline::After(kReadTimeout);
      const auto sent = connection->Send(EncodeGrantRequest(*question), deadline);
      if (!sent.ok()) return Again(sent.status());
      const absl::StatusOr<std::string> answer = connection->Receive(deadline);
      if (!answer.ok()) return Again(answer.status());
      RETURN_IF_ERROR(offered.TakeGrants(*answer));
    }
    return absl::OkStatus();
  }
};

PageFetch::PageFetch(Parts parts) : parts_(std::move(parts)), heard_(Clock::now()) {
  running_ = std::thread([this] { Run(); });
}

PageFetch::~PageFetch() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    if (connection_ != nullptr) connection_->Shutdown();
    changed_.notify_all();
  }
  running_.join();
  region_.reset();
  if (!buffer_.empty()) ::munmap(buffer_.data(), buffer_.size());
  if (!arena_.empty()) ::munmap(arena_.data(), arena_.size());
}

void PageFetch::Run() {
  absl::Status status = Fetch();
  const bool stopped = stopping_;
  std::string lost;
  bool gone;
  {
    const std::lock_guard lock(mutex_);
    gone = gone_;
    // Nobody needs the rest any more, for better or worse.
    if (over_) status = absl::OkStatus();
  }
  if (!status.ok() && !stopped) {
    lost = absl::StrCat("host ", parts_.source.name, " cannot give the ", pages_left_.load(),
                        " pages of the component's memory that it still has: ", status.message());
    if (!gone) (void)parts_.keeper.lose(lost);
  }
  if (gone && !status.ok()) lost = "the component has ended";
  if (!stopped && (!lost.empty() || status.ok())) {
    for (int i = 0; i < kLastWords && !stopping_; ++i) {
      if (parts_.source.drain(lost.empty() ? 0 : std::max<uint64_t>(1, pages_left_), lost).ok()) {
        break;
      }
      std::this_thread::sleep_for(kAgain);
    }
    if (parts_.ended) {
      parts_.ended(lost.empty() ? absl::OkStatus() : absl::UnavailableError(lost), pages_read_);
    }
  }
  done_ = true;
}

absl::Status PageFetch::Fetch() {
  ASSIGN_OR_RETURN(Keeper::Missing missing, parts_.keeper.find_missing());
  for (const SlotRange& range : missing.slots) missing_.Assign(range.first, range.count, {});
  pages_left_ = missing_.key_count();
  if (missing_.empty()) return absl::OkStatus();
  struct stat info;
  if (::fstat(missing.arena.get(), &info) != 0) return ErrnoStatus("look at the arena");
  const auto bytes = static_cast<size_t>(info.st_size);
  void* const arena =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, missing.arena.get(), 0);
  if (arena == MAP_FAILED) return ErrnoStatus("map the arena");
  arena_ = {static_cast<std::byte*>(arena), bytes};
  // What is read is checked here before it is in the arena, of which nothing is registered.
  void* const buffer = ::mmap(nullptr, kReadPages * kPageSize, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (buffer == MAP_FAILED) return ErrnoStatus("allocate a buffer for fetched pages");
  buffer_ = {static_cast<std::byte*>(buffer), kReadPages * kPageSize};
  std::jthread listening([this] { Listen(); });
  std::jthread telling([this] { TellSource(); });
  const auto read = [this]() -> absl::Status {
    ASSIGN_OR_RETURN(const v1::OpenOfferResponse offer, parts_.source.open());
    heard_ = Clock::now();
    std::vector<SlotRange> left;
    missing_.ForEach([&](const auto& run) { left.push_back({run.first, run.count}); });
    ASSIGN_OR_RETURN(Offered offered,
                     Offered::Open(offer, left, arena_.size() / kPageSize, kReadPages));
    ASSIGN_OR_RETURN(const Endpoint endpoint, ParseEndpoint(offer.data_address()));
    ASSIGN_OR_RETURN(transport::Fabric* const fabric, parts_.fabric(offer.provider()));
    auto connection = fabric->Connect(endpoint.address, endpoint.port, offer.token(),
                                      Deadline::After(kConnectTimeout));
    if (!connection.ok()) return Again(connection.status());
    Session session{std::move(offered), *std::move(connection)};
    ASSIGN_OR_RETURN(region_, fabric->Register(buffer_, transport::Access::kLocal));
    return Read(session);
  };
  absl::Status status;
  while (true) {
    status = read();
    {
      std::unique_lock lock(mutex_);
      if (status.ok() || over_ || gone_ || stopping_) break;
    }
    if (Certain(status) || Clock::now() - heard_ > parts_.patience) break;
    spdlog::warn("pages of host {}: {}", parts_.source.name, status.ToString());
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kAgain, [this] { return over_ || gone_ || stopping_.load(); });
  }
  reading_over_ = true;
  {
    const std::lock_guard lock(mutex_);
    changed_.notify_all();
  }
  return status;
}

absl::Status PageFetch::Read(Session& session) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return absl::CancelledError("stopped");
    connection_ = session.connection.get();
  }
  struct Forget {
    PageFetch* fetch;
    ~Forget() {
      const std::lock_guard lock(fetch->mutex_);
      fetch->connection_ = nullptr;
    }
  } forget{this};
  RETURN_IF_ERROR(session.AskForGrants());
  FetchOrder& order = session.offered.order();
  for (const SlotRange& slots : asked_) order.Want(slots);
  int attempts = 0;
  while (true) {
    std::vector<size_t> group;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_ || over_ || gone_) return absl::CancelledError("nothing more is needed");
      for (const SlotRange& slots : wanted_) order.Want(slots);
      asked_.insert(asked_.end(), wanted_.begin(), wanted_.end());
      wanted_.clear();
      pages_left_ = order.pages_left();
      group = order.Next(kReadPages);
    }
    if (group.empty()) return absl::OkStatus();
    const uint64_t offset = order.piece(group.front()).offset;
    const FetchOrder::Piece& last = order.piece(group.back());
    const uint64_t bytes = last.offset + last.pages * kPageSize - offset;
    ASSIGN_OR_RETURN(const Granted where, session.offered.Locate(offset, bytes));
    if (const absl::Status read = session.connection->Read(
            *region_, 0, bytes, where.address, where.key, Deadline::After(kReadTimeout));
        !read.ok()) {
      return Again(read);
    }
    heard_ = Clock::now();
    std::vector<size_t> landed;
    std::vector<SlotRange> arrived;
    for (const size_t index : group) {
      const FetchOrder::Piece& piece = order.piece(index);
      const auto read = buffer_.subspan(piece.offset - offset, piece.pages * kPageSize);
      if (const absl::Status right = session.offered.Check(index, read); !right.ok()) {
        if (++attempts >= kMostAttempts) return right;
        spdlog::warn("pages of host {}: {}", parts_.source.name, right.ToString());
        continue;
      }
      std::memcpy(arena_.data() + piece.slot * kPageSize, read.data(), read.size());
      landed.push_back(index);
      arrived.push_back({piece.slot, piece.pages});
    }
    if (landed.size() == group.size()) attempts = 0;
    RETURN_IF_ERROR(parts_.keeper.arrived(arrived));
    for (const SlotRange& slots : arrived) {
      pages_read_ += slots.count;
      missing_.Erase(slots.first, slots.count);
    }
    order.Landed(landed);
  }
}

// What the component waits for, from its keeper.
void PageFetch::Listen() {
  while (!stopping_ && !reading_over_) {
    const absl::StatusOr<Keeper::Wanted> wanted = parts_.keeper.take_wanted(kTellEvery);
    if (!wanted.ok() && !absl::IsUnavailable(wanted.status())) {
      spdlog::warn("what the component waits for: {}", wanted.status().ToString());
      std::this_thread::sleep_for(kAgain);
      continue;
    }
    const std::lock_guard lock(mutex_);
    if (!wanted.ok()) {
      gone_ = true;
    } else {
      wanted_.insert(wanted_.end(), wanted->slots.begin(), wanted->slots.end());
      over_ = wanted->over;
    }
    if (!gone_ && !over_) continue;
    if (connection_ != nullptr) connection_->Shutdown();
    changed_.notify_all();
    return;
  }
}

void PageFetch::TellSource() {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, kTellEvery, [this] {
        return over_ || gone_ || stopping_.load() || reading_over_.load();
      });
      if (over_ || gone_ || stopping_ || reading_over_) return;
    }
    // Also where nothing has changed: so that the source keeps it.
    (void)parts_.source.drain(std::max<uint64_t>(1, pages_left_), "");
  }
}

}  // namespace starling::migration
