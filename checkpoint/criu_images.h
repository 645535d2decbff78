#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "checkpoint/page_stream.h"

// CRIU's image files that carry memory. An image is two 32-bit magic numbers (one for the kind of
// file, one for its content), then messages, each a 32-bit length and that many bytes of protobuf;
// all little-endian. A pagemap names the file that holds its pages, "pages-<pages_id>.img": the
// pages of its present entries one after another.

namespace starling::checkpoint {

// Flags of a pagemap entry, in images and in the page server's messages alike.
inline constexpr uint32_t kPageParent = 1;   // unchanged since the parent image
inline constexpr uint32_t kPageLazy = 2;     // may be restored on demand
inline constexpr uint32_t kPagePresent = 4;  // its bytes are in the pages file

struct PagemapEntry {
  uint64_t address = 0;
  uint64_t pages = 0;
  uint32_t flags = 0;
  friend bool operator==(const PagemapEntry&, const PagemapEntry&) = default;
};

struct Pagemap {
  uint32_t pages_id = 0;
  std::vector<PagemapEntry> entries;
};

// "pagemap-12.img", "pagemap-shmem-3.img", "pages-1.img".
std::string PagemapFileName(const AddressSpace& space);
std::string PagesFileName(uint32_t pages_id);

// The content of a pagemap file. Entries longer than 32 bits can count are split.
std::string EncodePagemap(const Pagemap& pagemap);

// The content of "inventory.img" in the folder of a parent's images, as a final dump wants it in
// order to believe that it has a parent. CRIU takes a process that began after the parent's uptime
// for another one with a reused pid, and sends all of it; this one says that none did, for a parent
// whose maker tells reused pids by itself.
std::string EncodeParentInventory();

// Errors: kDataLoss saying what is wrong, for anything that is not a whole, well-formed pagemap.
absl::StatusOr<Pagemap> DecodePagemap(absl::string_view bytes);

// What CRIU says of a dump in stats-dump.
struct DumpStats {
  Duration freezing{};  // until all tasks were stopped
  Duration frozen{};    // for how long they were
  Duration memory_dump{};
  Duration memory_write{};
  uint64_t pages_scanned = 0;
  uint64_t pages_unchanged = 0;
  uint64_t pages_written = 0;
};
absl::StatusOr<DumpStats> DecodeDumpStats(absl::string_view bytes);

// One mapping of a process, as its mm image tells it.
struct Vma {
  uint64_t start = 0;
  uint64_t end = 0;
  uint32_t flags = 0;   // MAP_*
  uint32_t status = 0;  // VMA_* of CRIU's criu/include/image.h
};
absl::StatusOr<std::vector<Vma>> DecodeMm(absl::string_view bytes);

}  // namespace starling::checkpoint
