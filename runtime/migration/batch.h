#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/page_stream.h"

// The messages that accompany pages on the data connection, behind the RDMA WRITEs they speak of.
// docs/wire.md gives them to the byte. Little-endian; a reader refuses what it does not know.

namespace starling::migration {

// A batch speaks of at most this many runs, so that every message fits the receive buffers of the
// fabric.
inline constexpr size_t kMaxBatchRuns = 80;
// Batches that one answer refuses at most; a connection with more of them is given up.
inline constexpr size_t kMaxRefused = 256;

struct BatchRun {
  enum class Content : uint8_t {
    kBytes = 0,
    kZero = 1,  // reads as zeros: nothing was written
    kCopy = 2,  // the same as the pages from slot `from` on, which this batch wrote before
  };
  checkpoint::PageRun run;
  Content content = Content::kBytes;
  uint64_t slot = 0;  // first page of the arena that holds it, counted in pages
  uint64_t hash = 0;  // kBytes: XXH3-64 of the run's bytes
  uint64_t from = 0;  // kCopy

  friend bool operator==(const BatchRun&, const BatchRun&) = default;
};

// Where the bytes of a batch are.
enum class Encoding : uint8_t {
  kInPlace = 0,  // each run in its slots
  kRing = 1,     // one run after the other in a slot of the landing ring
  kRingLz4 = 2,  // the same as one LZ4 block
};

using SealTag = std::array<uint8_t, 16>;

// Source to target. With `answer` set the target answers once every batch up to and with this one
// was checked.
struct Batch {
  uint64_t sequence = 0;  // 1, 2, 3, ... on each connection
  bool answer = false;
  Encoding encoding = Encoding::kInPlace;
  uint32_t ring_slot = 0;     // kRing...: which, and how much of it
  uint32_t packed_bytes = 0;  // likewise
  SealTag tag{};              // of what is in the ring, where the stream is sealed
  std::vector<BatchRun> runs;
};

// Target to source.
struct Answer {
  uint64_t sequence = 0;          // every batch up to and with this one was checked
  std::vector<uint64_t> refused;  // which of those since the answer before did not come whole
  std::string error;              // of the first of them; at most 512 bytes
};

std::string EncodeBatch(const Batch& batch);
absl::StatusOr<Batch> DecodeBatch(absl::string_view bytes);

std::string EncodeAnswer(const Answer& answer);
absl::StatusOr<Answer> DecodeAnswer(absl::string_view bytes);

}  // namespace starling::migration
