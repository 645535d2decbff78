#include "runtime/migration/offer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/random.h"
#include "base/status.h"
#include "checkpoint/arena.h"
#include "checkpoint/lazy_index.h"

namespace starling::migration {

using checkpoint::AddressSpace;
using checkpoint::kPageSize;
using checkpoint::PageLane;
using checkpoint::PageRun;
using checkpoint::RunMap;
using checkpoint::SlotRun;

namespace {

constexpr uint64_t kBlockBytes = Offer::kBlockPages * kPageSize;
// So that no piece lies across two regions.
static_assert(Offer::kBlockPages % kPiecePages == 0);
// Binding a window takes a work request of our own side only.
constexpr auto kGrantTimeout = std::chrono::seconds(5);

}  // namespace

absl::StatusOr<std::unique_ptr<Offer>> Offer::Create(transport::Fabric& fabric, uint64_t bytes,
                                                     bool sealed) {
  bytes = std::max<uint64_t>(1, (bytes + kBlockBytes - 1) / kBlockBytes) * kBlockBytes;
  // Its pages are made now, not in the freeze.
  void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) {
    return ErrnoStatus(absl::StrCat("allocate ", bytes, " bytes for pages that stay behind"));
  }
  std::unique_ptr<Offer> offer(new Offer(fabric, {static_cast<std::byte*>(memory), bytes}, sealed));
  if (sealed) RETURN_IF_ERROR(FillRandom(std::as_writable_bytes(std::span(offer->key_))));
  const uint64_t most =
      std::max(kBlockBytes, fabric.max_region_bytes() / kBlockBytes * kBlockBytes);
  for (uint64_t at = 0; at < bytes; at += most) {
    ASSIGN_OR_RETURN(offer->regions_.emplace_back(),
                     fabric.Register(offer->memory_.subspan(at, std::min(most, bytes - at)),
                                     offer->windows_ ? transport::Access::kWindow
                                                     : transport::Access::kRemoteRead));
  }
  offer->readable_.resize(offer->regions_.size());
  return offer;
}

Offer::~Offer() {
  if (finishing_.joinable()) finishing_.join();
  readable_.clear();
  regions_.clear();
  ::munmap(memory_.data(), memory_.size());
}

std::span<std::byte> Offer::TakeBlock() {
  const std::lock_guard lock(mutex_);
  if ((taken_ + kBlockPages) * kPageSize > memory_.size()) return {};
  taken_ += kBlockPages;
  return memory_.subspan((taken_ - kBlockPages) * kPageSize, kBlockBytes);
}

void Offer::Add(const PageRun& run, std::span<const SlotRun> slots, const std::byte* bytes) {
  const std::lock_guard lock(mutex_);
  RunMap<Place>& pages = spaces_[run.space];
  const auto first = static_cast<uint64_t>(bytes - memory_.data()) / kPageSize;
  for (const SlotRun& piece : slots) {
    const uint64_t at = first + (piece.address - run.address) / kPageSize;
    pages.Assign(piece.address / kPageSize, piece.pages, {piece.slot, at});
  }
}

absl::Status Offer::SendNow(PageLane& lane, const PageRun& run, uint64_t at) {
  for (uint64_t done = 0; done < run.pages;) {
    ASSIGN_OR_RETURN(const std::span<std::byte> room, lane.Acquire(run.pages - done));
    std::memcpy(room.data(), memory_.data() + (at + done) * kPageSize, room.size());
    const uint64_t pages = room.size() / kPageSize;
    RETURN_IF_ERROR(lane.Put({run.space, run.address + done * kPageSize, pages}));
    done += pages;
  }
  return absl::OkStatus();
}

absl::Status Offer::SettleSpace(const AddressSpace& space, const std::string& images_dir,
                                PageLane& lane) {
  RunMap<Place>& pages = spaces_[space];
  const std::string path = absl::StrCat(images_dir, "/", checkpoint::MmFileName(space.id));
  ASSIGN_OR_RETURN(const std::string image, ReadFile(path));
  absl::StatusOr<std::vector<checkpoint::LazyMapping>> mappings = checkpoint::LazyMappings(image);
  if (!mappings.ok()) return Annotate(mappings.status(), path);
  RunMap<Place> kept;
  for (const checkpoint::LazyMapping& mapping : *mappings) {
    bool first = true;
    for (RunMap<Place>::Run& run : pages.Erase(mapping.first, mapping.count)) {
      // Its mapping is tried with it when it has been restored.
      if (std::exchange(first, false)) {
        RETURN_IF_ERROR(SendNow(lane, {space, run.first * kPageSize, 1}, run.value.at));
        run = {run.first + 1, run.count - 1, run.value.Plus(1)};
      }
      kept.Assign(run.first, run.count, run.value);
    }
  }
  absl::Status sent;
  pages.ForEach([&](const RunMap<Place>::Run& run) {
    if (!sent.ok()) return;
    sent = SendNow(lane, {space, run.first * kPageSize, run.count}, run.value.at);
  });
  pages = std::move(kept);
  return sent;
}

