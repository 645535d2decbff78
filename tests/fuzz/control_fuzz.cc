#include <google/protobuf/stubs/logging.h>

#include "checkpoint/page_stream.h"
#include "runtime/migration/arena_slots.h"
#include "runtime/migration/offered.h"
#include "runtime/names.h"
#include "runtime/proto/starling.pb.h"
#include "runtime/spec.h"
#include "tests/fuzz/fuzz.h"

// Messages between agents: what passes our own checks keeps their promises, a grant that a target
// makes up harms nobody but its own arena, and an offer that a source makes up nobody but the
// component that it had.

using starling::fuzz::Require;
using namespace starling;

namespace {

void Reserve(const v1::ReserveRequest& request) {
  if (CheckMigrationId(request.migration_id()).ok())
    Require(request.migration_id().find_first_of("/.") == std::string::npos);
  if (CheckHostName(request.source_host()).ok()) {
    Require(!request.source_host().empty());
    Require(request.source_host().find('/') == std::string::npos);
  }
  if (CheckSpec(request.spec()).ok()) {
    Require(request.spec().name().find('/') == std::string::npos);
    for (const std::string& path : request.spec().ship()) Require(path.starts_with('/'));
    for (const std::string& path : request.spec().shared()) Require(path.starts_with('/'));
  }
  (void)ParseEndpoint(request.source_address());
}

void Grant(const v1::ReserveResponse& granted) {
  (void)ParseEndpoint(granted.data_address());
  migration::ArenaSlots slots([&](uint64_t) {
    return absl::StatusOr<std::vector<v1::ArenaChunk>>(std::vector<v1::ArenaChunk>());
  });
  for (const v1::ArenaChunk& chunk : granted.chunks()) {
    if (!slots.AddChunk(chunk).ok()) return;
  }
  const checkpoint::PageRun run = {{checkpoint::AddressSpace::Kind::kProcess, 1}, 0x10000, 24};
  const auto placed = slots.Assign(run);
  if (!placed.ok()) return;
  uint64_t pages = 0;
  for (const checkpoint::SlotRun& piece : *placed) {
    for (uint64_t done = 0; done < piece.pages;) {
      const auto at = slots.Locate(piece.slot + done, piece.pages - done);
      Require(at.ok() && at->pages > 0 && at->pages <= piece.pages - done);
      done += at->pages;
    }
    pages += piece.pages;
  }
  Require(pages == run.pages);
}

void Offer(const v1::OpenOfferResponse& offer) {
  constexpr uint64_t kArenaSlots = 1024, kMostPages = 32;
  const checkpoint::SlotRange missing[] = {{4, 20}};
  auto offered = migration::Offered::Open(offer, missing, kArenaSlots, kMostPages);
  if (!offered.ok()) return;
  while (const auto question = offered->Question()) {
    Require(question->chunks > 0 && question->chunks <= migration::kMaxGrantedChunks);
    migration::Grants grants;
    grants.first_chunk = question->first_chunk;
    grants.chunks.assign(question->chunks, {uint64_t{1} << 40, 7});
    Require(offered->TakeGrants(migration::EncodeGrants(grants)).ok());
  }
  std::vector<std::byte> buffer(kMostPages * checkpoint::kPageSize);
  migration::FetchOrder& order = offered->order();
  order.Want({5, 3});
  for (auto group = order.Next(kMostPages); !group.empty(); group = order.Next(kMostPages)) {
    const auto& last = order.piece(group.back());
    const uint64_t offset = order.piece(group.front()).offset;
    const uint64_t bytes = last.offset + last.pages * checkpoint::kPageSize - offset;
    Require(bytes <= buffer.size());
    (void)offered->Locate(offset, bytes);
    for (const size_t index : group) {
      const auto& piece = order.piece(index);
      Require(piece.slot + piece.pages <= kArenaSlots);
      const uint64_t at = piece.offset - offset, size = piece.pages * checkpoint::kPageSize;
      Require(at <= buffer.size() && size <= buffer.size() - at);
      (void)offered->Check(index, std::span(buffer).subspan(at, size));
    }
    const uint64_t left = order.pages_left();
    order.Landed(group);
    Require(order.pages_left() < left);
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // It complains of each string that is not UTF-8.
  [[maybe_unused]] static auto* const before = google::protobuf::SetLogHandler(nullptr);
  const int bytes = static_cast<int>(size);
  v1::ReserveRequest request;
  if (request.ParseFromArray(data, bytes)) Reserve(request);
  v1::ReserveResponse granted;
  if (granted.ParseFromArray(data, bytes)) Grant(granted);
  v1::OpenOfferResponse offer;
  if (offer.ParseFromArray(data, bytes)) Offer(offer);
  return 0;
}
