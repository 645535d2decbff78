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
#include "checkpoint/arena.h"
#include "runtime/migration/fetch_order.h"
#include "runtime/migration/offer.h"
#include "runtime/names.h"
#include "transport/record_cipher.h"

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

// What one answer of the source gives.
class PageFetch::Session {
 public:
  static absl::StatusOr<Session> Open(const v1::OpenOfferResponse& offer,
                                      std::span<const SlotRange> missing, uint64_t arena_slots) {
    std::vector<FetchOrder::Piece> pieces;
    pieces.reserve(static_cast<size_t>(offer.pieces_size()));
    for (const v1::OfferedPiece& piece : offer.pieces()) {
      if (piece.pages() == 0 || piece.pages() > kReadPages || piece.offset() % kPageSize != 0 ||
          piece.slot() > arena_slots || piece.pages() > arena_slots - piece.slot()) {
        return absl::DataLossError("the source offers an impossible piece");
      }
      pieces.push_back({piece.slot(), piece.pages(), piece.offset()});
    }
    Session session(FetchOrder(std::move(pieces), missing));
    if (!session.order.complete()) {
      return absl::DataLossError("the source does not offer all that is missing");
    }
    session.offer = &offer;
    if (!offer.key().empty()) {
      transport::CipherKey key;
      if (offer.key().size() != key.size()) return absl::DataLossError("an impossible key");
      std::memcpy(key.data(), offer.key().data(), key.size());
      ASSIGN_OR_RETURN(session.cipher, transport::RecordCipher::Create(key));
    }
    return session;
  }

  // Where the peer has `bytes` bytes from `offset` on.
  absl::StatusOr<std::pair<uint64_t, uint32_t>> Locate(uint64_t offset, uint64_t bytes) const {
    for (const v1::ArenaChunk& region : offer->regions()) {
      if (offset < region.bytes()) {
        if (bytes > region.bytes() - offset) break;
        return std::pair(region.address() + offset, region.rkey());
      }
      offset -= region.bytes();
    }
    return absl::DataLossError("the source offers a piece outside of its memory");
  }

  // From `bytes` into the arena; kDataLoss if they are not what the source has.
  absl::Status Place(size_t index, std::span<std::byte> bytes, std::span<std::byte> arena) {
    const FetchOrder::Piece& piece = order.piece(index);
    const v1::OfferedPiece& offered = offer->pieces(static_cast<int>(index));
    if (cipher != nullptr) {
      transport::CipherTag tag;
      if (offered.tag().size() != tag.size()) return absl::DataLossError("an impossible tag");
      std::memcpy(tag.data(), offered.tag().data(), tag.size());
      RETURN_IF_ERROR(
          cipher->Open(transport::RecordCipher::Kind::kPages, index + 1, bytes, bytes, tag));
    } else if (checkpoint::HashPages(bytes) != offered.hash()) {
      return absl::DataLossError(
          absl::StrCat("the pages for slot ", piece.slot, " did not arrive as they were offered"));
    }
    std::memcpy(arena.data() + piece.slot * kPageSize, bytes.data(), bytes.size());
    return absl::OkStatus();
  }

  FetchOrder order;
  const v1::OpenOfferResponse* offer = nullptr;
  std::unique_ptr<transport::RecordCipher> cipher;
  std::unique_ptr<transport::Connection> connection;

 private:
  explicit Session(FetchOrder o) : order(std::move(o)) {}
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
    ASSIGN_OR_RETURN(Session session, Session::Open(offer, left, arena_.size() / kPageSize));
    ASSIGN_OR_RETURN(const Endpoint endpoint, ParseEndpoint(offer.data_address()));
    ASSIGN_OR_RETURN(transport::Fabric* const fabric, parts_.fabric(offer.provider()));
    auto connection = fabric->Connect(endpoint.address, endpoint.port, offer.token(),
                                      Deadline::After(kConnectTimeout));
    if (!connection.ok()) return Again(connection.status());
    session.connection = *std::move(connection);
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
  for (const SlotRange& slots : asked_) session.order.Want(slots);
  int attempts = 0;
  while (true) {
    std::vector<size_t> group;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_ || over_ || gone_) return absl::CancelledError("nothing more is needed");
      for (const SlotRange& slots : wanted_) session.order.Want(slots);
      asked_.insert(asked_.end(), wanted_.begin(), wanted_.end());
      wanted_.clear();
      pages_left_ = session.order.pages_left();
      group = session.order.Next(kReadPages);
    }
    if (group.empty()) return absl::OkStatus();
    const uint64_t offset = session.order.piece(group.front()).offset;
    const FetchOrder::Piece& last = session.order.piece(group.back());
    const uint64_t bytes = last.offset + last.pages * kPageSize - offset;
    ASSIGN_OR_RETURN(const auto where, session.Locate(offset, bytes));
    if (const absl::Status read = session.connection->Read(
            *region_, 0, bytes, where.first, where.second, Deadline::After(kReadTimeout));
        !read.ok()) {
      return Again(read);
    }
    heard_ = Clock::now();
    std::vector<size_t> landed;
    std::vector<SlotRange> arrived;
    for (const size_t index : group) {
      const FetchOrder::Piece& piece = session.order.piece(index);
      const absl::Status placed = session.Place(
          index, buffer_.subspan(piece.offset - offset, piece.pages * kPageSize), arena_);
      if (!placed.ok()) {
        if (++attempts >= kMostAttempts) return placed;
        spdlog::warn("pages of host {}: {}", parts_.source.name, placed.ToString());
        continue;
      }
      landed.push_back(index);
      arrived.push_back({piece.slot, piece.pages});
    }
    if (landed.size() == group.size()) attempts = 0;
    RETURN_IF_ERROR(parts_.keeper.arrived(arrived));
    for (const SlotRange& slots : arrived) {
      pages_read_ += slots.count;
      missing_.Erase(slots.first, slots.count);
    }
    session.order.Landed(landed);
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
