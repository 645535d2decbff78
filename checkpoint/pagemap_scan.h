#pragma once

#include <cstdint>

// PAGEMAP_SCAN (Linux 6.7, include/uapi/linux/fs.h), which the headers of older kernels lack.

namespace starling::checkpoint {

struct PageRegion {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};

struct PagemapScanArguments {
  uint64_t size = sizeof(PagemapScanArguments);
  uint64_t flags = 0;
  uint64_t start = 0;
  uint64_t end = 0;
  uint64_t walk_end = 0;  // written: where the walk ended
  uint64_t regions = 0;   // address of an array of PageRegion
  uint64_t region_count = 0;
  uint64_t max_pages = 0;
  uint64_t category_inverted = 0;
  uint64_t category_mask = 0;
  uint64_t category_any_of = 0;
  uint64_t return_mask = 0;
};
static_assert(sizeof(PagemapScanArguments) == 96);

inline constexpr unsigned long kPagemapScan = 0xc0606610;  // _IOWR('f', 16, struct pm_scan_arg)

inline constexpr uint64_t kScanProtectMatching = 1;
inline constexpr uint64_t kScanCheckAsync = 2;

inline constexpr uint64_t kPageWritten = 1 << 1;
inline constexpr uint64_t kPageFile = 1 << 2;
inline constexpr uint64_t kPageIsPresent = 1 << 3;
inline constexpr uint64_t kPageSwapped = 1 << 4;
inline constexpr uint64_t kPageSoftDirty = 1 << 7;

}  // namespace starling::checkpoint