absl::Status Offer::Settle(const checkpoint::FinalList& list, const std::string& images_dir,
                           const ArenaSlots& slots, PageLane& lane) {
  // What came from CRIU came after it.
  for (const checkpoint::FinalList::Entry& entry : list.entries) {
    const auto space = spaces_.find(entry.run.space);
    if (space == spaces_.end() || entry.in_arena_before) continue;
    space->second.Erase(entry.run.address / kPageSize, entry.run.pages);
  }
  for (auto& [space, pages] : spaces_) {
    // What reads as zeros by now has lost its slot.
    std::vector<RunMap<Place>::Run> stale;
    pages.ForEach([&](const RunMap<Place>::Run& run) {
      uint64_t good = 0;
      for (const SlotRun& now : slots.Current({space, run.first * kPageSize, run.count})) {
        const uint64_t page = now.address / kPageSize;
        if (page != run.first + good) break;
        if (now.slot != run.value.Plus(good).slot) break;
        good += now.pages;
      }
      if (good < run.count) stale.push_back({run.first, run.count, run.value});
    });
    for (const auto& run : stale) {
      for (uint64_t i = 0; i < run.count; ++i) {
        const auto now = slots.Current({space, (run.first + i) * kPageSize, 1});
        if (now.empty() || now[0].slot != run.value.Plus(i).slot) pages.Erase(run.first + i, 1);
      }
    }
    if (!pages.empty()) RETURN_IF_ERROR(SettleSpace(space, images_dir, lane));
    pages_ += pages.key_count();
  }
  finishing_ = std::thread([this] { Finish(); });
  return absl::OkStatus();
}

std::vector<v1::OfferedRun> Offer::Runs() const {
  std::vector<v1::OfferedRun> runs;
  for (const auto& [space, pages] : spaces_) {
    pages.ForEach([&, id = space.id](const RunMap<Place>::Run& run) {
      v1::OfferedRun& to = runs.emplace_back();
      to.set_space(id);
      to.set_address(run.first * kPageSize);
      to.set_pages(run.count);
      to.set_slot(run.value.slot);
    });
  }
  return runs;
}

void Offer::Finish() {
  for (const auto& [space, pages] : spaces_) {
    pages.ForEach([&](const RunMap<Place>::Run& run) {
      for (uint64_t done = 0; done < run.count;) {
        const Place place = run.value.Plus(done);
        const uint64_t now = std::min(run.count - done, kPiecePages - place.at % kPiecePages);
        pieces_.push_back({place.slot, now, place.at, 0, {}});
        done += now;
      }
    });
  }
  std::sort(pieces_.begin(), pieces_.end(),
            [](const Piece& a, const Piece& b) { return a.at < b.at; });
  std::unique_ptr<transport::RecordCipher> cipher;
  if (sealed_) {
    auto made = transport::RecordCipher::Create(key_);
    finished_ = made.status();
    if (!finished_.ok()) return;
    cipher = *std::move(made);
  }
  uint64_t number = 0;
  for (Piece& piece : pieces_) {
    const auto bytes = memory_.subspan(piece.at * kPageSize, piece.pages * kPageSize);
    if (cipher == nullptr) {
      piece.hash = checkpoint::HashPages(bytes);
    } else {
      finished_ =
          cipher->Seal(transport::RecordCipher::Kind::kPages, ++number, bytes, bytes, piece.tag);
      if (!finished_.ok()) return;
    }
  }
}

absl::StatusOr<const transport::MemoryRegion*> Offer::Readable(size_t region) {
  if (!windows_) return regions_[region].get();
  const std::lock_guard lock(readable_mutex_);
  if (readable_[region] == nullptr) {
    ASSIGN_OR_RETURN(readable_[region],
                     fabric_.Register(regions_[region]->span(), transport::Access::kRemoteRead));
  }
  return readable_[region].get();
}

