#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/component_memory.h"
#include "checkpoint/page_stream.h"

namespace starling::checkpoint {

// Which pages of a capture went which way, each in order of address.
struct Captured {
  std::vector<PageRange> sent;  // as bytes
  std::vector<PageRange> zero;  // as zeros
  std::vector<PageRange> kept;  // not wanted; the sink was told nothing of them
  std::vector<PageRange> gone;  // not mapped any more; likewise
  Duration paced{};             // for how long each thread waited because of `pace`, on average
};

struct CaptureOptions {
  // Threads that read, at most as many as the sink has lanes; small captures take one.
  int threads = 1;
  // The process is frozen: a page that exists and cannot be read is an error.
  bool frozen = false;
  // Each of these may be null, and is called by one thread at a time.
  // A page that was read, before it is sent; false: it need not be.
  struct Read {
    uint64_t address = 0;
    std::span<const std::byte> bytes;
    uint64_t hash = 0;  // PageHashes::Of(bytes), with `hash`
  };
  std::function<bool(const Read& page)> wanted;
  bool hash = false;  // `wanted` is given each page's hash, taken outside of its turn
  // Bytes that went to the sink just now, and for how long that thread worked for them (not
  // counting what it waited for the sink). Returns how long it shall wait before it goes on.
  std::function<Duration(uint64_t bytes, Duration worked)> pace;
};

// Reads pages of a process from outside, straight into the sink's memory, in runs of adjacent
// pages. Errors: the sink's; those of ProcessMemory::Read(); kDataLoss naming the page of a frozen
// process that cannot be read. What was sent until then is not known.
absl::StatusOr<Captured> Capture(const ProcessMemory& memory, std::vector<PageRange> ranges,
                                 PageSink& sink, const CaptureOptions& options);

}  // namespace starling::checkpoint
