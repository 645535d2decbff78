#include <google/protobuf/stubs/logging.h>

#include "checkpoint/page_stream.h"
#include "runtime/migration/arena_slots.h"
#include "runtime/names.h"
#include "runtime/proto/starling.pb.h"
#include "runtime/spec.h"
#include "tests/fuzz/fuzz.h"

// Messages between agents: what passes our own checks keeps their promises, and a grant that a
// target makes up harms nobody but its own arena.

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

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // It complains of each string that is not UTF-8.
  [[maybe_unused]] static auto* const before = google::protobuf::SetLogHandler(nullptr);
  const int bytes = static_cast<int>(size);
  v1::ReserveRequest request;
  if (request.ParseFromArray(data, bytes)) Reserve(request);
  v1::ReserveResponse granted;
  if (granted.ParseFromArray(data, bytes)) Grant(granted);
  return 0;
}