absl::StatusOr<Granted> Offer::Grant(transport::Connection& connection, size_t region) {
  if (windows_) {
    const absl::StatusOr<uint32_t> key = connection.Grant(
        *regions_[region], transport::Access::kRemoteRead, Deadline::After(kGrantTimeout));
    if (key.ok()) return Granted{regions_[region]->remote_address(), *key};
    // The connection's own end is no reason to do without.
    if (absl::IsUnavailable(key.status()) || absl::IsCancelled(key.status()) ||
        absl::IsDeadlineExceeded(key.status())) {
      return key.status();
    }
    spdlog::warn("pages that stayed behind are given by their region, without a window: {}",
                 key.status().ToString());
  }
  ASSIGN_OR_RETURN(const transport::MemoryRegion* const readable, Readable(region));
  return Granted{readable->remote_address(), readable->remote_key()};
}

absl::StatusOr<v1::OpenOfferResponse> Offer::Describe(bool by_connection) {
  const std::lock_guard lock(finish_mutex_);
  if (finishing_.joinable()) finishing_.join();
  RETURN_IF_ERROR(finished_);
  v1::OpenOfferResponse response;
  response.set_grant_by_connection(windows_ && by_connection);
  for (size_t i = 0; i < regions_.size(); ++i) {
    v1::ArenaChunk& to = *response.add_regions();
    to.set_bytes(regions_[i]->span().size());
    if (response.grant_by_connection()) continue;
    ASSIGN_OR_RETURN(const transport::MemoryRegion* const readable, Readable(i));
    to.set_address(readable->remote_address());
    to.set_rkey(readable->remote_key());
  }
  for (const Piece& piece : pieces_) {
    v1::OfferedPiece& to = *response.add_pieces();
    to.set_slot(piece.slot);
    to.set_pages(static_cast<uint32_t>(piece.pages));
    to.set_offset(piece.at * kPageSize);
    if (sealed_) {
      to.set_tag(piece.tag.data(), piece.tag.size());
    } else {
      to.set_hash(piece.hash);
    }
  }
  if (sealed_) response.set_key(key_.data(), key_.size());
  return response;
}

// One thread's way into the offer.
class OfferSink::Lane final : public PageLane {
 public:
  Lane(Offer& offer, ArenaSlots& slots, PageLane& beyond)
      : offer_(offer), slots_(slots), beyond_(beyond) {}

  absl::StatusOr<std::span<std::byte>> Acquire(size_t pages) override {
    if (room_.empty()) room_ = offer_.TakeBlock();
    offered_ = !room_.empty();
    if (!offered_) return beyond_.Acquire(pages);
    return room_.first(std::min(pages * kPageSize, room_.size()));
  }

  absl::Status Put(const PageRun& run) override { return PutAll({&run, 1}); }

  absl::Status PutAll(std::span<const PageRun> runs) override {
    if (!offered_) return beyond_.PutAll(runs);
    for (const PageRun& run : runs) {
      if (run.pages * kPageSize > room_.size()) {
        return absl::InternalError(
            absl::StrCat(run.pages, " pages were put that were not acquired"));
      }
      ASSIGN_OR_RETURN(const std::vector<SlotRun> placed, slots_.Assign(run));
      offer_.Add(run, placed, room_.data());
      room_ = room_.subspan(run.pages * kPageSize);
    }
    return absl::OkStatus();
  }

  void Discard() override {
    if (!offered_) beyond_.Discard();
  }

  absl::Status PutZero(const PageRun& run) override { return beyond_.PutZero(run); }

 private:
  Offer& offer_;
  ArenaSlots& slots_;
  PageLane& beyond_;
  std::span<std::byte> room_;
  bool offered_ = false;  // the span last acquired is the offer's
};

OfferSink::OfferSink(Offer& offer, ArenaSlots& slots, checkpoint::PageSink& sink)
    : sink_(sink), own_(std::make_unique<Lane>(offer, slots, sink)) {
  for (PageLane* const lane : sink.lanes()) {
    lanes_.push_back(made_.emplace_back(std::make_unique<Lane>(offer, slots, *lane)).get());
  }
}

OfferSink::~OfferSink() = default;

absl::StatusOr<std::span<std::byte>> OfferSink::Acquire(size_t pages) {
  return own_->Acquire(pages);
}
absl::Status OfferSink::Put(const PageRun& run) { return own_->Put(run); }
absl::Status OfferSink::PutAll(std::span<const PageRun> runs) { return own_->PutAll(runs); }
void OfferSink::Discard() { own_->Discard(); }
absl::Status OfferSink::PutZero(const PageRun& run) { return own_->PutZero(run); }

}  // namespace starling::migration
